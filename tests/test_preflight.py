"""Real processes that cannot begin together say why, all with one exit code."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence

import pytest
from PIL import Image

from cnn_arch import cluster, preflight
from cnn_arch.data import scenes
from cnn_arch.errors import NOT_READY, USER_ERROR
from launch import local
from tests.shared import ROOT
from tests.test_eval_cli import make_run

SMALL = ['--config=configs/demo.py:lenet5', '--config.train.steps=20', '--config.train.log_every=5',
         '--config.eval.batch_size=60']  # fmt: skip


def start(
    processes: int,
    own_flags: dict[int, list[str]],
    own_environment: Mapping[int, dict[str, str]] = types.MappingProxyType({}),
    program: Sequence[str] = ('train.py', *SMALL),
    folders: Mapping[int, pathlib.Path] = types.MappingProxyType({}),
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of the processes that `own_flags` has, of a run of so many.

    Each runs in its folder of `folders`.
    """
    address = f'127.0.0.1:{local.free_port()}'
    started = []
    for number, flags in own_flags.items():
        change = local.environment(address, processes, number, 1)
        change |= own_environment.get(number, {})
        command = [sys.executable, ROOT / program[0], *program[1:], *flags]
        started.append(
            subprocess.Popen(command, cwd=folders.get(number, ROOT),
                             env=os.environ | change | {cluster.TIMEOUT: '40'},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )  # fmt: skip
    ends = []
    for process in started:
        out, err = process.communicate(timeout=240)
        ends.append((process.returncode, out, err))
    return ends


def check_all_say(ends: list[tuple[int, str, str]], expected: str) -> None:
    for code, _, err in ends:
        assert code == NOT_READY, err
        assert f'error: preflight: {expected}' in err
        assert 'Traceback' not in err


def test_one_worker_alone_says_so_within_a_minute(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.JOIN_SECONDS < 60
    workdir = tmp_path / 'run'
    change = local.environment(f'127.0.0.1:{local.free_port()}', 4, 0, 1)
    done = subprocess.run(
        [sys.executable, 'train.py', *SMALL, f'--workdir={workdir}'],
        cwd=ROOT, env=os.environ | change | {cluster.TIMEOUT: '1'}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == NOT_READY
    expected = '1 of 4 processes joined within 1 s; missing: process 1, process 2, process 3.'
    assert expected in done.stderr
    assert done.stderr.count('\n') == 1
    assert not workdir.exists()


def test_another_config_is_named(tmp_path: pathlib.Path) -> None:
    workdir = f'--workdir={tmp_path / "run"}'
    ends = start(2, {0: [workdir], 1: [workdir, '--config.optim.learning_rate=0.5']})
    check_all_say(ends, 'config: optim.learning_rate is ')
    assert 'on 1, but 0.5 on process 1 on ' in ends[0][2]
    assert not (tmp_path / 'run').exists()


def test_a_workdir_that_one_cannot_write_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'file').write_text('')
    bad = tmp_path / 'file' / 'run'
    ends = start(2, {0: [f'--workdir={tmp_path / "run"}'], 1: [f'--workdir={bad}']})
    check_all_say(ends, f'workdir: {bad} is not writable: Not a directory (process 1 on ')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_two_folders_of_one_name_are_told_apart(tmp_path: pathlib.Path) -> None:
    ends = start(2, {n: [f'--workdir={tmp_path / str(n)}'] for n in (0, 1)})
    check_all_say(ends, 'workdir: process 1 on ')


def test_data_that_one_cannot_read_is_named(tmp_path: pathlib.Path) -> None:
    """The same command, but the second process finds a file where its host's cache should be."""
    for split in ('train', 'eval'):
        folder = tmp_path / 'good' / 'cnn_arch' / f'digits_scenes_v{scenes.VERSION}' / split
        folder.mkdir(parents=True)
        Image.new('L', (32, 32)).save(folder / 'nine.png')
        (folder / 'labels.txt').write_text('nine.png 9\n')
    (tmp_path / 'bad').write_text('')
    flags = [f'--workdir={tmp_path / "run"}', '--config.data.source=digits_scenes']
    caches = {number: {'XDG_CACHE_HOME': str(tmp_path / name)}
              for number, name in enumerate(('good', 'bad'))}  # fmt: skip
    ends = start(2, {0: flags, 1: flags}, caches)
    check_all_say(ends, 'data: ')
    assert 'Not a directory' in ends[0][2]
    assert '(process 1 on ' in ends[0][2]


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tmp_path: pathlib.Path) -> None:
    """Files are written once; the numbers are those of a single process."""
    programs = {
        'train.py': [],
        'eval.py': [f'--predictions={tmp_path / "predictions.csv"}'],
    }
    results, lines = [], []
    for name, processes in (('two', 2), ('one', 1)):
        for program, flags in programs.items():
            done = subprocess.run(
                [sys.executable, 'launch/local.py', f'--processes={processes}', '--',
                 sys.executable, program, *SMALL, f'--workdir={tmp_path / name}', *flags],
                cwd=ROOT, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            if program == 'eval.py':
                lines.append([line for line in done.stdout.splitlines() if 'top-1 error' in line])
            if processes == 2:
                assert '2 processes on 1 host(s) joined' in done.stdout
                assert done.stdout.count('the same on all') >= 2
        results.append(json.loads((tmp_path / name / 'result.json').read_text()))
        assert len(list((tmp_path / name / 'tensorboard').glob('events.*'))) == 1
        losses = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
        assert [json.loads(line)['step'] for line in losses] == [5, 10, 15, 20, 20]
        assert not list((tmp_path / name).glob('.preflight*'))
    assert results[0]['top1_error'] == pytest.approx(results[1]['top1_error'], abs=0.3)
    assert [len(found) for found in lines] == [1, 1]
    assert len((tmp_path / 'predictions.csv').read_text().splitlines()) == 361


LENET = [f'--config={ROOT}/configs/lenet.py:lenet1', '--config.data.source=digits',
         '--config.eval.batch_size=120']  # fmt: skip
VGG = [f'--config={ROOT}/configs/demo.py:vgg_fixed', '--config.data.source=folder',
       '--config.model.num_classes=2', '--config.eval.batch_size=8']  # fmt: skip
HOST = socket.gethostname()


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`0/run` and `1/run`: runs of one name, at another step in each of two folders."""
    folder = tmp_path_factory.mktemp('runs')
    make_run(folder / '0' / 'run', LENET, 3)
    make_run(folder / '1' / 'run', LENET, 5)
    make_run(folder / '1' / 'other', LENET, 3)
    return folder


def check_line(ends: list[tuple[int, str, str]], line: str) -> None:
    """All say this alone, and print no number."""
    for code, out, err in ends:
        assert code == NOT_READY, err
        assert err == f'error: preflight: {line}\n'
        assert 'top-1' not in out


def test_another_network_under_the_same_name_is_named(runs) -> None:
    """A relative folder, which is another one where a process runs elsewhere."""
    flags = [f'--workdir={"run"}']
    folders = {n: runs / str(n) for n in (0, 1)}
    ends = start(2, {n: flags for n in (0, 1)}, program=('eval.py', *LENET), folders=folders)
    check_line(ends, f'networks: number 1: loaded is "step 3" on 1, but "step 5" on process 1 on '
                     f'{HOST}')  # fmt: skip
    assert not list(runs.glob('*/*/evaluations/*'))


ARGUMENTS = {
    '--step': ('--step=3', '--step=5', '--step is "3" on 1, but "5"'),
    '--protocol': ('--protocol=center', '--protocol=dense', '--protocol is "center" on 1, but "de'),
    '--with': ('--with=a', '--with=b', '--with is "a" on 1, but "b"'),
    '--predictions': ('--predictions=a', '--step=5', '--predictions is "a" on 1, but null'),
}


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=[pytest.mark.slow] if n != '--protocol' else []) for n in ARGUMENTS],
)
def test_another_argument_is_named(runs, name: str) -> None:
    one, two, expected = ARGUMENTS[name]
    run = f'--workdir={runs / "1" / "run"}'
    ends = start(2, {0: [run, one], 1: [run, two]}, program=('eval.py', *LENET))
    check_all_say(ends, f'arguments: {expected}')
    assert all(f'on process 1 on {HOST}' in err for _, _, err in ends)


@pytest.mark.slow
def test_members_that_differ_are_named(runs) -> None:
    flags = [f'--workdir={runs / "0" / "run"}', '--with=run']
    ends = start(2, {n: flags for n in (0, 1)}, program=('eval.py', *LENET),
                 folders={n: runs / str(n) for n in (0, 1)})  # fmt: skip
    check_line(ends, f'networks: number 2: loaded is "step 3" on 1, but "step 5" on process 1 on '
                     f'{HOST}')  # fmt: skip


@pytest.mark.slow
def test_what_a_run_starts_from_is_compared(runs, tmp_path: pathlib.Path) -> None:
    """Copies of `init_from` at one step, with other arrays."""
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        shutil.copytree(runs / str(number) / 'run', tmp_path / str(number) / 'copy')
    checkpoints = tmp_path / '1' / 'copy' / 'checkpoints'
    (checkpoints / '5').rename(checkpoints / '3')
    flags = [f'--workdir={tmp_path / "run"}', '--config.init_from=copy']
    ends = start(2, {n: flags for n in (0, 1)}, program=('train.py', *LENET),
                 folders={n: tmp_path / str(n) for n in (0, 1)})  # fmt: skip
    check_all_say(ends, 'start: init_from: arrays is "')
    assert all(err.count('\n') == 1 and f'on process 1 on {HOST}' in err for _, _, err in ends)
    assert not (tmp_path / 'run').exists()


def copies(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Two equal folders of pictures, as hosts have them that share nothing."""
    for number in (0, 1):
        for split, name, count in (('train', 'a', 3), ('train', 'b', 3), ('val', 'a', 4),
                                   ('val', 'b', 4)):  # fmt: skip
            place = folder / str(number) / 'data' / split / name
            place.mkdir(parents=True)
            for index in range(count):
                picture = Image.new('RGB', (60 + index, 60), (9 * index, 0, len(name)))
                picture.save(place / f'{index}.png')
    return {number: folder / str(number) for number in (0, 1)}


def one_less(data: pathlib.Path) -> str:
    (data / 'val' / 'b' / '3.png').unlink()
    return 'test set: complete is 8 on 1, but 7'


def another_class(data: pathlib.Path) -> str:
    path = data / 'val' / 'b' / '3.png'
    path.rename(data / 'val' / 'a' / '3b.png')
    return 'test set: names is "'


def another_picture(data: pathlib.Path) -> str:
    Image.new('RGB', (60, 60), (1, 2, 3)).save(data / 'val' / 'b' / '3.png')
    return 'test set: contents is "'


def training(data: pathlib.Path) -> str:
    (data / 'train' / 'b' / '2.png').unlink()
    return 'training set: complete is 6 on 1, but 5'


@pytest.mark.parametrize(
    ('program', 'change'),
    [
        ('eval.py', one_less),
        pytest.param('eval.py', another_class, marks=pytest.mark.slow),
        pytest.param('eval.py', another_picture, marks=pytest.mark.slow),
        pytest.param('train.py', one_less, marks=pytest.mark.slow),
        pytest.param('train.py', training, marks=pytest.mark.slow),
    ],
)
def test_copies_of_the_data_that_differ_are_named(tmp_path: pathlib.Path, program, change) -> None:
    words = [*VGG, '--config.data.dir=data', f'--workdir={tmp_path / "run"}']
    if program == 'eval.py':
        make_run(tmp_path / 'run', VGG, 5, names=('a', 'b'))
    folders = copies(tmp_path)
    expected = change(folders[1] / 'data')
    ends = start(2, {0: [], 1: []}, program=(program, *words), folders=folders)
    check_all_say(ends, f'data: {expected}')
    assert all(err.count('\n') == 1 and f'on process 1 on {HOST}' in err for _, _, err in ends)


def test_what_is_wrong_on_all_is_said_once_by_each(tmp_path: pathlib.Path) -> None:
    """The user's mistake, as one process says it."""
    ends = start(2, {n: [f'--workdir={tmp_path}'] for n in (0, 1)}, program=('eval.py', *LENET))
    for code, _, err in ends:
        assert code == USER_ERROR
        assert err == f'error: {tmp_path}: no config.json, so no run of train.py\n'


def finished(folder: pathlib.Path, step: int) -> pathlib.Path:
    """A folder of runs with the demo's `vgg_fixed`, and pictures of ten classes beside it."""
    make_run(folder / 'runs' / 'vgg_fixed', [f'--config={ROOT}/configs/demo.py:vgg_fixed'], step)
    (folder / 'runs' / 'vgg_fixed' / 'result.json').write_text('{}')
    (folder / 'data').mkdir()
    for label in range(10):
        picture = Image.new('RGB', (60, 60), (20 * label, 0, 255 - 20 * label))
        picture.save(folder / 'data' / f'{label}.png')
    lines = [f'{label}.png {label}\n' for label in range(10)]
    (folder / 'data' / 'labels.txt').write_text(''.join(lines))
    return folder


TABLE = ('eval.py', '--table=demo:3', '--rows=vgg_fixed', '--format=json', '--runs=runs',
         '--config.data.source=folder', '--config.data.dir=data',
         '--config.eval.batch_size=2')  # fmt: skip


def test_the_networks_of_a_table_are_compared(tmp_path: pathlib.Path) -> None:
    folders = {n: finished(tmp_path / str(n), step) for n, step in ((0, 3), (1, 5))}
    ends = start(2, {0: [], 1: []}, program=TABLE, folders=folders)
    check_all_say(ends, 'table: demo:3 vgg_fixed: 1: arrays is "')
    assert all(f'on process 1 on {HOST}\n' in err for _, _, err in ends)
    assert all(err.count('error:') == 1 for _, _, err in ends)
    assert not any(out for _, out, _ in ends)


@pytest.mark.slow
def test_two_processes_average_networks_as_one(runs, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / 'runs'
    shutil.copytree(runs, folder)
    program = ('eval.py', *LENET, f'--workdir={folder / "0" / "run"}',
               f'--with={folder / "1" / "run"}')  # fmt: skip
    two = start(2, {0: [], 1: []}, program=program)
    assert [code for code, _, _ in two] == [0, 0], two
    shutil.rmtree(folder / '0' / 'run' / 'evaluations')
    shutil.rmtree(folder / '1' / 'run' / 'evaluations')
    ((code, out, _),) = start(1, {0: []}, program=program)
    assert code == 0
    one = out.strip().splitlines()[-1]
    assert 'step 3 + step 5' in one
    assert one in two[0][1]
    assert 'top-1' not in two[1][1]


@pytest.mark.slow
def test_two_processes_fill_a_table_as_one(tmp_path: pathlib.Path) -> None:
    folders = dict.fromkeys((0, 1), finished(tmp_path, 3))
    two = start(2, {0: [], 1: []}, program=TABLE, folders=folders)
    assert [code for code, _, _ in two] == [0, 0], two
    printed = [[line for line in out.splitlines(keepends=True) if not line.startswith('[Gloo]')]
               for _, out, _ in two]  # fmt: skip
    assert printed[1] == []
    assert (tmp_path / 'runs' / 'table_demo_3.md').exists()
    (kept,) = (tmp_path / 'runs' / 'evaluations').iterdir()
    shutil.rmtree(kept)
    ((code, out, _),) = start(1, {0: []}, program=TABLE, folders=folders)
    assert code == 0
    mine, theirs = (json.loads(text)['rows'][0] for text in (out, ''.join(printed[0])))
    assert mine['images'] == 10
    assert theirs == mine


@pytest.mark.slow
def test_other_rows_of_a_table_are_named(tmp_path: pathlib.Path) -> None:
    flags = [f'--runs={tmp_path}']
    ends = start(2, {0: [*flags, '--rows=1'], 1: [*flags, '--rows=2']},
                 program=('eval.py', '--table=demo:3'))  # fmt: skip
    check_line(ends, f'arguments: --rows is "1" on 1, but "2" on process 1 on {HOST}')


def test_what_differs_is_named_with_where() -> None:
    facts = [
        {'host': f'host{n}', 'libraries': {'jax': '0.10.1' if n == 2 else '0.10.2', 'numpy': '2'}}
        for n in range(4)
    ]
    assert preflight._different('libraries', facts) == [
        'libraries: jax is "0.10.2" on 3, but "0.10.1" on process 2 on host2'
    ]


def test_code_is_told_apart_by_its_content(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, 'ROOT', tmp_path)
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / 'a.py').write_text('x = 1')
    before = preflight._hash(tmp_path / 'package')
    (tmp_path / 'package' / 'notes.txt').write_text('no code')
    assert preflight._hash(tmp_path / 'package') == before
    (tmp_path / 'package' / 'a.py').write_text('x = 2')
    assert preflight._hash(tmp_path / 'package') != before
