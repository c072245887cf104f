"""`eval.py --table`: paper, ours and difference in four formats; nothing measured twice.

The table is a made-up paper's, of narrow networks with random weights over six pictures of ILSVRC.
"""

import csv
import io
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

import eval as eval_command
from cnn_arch import configuration, models
from cnn_arch.data import sources
from cnn_arch.errors import UserError
from cnn_arch.evaluation import formats, tables
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.store import Store
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Finding, Paper, Row, Table, cited
from tests import test_eval_cli
from tests.evaluation.common import Pictures, config_file, mesh_of, random_variables

CLASSES = {'n01440764': 0, 'n01443537': 1, 'n02119789': 278}


def biased(model, size, channels=3, seed=0):
    """Variables of a network that believes in the three classes of the pictures."""
    variables = random_variables(model, size, channels, seed)
    variables['params']['fc8']['bias'][list(CLASSES.values())] += 12
    return variables


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pathlib.Path, Paper]]:
    """A folder of two finished runs and a folder of pictures, and a paper with a table of them."""
    folder = tmp_path_factory.mktemp('tables')
    for number, name in enumerate(CLASSES):
        (folder / 'data' / 'val' / name).mkdir(parents=True)
        for example in Pictures([(50, 60), (70, 45)], seed=number).examples:
            file = folder / 'data' / 'val' / name / f'{example.key}.JPEG'
            file.write_bytes(example.image)
    config = config_file(folder, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_eval_cli, 'random_variables', biased)
        for number, name in enumerate(('first', 'second')):
            words = [f'--config={config}', f'--config.seed={number}']
            test_eval_cli.make_run(folder / 'runs' / name, words, number)
            (folder / 'runs' / name / 'result.json').write_text('{}')

    def row(name: str, run: str, protocol: str, paper: tuple[float, float], **more) -> Row:
        return Row(name, *paper, config, {}, protocol, run, columns={'net': name}, **more)

    first = row('one', 'first', 'center', (30.0, 10.0))
    rows = (
        first,
        row('ten', 'first', 'ten_crop', (29.25, 9.5)),
        Row('both', 25.0, None, members=(first, row('', 'second', 'center', (1, 1))),
            columns={'net': 'two nets'}),
        row('absent', 'third', 'center', (20.0, 5.0), weights=('keras/vgg16',)),
        cited('other', 11.1, None, columns={'net': 'of | others'}),
    )  # fmt: skip
    finding = Finding('Two beat one', 'section 4', (('of two', '1/one', '1/both'),))
    paper = Paper({'1': Table('Nobody 2026, table 1', 'Nets', rows)}, (finding,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PAPERS, 'nobody', paper)
        yield folder, paper


@pytest.fixture
def table(made, capsys) -> Callable[..., str]:
    """What the command prints."""

    def run(*words: str) -> str:
        folder, _ = made
        capsys.readouterr()
        argv = ['--table=nobody:1', f'--runs={folder / "runs"}',
                f'--config.data.dir={folder / "data"}', *words]  # fmt: skip
        assert eval_command.main(argv) == 0
        return capsys.readouterr().out

    return run


def alone(made, capsys, run: str, protocol: str) -> tuple[float, float]:
    """Top-1 and top-5 error as `eval.py --workdir` prints them."""
    folder, _ = made
    argv = [f'--config={folder}/small.py:narrow', f'--workdir={folder / "runs" / run}',
            f'--protocol={protocol}', f'--config.data.dir={folder / "data"}']  # fmt: skip
    assert eval_command.main(argv) == 0
    line = capsys.readouterr().out
    return tuple(map(float, re.search(r'top-1 error (\S+) %  top-5 error (\S+) %', line).groups()))


def test_rows(made, table, capsys) -> None:
    rows = {row['row']: row for row in json.loads(table('--format=json'))['rows']}
    assert list(rows) == ['one', 'ten', 'both', 'absent', 'other']
    for name, protocol in (('one', 'center'), ('ten', 'ten_crop')):
        row, (top1, top5) = rows[name], alone(made, capsys, 'first', protocol)
        assert (row['top1_error'], row['top5_error']) == pytest.approx((top1, top5), abs=0.005)
        assert row['protocol'] == f'{protocol} at 40'
        for kind in ('top1', 'top5'):
            difference = row[f'{kind}_error'] - row[f'paper_{kind}_error']
            assert row[f'{kind}_difference'] == pytest.approx(difference, abs=0.006)
        assert 0 < top1 < 100
    for name in ('one', 'ten', 'both'):
        assert (rows[name]['images'], rows[name]['complete']) == (6, 50_000)
        assert rows[name]['missing'] is None
        environment = rows[name]['environment']
        assert environment['evaluation'] == 'float32, products in float32'
        assert environment['versions']['jax'] == jax.__version__
        assert rows[name]['ties'] is None
    assert rows['absent']['environment'] is None
    assert rows['both']['protocol'] == 'center, 2 networks'
    assert rows['both']['top5_difference'] is None  # the paper prints none


def test_an_ensemble_averages_what_its_members_said(made, table, tmp_path) -> None:
    config = configuration.load(f'{made[0]}/small.py:narrow')
    config.data.dir = str(made[0] / 'data')
    model, source = models.build(config.model), sources.open_for(config, 'eval')
    said = []
    for seed in range(2):
        store = Store(tmp_path / str(seed), len(source), 1000)
        evaluate(model, biased(model, 32, seed=seed), source, config, mesh_of(8), store=store)
        said.append(np.asarray(store.posteriors))
    assert (said[0].argmax(axis=1) != said[1].argmax(axis=1)).any()
    best = np.argsort(-(said[0] + said[1]), axis=1)[:, :5]
    wrong = best != np.repeat(list(CLASSES.values()), 2)[:, None]
    (row,) = json.loads(table('--rows=both', '--format=json'))['rows']
    assert row['top1_error'] == pytest.approx(100 * wrong[:, 0].mean(), abs=1e-3)
    assert row['top5_error'] == pytest.approx(100 * wrong.all(axis=1).mean(), abs=1e-3)


def test_no_network_is_run_twice(made, table, monkeypatch) -> None:
    """Not in a second call, and not for an ensemble whose member has a row of its own."""
    folder, _ = made
    shutil.rmtree(folder / 'runs' / 'evaluations', ignore_errors=True)
    calls: list[tuple] = []
    monkeypatch.setattr(tables, 'evaluate', lambda *a, **k: calls.append(a) or evaluate(*a, **k))
    first = table()
    assert len(calls) == 3  # first with two protocols, second with one
    monkeypatch.setattr(networks, 'add_windows', None)
    assert table() == first
    assert len(calls) == 3
    with pytest.raises(TypeError):  # other pictures' scale is another measurement
        table('--config.eval.scale=44')


FORMATS = ('terminal', 'markdown', 'csv', 'json')


@pytest.mark.parametrize('kind', FORMATS)
def test_incomplete_splits_are_marked_in_every_format(table, kind: str) -> None:
    text = table(f'--format={kind}')
    lines = text.splitlines()
    if kind == 'csv':
        marks = [row['incomplete'] for row in csv.DictReader(io.StringIO(text))]
    elif kind == 'json':
        marks = [row['incomplete'] or '' for row in json.loads(text)['rows']]
        assert json.loads(text)['findings'][0]['pairs'][0]['incomplete'] == 'n = 6 of 50,000'
    else:
        marks = [
            'n = 6 of 50,000' if 'n = 6 of 50,000' in line else ''
            for line in lines
            if 'center' in line or 'ten_crop' in line or 'others' in line
            if 'train.py' not in line and 'quoted' not in line
        ]
        assert re.search(r'of two +paper 30\.00 -> 25\.00 .*\(n = 6 of 50,000\): ', text)
    assert marks == ['n = 6 of 50,000'] * 3 + ['', '']


@pytest.mark.parametrize('kind', FORMATS)
def test_rows_that_cannot_run_say_what_is_missing(made, table, kind: str) -> None:
    text = table(f'--format={kind}')
    folder = made[0] / 'runs' / 'third'
    for part in (
        f'no folder {folder}',
        'public weights are keras/vgg16',
        f'python train.py --config={made[0]}/small.py:narrow makes it',
        'quoted by the paper, not a network of this project',
    ):
        assert part in text


def test_a_test_that_is_not_the_rows_is_named(table) -> None:
    """And no difference printed, nor a finding judged."""
    answer = json.loads(table('--format=json', '--rows=one,both', '--config.eval.scale=44'))
    for row in answer['rows']:
        assert 'tested with eval.scale = 44, the row has 40' in ' '.join(row['departures'])
        assert row['top1_difference'] is None
        assert row['network'].startswith('run first')
    assert answer['findings'][0]['pairs'][0]['holds'] is None


@pytest.mark.parametrize(
    ('word', 'why'),
    [('--config.eval.scales=44,48', 'center tests at one scale'),
     ('--config.optim.learning_rate=0.1', 'acts in training alone'),
     ('--config.seed=4', 'acts in training alone')],
)  # fmt: skip
def test_keys_that_no_rows_test_looks_at_are_refused(table, word: str, why: str) -> None:
    with pytest.raises(UserError, match=f'{word} has no effect: .*{why}'):
        table(word)


def test_markdown_is_a_table(table) -> None:
    lines = [line for line in table('--format=markdown').splitlines() if line.startswith('|')]
    assert len(lines) == 7
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in lines} == {11}
    assert r'| of \| others | 11.1 | - | - | - | - | - | - | - | - |' in lines


