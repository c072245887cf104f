"""What a row of a table says of the network that fills it: the row's own, or another."""

import csv
import io
import json
import pathlib
import shutil

import ml_collections
import pytest

from cnn_arch import configuration
from cnn_arch.configuration import flatten
from cnn_arch.errors import UserError
from cnn_arch.evaluation import tables
from cnn_arch.evaluation.formats import DEPARTING, FORMATS
from cnn_arch.evaluation.tables import Filled, Line, Measured
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Finding, Paper, Row, Table
from cnn_arch.papers.released import AUTHORS, RELEASED
from cnn_arch.weights import departures, trained
from cnn_arch.weights.public import PUBLIC
from cnn_arch.weights.trained import Run, Weights
from tests.test_eval_cli import make_run


def rows_of(paper: str) -> dict[str, Row]:
    return {f'{number}/{row.name}': row
            for number, table in PAPERS[paper].tables.items() for row in table.rows}  # fmt: skip


def config_of(row: Row):
    path, variant = configuration.split(row.config)
    config = configuration.load(f'{configuration.CONFIGS.parent / path}:{variant}')
    tables.set_keys(config, {**row.overrides, 'eval.protocol': row.protocol})
    return config


def made(row: Row, **changed) -> dict:
    """The keys of a run of this row, as config.json has them."""
    config = config_of(row)
    tables.set_keys(config, {key.replace('__', '.'): value for key, value in changed.items()})
    return flatten(ml_collections.ConfigDict(json.loads(config.to_json_best_effort())))


# ---- public weights


def test_it_is_known_who_trained_all_public_weights() -> None:
    assert RELEASED.keys() >= PUBLIC.keys()


@pytest.mark.parametrize(
    ('paper', 'row', 'weights', 'said'),
    [
        ('vgg', '4/D-jitter', 'keras/vgg16', ''),
        ('vgg', '4/D-jitter', 'torchvision/vgg16', "of another recipe than the row's: torchvision"),
        ('resnet', '4/50', 'keras/resnet50', ''),
        ('densenet', '3/121-single-crop', 'torchvision/densenet121', ''),
        ('alexnet', '2/1-cnn', 'caffe/bvlc_alexnet', 'a replication: by BVLC'),
        ('googlenet', '3/1-144', 'caffe/bvlc_googlenet', 'a replication: by BVLC'),
        ('senet', '2/se_resnet50', 'timm/legacy_seresnet50.in1k', "than the row's: batch of 256"),
        ('senet', '2/se_resnet50', 'caffe/SE-ResNet-50', 'more epochs'),
        ('senet', 'authors/se_resnet50', 'timm/legacy_seresnet50.in1k', ''),
        ('senet', '4/senet154-224', 'caffe/SENet-154', ''),
        ('xception', '1/xception', 'keras/xception', ''),
        ('weights', 'torchvision/vgg16', 'torchvision/vgg16', ''),
        ('weights', 'torchvision/vgg16', 'timm/vgg16.tv_in1k', 'is about torchvision/vgg16'),
        ('weights', 'caffe/bvlc_alexnet', 'caffe/bvlc_alexnet', ''),
        ('resnet', '4/50', '', 'nothing is known of who trained own.h5'),
    ],
)
def test_public_weights(paper: str, row: str, weights: str, said: str) -> None:
    found = departures.of_weights(weights, 'own.h5', rows_of(paper)[row])
    assert bool(found) == bool(said)
    assert said in ''.join(found)


def test_rows_of_papers_say_which_of_their_weights_are_replications() -> None:
    """By hand: all but Caffe's two, and those for CIFAR, are of the authors."""
    replications = {
        name
        for paper in set(PAPERS) - {'weights'}
        for row in rows_of(paper).values()
        for name in row.weights
        if RELEASED[name].by != AUTHORS
    }
    cifar = {f'cifar/resnet{depth}' for depth in (20, 32, 44, 56, 110, 1202)}
    assert replications == {'caffe/bvlc_alexnet', 'caffe/bvlc_googlenet'} | cifar


# ---- runs


def test_a_run_of_the_rows_recipe_departs_in_nothing() -> None:
    for paper, name in (('alexnet', '2/1-cnn'), ('vgg', '3/D-jitter'), ('googlenet', '3/1-1'),
                        ('resnet', '4/152'), ('densenet', '3/121-10-crop'),
                        ('senet', '4/senet154-320'), ('xception', '1/xception'),
                        ('zfnet', '2/zfnet-2048'),
                        ('demo', '3/vgg_fixed'), ('demo', '4/vgg_jitter')):  # fmt: skip
        row = rows_of(paper)[name]
        assert departures.of_run(made(row), row, config_of(row)) == [], name


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({'optim__learning_rate': 0.02},
         'trained with optim.learning_rate = 0.02, the row has 0.01'),
        ({'train__steps': 100}, 'trained with train.steps = 100, the row has 0'),
        ({'train__epochs': 9.0}, 'trained with train.epochs = 9.0, the row has 74.0'),
        ({'loss__label_smoothing': 0.1}, 'loss.label_smoothing'),
        ({'data__augment__mirror': False}, 'data.augment.mirror = False, the row has True'),
        ({'schedule__patience': 1}, 'schedule.patience = 1'),
        ({'train__eval_every': 10}, 'train.eval_every = 10'),  # of a plateau, they decide
        ({'init_from': 'runs/other'}, "init_from = 'runs/other', the row has ''"),
        ({'data__train_split': 'train[:10%]'}, 'data.train_split'),
        ({'schedule__every': 3.0}, ''),  # nothing looks at these ...
        ({'loss__map_j': 3.0}, ''),
        ({'seed': 3}, ''),  # ... or they are no recipe
        ({'checkpoint__every': 3}, ''),
        ({'data__dir': '/data', 'data__threads': 8, 'eval__batch_size': 8}, ''),
        ({'eval__protocol': 'center'}, ''),
    ],
)  # fmt: skip
def test_what_a_run_has_otherwise_is_named(changed: dict, said: str) -> None:
    row = rows_of('vgg')['3/D-256']
    found = departures.of_run(made(row, **changed), row, config_of(row))
    assert (len(found), said in ''.join(found)) == (1 if said else 0, True)


def test_a_run_of_an_earlier_version_had_not_what_it_could_not_have() -> None:
    row = rows_of('densenet')['3/121-10-crop']
    earlier = made(row)
    for key in ('data.augment.colour_jitter', 'optim.freeze', 'train.eval_protocol'):
        del earlier[key]
    assert departures.of_run(earlier, row, config_of(row)) == [
        'trained with data.augment.colour_jitter = 0.0, the row has 0.4'
    ]


def test_a_papers_other_way_of_training_is_the_rows() -> None:
    """Section 3.1 of VGG: the net of S = 384 begins from that of 256, at a tenth of the rate."""
    row = rows_of('vgg')['3/D-384']
    begun = made(row, init_from='/elsewhere/vgg_D_256', optim__learning_rate=0.001)
    assert departures.of_run(begun, row, config_of(row)) == []
    begun = made(row, init_from='/elsewhere/vgg_D_256', optim__learning_rate=0.002)
    assert departures.of_run(begun, row, config_of(row)) == [
        'trained with optim.learning_rate = 0.002, the row has 0.001'
    ]


def test_all_rows_of_a_run_know_the_papers_ways_to_train_it() -> None:
    """Whoever quotes it: the ResNet and Xception papers test VGG's networks, too."""
    rows = [row for name in set(PAPERS) - {'weights'} for row in rows_of(name).values()]
    for run in ('vgg_D_jitter', 'vgg_E_jitter'):
        ways = [row.alternatives for row in rows if row.run == run]
        assert len(ways) > 4
        assert all(way == ways[0] and way for way in ways)
    row = rows_of('resnet')['3/vgg-16']
    begun = made(row, init_from='runs/vgg_D_384', optim__learning_rate=0.001)
    assert departures.of_run(begun, row, config_of(row)) == []


@pytest.mark.parametrize(
    ('paper', 'name', 'about'),
    [('senet', 'authors/se_resnet50', 'caffe/SE-ResNet-50 or timm'),
     ('weights', 'matconvnet/resnet-50', 'caffe/ResNet-50 or keras')],
)  # fmt: skip
def test_rows_about_public_weights_are_about_no_run(paper: str, name: str, about: str) -> None:
    """SENet's authors released networks of another recipe than the paper's and its config's."""
    row = rows_of(paper)[name]
    (said,) = departures.of_run(made(row), row, config_of(row))
    assert said.startswith(f'the row is about {about}')


# ---- members of ensembles

CONFIG = 'configs/lenet.py:lenet1'
WORDS = [f'--config={CONFIG}', '--config.data.source=digits']


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Finished runs: net_1 and net_2 of their own seeds, and net_3 of other arrays, but net_1's."""
    folder = tmp_path_factory.mktemp('runs')
    for number, seed in ((1, 1), (2, 2), (3, 1)):
        run = folder / f'net_{number}'
        make_run(run, [*WORDS, f'--config.seed={seed}'], number)
        (run / 'result.json').write_text('{}')
    return folder


def member(number: int) -> Row:
    return Row(f'net_{number}', None, None, CONFIG, {'seed': number}, 'center')


def filled(find, members: tuple[Row, ...], tmp_path: pathlib.Path) -> Line:
    row = Row('all', 2.0, 1.0, members=members)
    runner = tables.Runner(find, [('data.source', 'digits')], tmp_path)
    (line,) = runner.fill('nobody:1', Table('Nobody', 'Nets', (row,))).lines
    return line