def test_out_is_written_in_the_format_of_its_suffix(table, tmp_path: pathlib.Path) -> None:
    for suffix, kind in (('.md', 'markdown'), ('.csv', 'csv'), ('.json', 'json')):
        path = tmp_path / f'table{suffix}'
        printed = table(f'--format={kind}', f'--out={path}')
        assert path.read_text() == printed


class TestErrors:
    def refuse(self, made, match: str, *words: str) -> None:
        argv = [*words, f'--runs={made[0] / "runs"}', f'--config.data.dir={made[0] / "data"}']
        with pytest.raises(UserError, match=match):
            eval_command.main(argv)

    def test_names(self, made) -> None:
        self.refuse(made, r"no results of 'vggg'; there are alexnet, zfnet, vgg", '--table=vggg')
        self.refuse(made, r'vgg has vgg:3, vgg:4, vgg:5, vgg:6, vgg:7', '--table=vgg:2')
        self.refuse(
            made, r"no row 'six'; rows are nobody:1: one, ten, both", '--table=nobody', '--rows=six'
        )

    def test_places(self, made, tmp_path) -> None:
        with pytest.raises(UserError, match='no such folder'):
            eval_command.main(['--table=nobody', f'--runs={tmp_path / "none"}'])
        with pytest.raises(UserError, match='no folder'):
            eval_command.main(['--table=nobody', f'--weights={tmp_path / "none"}'])
        out = f'--out={tmp_path / "none" / "t.md"}'
        self.refuse(made, 'cannot be written', '--table=nobody', out)