def test_one_network_does_not_fill_an_ensemble(runs: pathlib.Path, tmp_path) -> None:
    find = trained.finder(None, [runs / 'net_1'])
    line = filled(find, tuple(member(n) for n in (1, 2, 3)), tmp_path)
    assert line.measured is None
    assert line.missing.startswith(
        'needs 3 networks, 1 found: run net_1, trained on digits; missing members: net_2, net_3 ('
    )
    assert f'{runs / "net_1"} holds the same arrays as {runs / "net_1"}' in line.missing
    assert '\n' not in line.missing


def test_a_copy_elsewhere_is_the_same_network(runs: pathlib.Path, tmp_path) -> None:
    copy = shutil.copytree(runs / 'net_1', tmp_path / 'copy')
    line = filled(trained.finder(None, [runs / 'net_1', copy]), (member(1), member(2)), tmp_path)
    assert 'needs 2 networks, 1 found' in line.missing
    assert f'{copy} holds the same arrays as' in line.missing


def test_members_of_one_seed_are_one_network(runs: pathlib.Path, tmp_path) -> None:
    line = filled(trained.finder(runs, []), (member(1), member(3)), tmp_path)
    assert 'needs 2 networks, 1 found' in line.missing
    assert 'net_3 was trained as' in line.missing
    assert 'from the same seed: another member takes another --config.seed' in line.missing


def test_the_same_weights_twice_are_a_mistake(runs: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r'--weights names .*net_1 twice'):
        trained.finder(None, [runs / 'net_1', runs / 'net_2' / '..' / 'net_1'])


def test_each_member_takes_a_network_of_its_own(runs: pathlib.Path) -> None:
    find, config = trained.finder(None, [runs / 'net_1', runs / 'net_2']), config_of(member(1))
    one = find(member(1), config, [])
    two = find(member(2), config, [one])
    assert (one.folder.name, two.folder.name) == ('net_1', 'net_2')


def test_a_network_that_departs_in_nothing_comes_first(runs: pathlib.Path) -> None:
    """net_4 is the row's, net_1 has another rate."""
    row = Row('net_4', None, None, CONFIG, {'optim.learning_rate': 0.5}, 'center')
    run = runs / 'net_4'
    make_run(run, [*WORDS, '--config.optim.learning_rate=0.5'], 4)
    (run / 'result.json').write_text('{}')
    folders = [runs / 'net_1', runs / 'net_2', run]
    assert trained.finder(None, folders)(row, config_of(row), []).folder == run
    assert trained.finder(None, folders[:2])(row, config_of(row), []).folder == folders[0]


# ---- in print


def line_of(name: str, error: float, network: str, *found: str) -> Line:
    row = Row(name, 20.0 if name == 'a' else 18.0, 5.0, columns={'net': name})
    measured = Measured(error, 4.0, 50_000, 50_000, 'center at 256')
    return Line(row, measured, '', network, tuple(found))


@pytest.mark.parametrize('kind', FORMATS)
def test_every_format_says_whose_network_it_is(kind: str, monkeypatch) -> None:
    """And prints no difference, and concludes nothing, where it is not the paper's."""
    lines = (
        line_of('a', 21.0, 'run a'),
        line_of('b', 19.0, 'keras/b, a replication', 'keras/b is a replication: by X'),
    )
    table = Table('Nobody 2026', 'Nets', tuple(line.row for line in lines))
    found = (Filled('nobody:1', table, lines),)
    finding = Finding('b is better', 'section 1', (('', '1/a', '1/b'),))
    monkeypatch.setitem(PAPERS, 'nobody', Paper({'1': table}, (finding,)))
    text = FORMATS[kind](found, tables.verdicts('nobody', found))
    assert 'keras/b, a replication' in text
    assert 'keras/b is a replication: by X' in text
    assert '+1.00' in text or '1.0' in text
    if kind == 'json':
        rows = json.loads(text)['rows']
        assert [row['top1_difference'] for row in rows] == [1.0, None]
        assert json.loads(text)['findings'][0]['pairs'][0]['holds'] is None
        assert json.loads(text)['findings'][0]['pairs'][0]['departing'] == ['b']
    elif kind == 'csv':
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row['top1_difference'] for row in rows] == ['1.0', '']
        assert [row['network'] for row in rows] == ['run a', 'keras/b, a replication']
    else:
        assert f'keras/b, a replication {DEPARTING}' in text
        assert f'not judged, b {DEPARTING}' in text
        assert ': holds' not in text
        (line,) = [line for line in text.splitlines() if '19.00' in line and '->' not in line]
        assert '+1.00' not in line


def test_a_run_is_called_by_its_folder() -> None:
    row = rows_of('vgg')['3/D-256']
    run = Run(pathlib.Path('runs/vgg_D_256'), 5, made(row, data__source='folder'))
    assert run.described(config_of(row)) == 'run vgg_D_256, trained on folder'
    weights = Weights(pathlib.Path('w'), {'known_as': '', 'source': 'keras', 'file': 'own.h5'})
    assert weights.described(config_of(row)) == 'keras own.h5, of unknown origin'