def test_without_runs_or_weights_every_row_says_so(made, capsys) -> None:
    assert eval_command.main(['--table=nobody', '--rows=one', '--format=csv']) == 0
    assert 'not run: give --runs=DIR with their runs, or --weights=DIR' in capsys.readouterr().out


def test_the_network_must_be_that_of_the_row(made, capsys, tmp_path) -> None:
    """A folder given with --weights whose training differs from the row's is not taken for it."""
    folder, paper = made
    row = Row('jitter', 25.0, 8.0, paper.tables['1'].rows[0].config,
              {'data.augment.scale_max': 80}, 'center', 'jittered')  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PAPERS, 'nobody', Paper({'1': Table('Nobody', 'Nets', (row,))}))
        argv = ['--table=nobody', f'--weights={folder / "runs" / "first"}', '--format=csv',
                f'--config.data.dir={folder / "data"}']  # fmt: skip
        assert eval_command.main(argv) == 0
    out = capsys.readouterr().out
    assert 'was trained with data.augment.scale_max = 72, not 80' in out
    assert 'python train.py' in out
    assert '--config.data.augment.scale_max=80 makes it' in out


def test_a_paper_that_prints_differences_only() -> None:
    """Krizhevsky et al. print by how much two GPUs, normalisation and overlap lower the errors."""
    table = PAPERS['alexnet'].tables['sections']
    errors = {'two_tower': 40.0, 'one_gpu': 42.0, 'without_lrn': 39.5}

    def line(row: Row) -> tables.Line:
        if row.name not in errors:
            return tables.Line(row, None, 'not here')
        measured = tables.Measured(errors[row.name], 18.0, 50_000, 50_000, 'ten_crop at 256')
        return tables.Line(row, measured)

    filled = [tables.Filled('alexnet:sections', table, tuple(map(line, table.rows)))]
    found = tables.verdicts('alexnet', filled)
    ((_, (one_gpu, without_lrn)),) = found
    assert (one_gpu.difference, one_gpu.ours, one_gpu.holds) == (1.7, (42.0, 40.0), True)
    assert (without_lrn.difference, without_lrn.holds) == (1.4, False)
    text = formats.terminal(filled, found)
    assert 'paper lower by 1.7  ours 42.00 -> 40.00: holds' in text
    assert 'paper lower by 1.4  ours 39.50 -> 40.00: does not hold' in text
    pair = json.loads(formats.json_text(filled, found))['findings'][0]['pairs'][0]
    assert (pair['paper'], pair['paper_difference']) == (None, 1.7)
