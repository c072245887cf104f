"""Starts of train.py and eval.py that cannot be: one line, exit code 2, nothing written."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import eval as eval_command
from cnn_arch import arguments, commands, configuration
from cnn_arch.errors import UserError
from cnn_arch.training import checkpoint, manifest, workdir
from cnn_arch.weights import trained
from launch import plan
from tests.shared import ROOT
from tests.test_eval_cli import make_run

LENET = ['--config=configs/demo.py:lenet5']
RUN, NONE = '--workdir=run', ''
DEEP = '[' * 100_000


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of LeNet-5, its checkpoint of step 3."""
    folder = tmp_path_factory.mktemp('starts') / 'run'
    make_run(folder, LENET, 3)
    return folder


@pytest.fixture
def said(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one line that a command says, which runs beside a copy of the run."""
    shutil.copytree(run, tmp_path / 'run')

    def execute(main: Callable[[list[str]], int | None], argv: Sequence[str]) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
        words = [word.replace('=run', f'={tmp_path / "run"}') for word in argv]
        with pytest.raises(SystemExit) as ended:
            commands.run(main, words)
        error = capsys.readouterr().err
        assert ended.value.code == 2, error
        assert error.startswith('error: ')
        assert error.count('\n') == 1, error
        assert len(error) < 1000
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before
        return error

    return execute


# What follows the configuration on eval.py's command line, and a part of the line that comes of it.
COMMANDS: list[tuple[list[str], str]] = [
    (['--workdir='], '--workdir=: the value is empty'),
    (['--weights='], '--weights=: the value is empty'),
    (['--workdir', ''], 'an argument: the value is empty'),
    ([RUN, '--predictions='], '--predictions=: the value is empty'),
    ([], 'one of the arguments --workdir --weights is required: see '),
    ([RUN, '--weights=x'], 'argument --weights: not allowed with argument --workdir: see '),
    ([RUN, '--step=abc'], "argument --step: invalid int value: 'abc': see "),
    ([RUN, f'--step={10**30}'], 'no checkpoint of step 1000'),
    ([RUN, '--nonsense=1'], 'unrecognized arguments: --nonsense=1: see '),
    ([RUN, '--with=,'], '--with=,: a name between the commas is empty'),
    ([RUN, '--with=a,,b'], '--with=a,,b: a name between the commas is empty'),
    ([RUN, '--with=a,b'], 'no folder a'),
    ([RUN, f'--config.seed={10**19}'], f'seed = {10**19}: it must be'),
    ([RUN, '--table'], 'argument --table: expected one argument: see '),
]


@pytest.mark.parametrize(('words', 'expected'), COMMANDS, ids=lambda value: str(value)[:40])
def test_command_lines(said, words: list[str], expected: str) -> None:
    assert expected in said(eval_command.main, [*LENET, *words])


def test_the_others_say_one_line_too(said) -> None:
    assert 'required: --config: see ' in said(plan.main, [])


def put(folder: pathlib.Path, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)


def key(name: str, value: Any) -> Callable[[pathlib.Path], None]:
    """Changes one key of config.json."""

    def change(folder: pathlib.Path) -> None:
        values = json.loads((folder / 'config.json').read_text())
        node = values
        *parents, leaf = name.split('.')
        for part in parents:
            node = node[part]
        node[leaf] = value
        put(folder, 'config.json', json.dumps(values))

    return change


def config(content: str | bytes) -> Callable[[pathlib.Path], None]:
    return lambda folder: put(folder, 'config.json', content)


def listed(content: str) -> Callable[[pathlib.Path], None]:
    return lambda folder: put(folder, 'checkpoints/3/manifest.json', content)


FILES: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    'a list': (config('[1, 2]'), 'config.json: expected an object of JSON'),
    'a number': (config('3'), 'config.json: expected an object of JSON'),
    'nothing': (config(''), 'config.json: not valid JSON'),
    'depth': (config(DEEP), 'config.json: not valid JSON'),
    'deep objects': (config('{"a":' * 100_000), 'config.json: not valid JSON'),
    'Latin-1': (config('{"name": "é"}'.encode('latin-1')), 'config.json: not UTF-8'),
    'not a number': (key('data.channels', 'abc'), "data.channels = 'abc': expected int"),
    'a list for a number': (key('model.num_classes', [10]), 'model.num_classes = [10]: expected'),
    'a number for a list': (key('data.mean', 0.5), 'data.mean = 0.5: expected list'),
    'a truth': (key('data.channels', True), 'data.channels = True: expected int'),
    'a number for a name': (key('model.name', 5), 'model.name = 5: expected str'),
    'manifest: a list': (listed('[]'), 'manifest.json cannot be read (it lists no files)'),
    'manifest: depth': (listed(DEEP), 'manifest.json cannot be read'),
    'manifest: no entry': (listed('{"a": 3}'), 'no size and SHA-256 of a'),
    'manifest: texts': (listed('{"a": {"bytes": "x", "sha256": "y"}}'), 'no size and SHA-256 of a'),
    'manifest: numbers': (listed('{"a": {"bytes": 3, "sha256": 4}}'), 'no size and SHA-256 of a'),
    'manifest: elsewhere': (
        listed('{"../../x": {"bytes": 3, "sha256": "4"}}'), '../../x is no file of the folder'),
    'manifest: the root': (
        listed('{"/etc/passwd": {"bytes": 3, "sha256": "4"}}'), 'passwd is no file of the folder'),
}  # fmt: skip


@pytest.mark.parametrize('name', FILES)
def test_files_of_a_run(said, tmp_path: pathlib.Path, name: str) -> None:
    change, expected = FILES[name]
    change(tmp_path / 'run')
    step = ['--step=3'] if name.startswith('manifest') else []
    error = said(eval_command.main, [*LENET, RUN, *step])
    assert expected in error
    assert str(tmp_path / 'run') in error


RECORD = {'known_as': '', 'source': 'x', 'file': 'x', 'missing': [], 'digest': 'x', 'keys': {},
          'network': {}, 'training': {}}  # fmt: skip


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('[]', 'expected an object'),
        (DEEP, 'not valid JSON'),
        (b'\xff\xfe', 'not UTF-8'),
        *((json.dumps({**RECORD, name: 3}), f'{name} is not what') for name in RECORD),
        (json.dumps({**RECORD, 'missing': [3]}), 'missing is not a list of names'),
        (json.dumps({**RECORD, 'keys': {'data.mean': 'abc'}}), "data.mean = 'abc': expected list"),
        (json.dumps({**RECORD, 'network': {'model.num_classes': 'x'}}), "model.num_classes = 'x'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_records_of_weights(tmp_path: pathlib.Path, content: str | bytes, expected: str) -> None:
    put(tmp_path, trained.RECORD, content)
    with pytest.raises(UserError) as refused:
        trained.find(tmp_path)
    assert expected in str(refused.value)
    assert str(tmp_path / trained.RECORD) in str(refused.value)


NUMBERS = '"top1_error": 1, "top5_error": 1, "images": 3, "complete": 3'


@pytest.mark.parametrize(
    'content',
    [b'\xff', b'[]', DEEP.encode(), b'{"step": 3}', f'{{"step": 3, {NUMBERS}}}'.encode(),
     f'{{"step": "3", "protocol": "center", {NUMBERS}}}'.encode(),
     f'{{"step": 3, "protocol": 3, {NUMBERS}}}'.encode()],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_result_that_is_none(run: pathlib.Path, tmp_path: pathlib.Path, content: bytes) -> None:
    """The run has not ended then: there is something to be done, and it is written anew."""
    folder = shutil.copytree(run, tmp_path / 'run')
    _, same = commands.parse(arguments.Parser(), LENET)
    put(folder, workdir.RESULT, f'{{"step": 3, "protocol": "center", {NUMBERS}}}')
    assert workdir.finished(folder, same)
    put(folder, workdir.RESULT, content)
    assert workdir.finished(folder, same) is None


def test_lines_of_metrics_that_are_none(tmp_path: pathlib.Path) -> None:
    lines = [b'{"step": 1, "loss": 2.0, "seconds": null}', b'\xff\xfe', b'[]', DEEP.encode(), b'3',
             b'{"step": "x"}', b'{"step": -1%s}' % (b'0' * 30),
             b'{"step": 2, "loss": "much", "seconds": "long"}']  # fmt: skip
    (tmp_path / workdir.METRICS).write_bytes(b'\n'.join(lines) + b'\n')
    writer = workdir.MetricsWriter(tmp_path, 5, validated=False)
    writer.close()
    kept = [json.loads(line) for line in (tmp_path / workdir.METRICS).read_text().splitlines()]
    assert kept == [{'step': 1, 'loss': 2.0, 'seconds': None}, {'step': 2}]


@pytest.mark.parametrize('content', ['{}', '[3]', '[{"from_step": "x"}]', '\xff', DEEP])
def test_records_of_what_computed_that_are_none(tmp_path: pathlib.Path, content: str) -> None:
    put(tmp_path, 'environment.json', content.encode('latin-1'))
    assert workdir.record_environment(tmp_path, 4, {'a': 1}) == [{'from_step': 4, 'a': 1}]


def test_a_configuration_whose_path_has_colons(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / 'at 10:30'
    folder.mkdir()
    path = shutil.copy(ROOT / 'configs' / 'demo.py', folder / 'my:demo.py')
    assert configuration.load(f'{path}:lenet5').model.name == 'lenet5'
    assert configuration.split(f'{path}:lenet5') == (path, 'lenet5')
    assert configuration.split(str(path)) == (path, '')
    with pytest.raises(UserError, match='no configuration file a:b'):
        configuration.load('a:b:c')


def test_folders_whose_names_have_commas(tmp_path: pathlib.Path) -> None:
    one, two = tmp_path / 'a,b', tmp_path / 'c'
    for folder in (one, two):
        folder.mkdir()
    for order in ([one, two], [two, one], [one], [two, tmp_path / 'gone', one]):
        assert arguments.folders('--with', ','.join(map(str, order))) == order
    assert arguments.folders('--with', '') == []


@pytest.mark.parametrize('platform', ['cuda', 'nonsense'])
def test_a_platform_that_is_not_here(tmp_path: pathlib.Path, platform: str) -> None:
    words = [sys.executable, 'train.py', *LENET, f'--workdir={tmp_path / "run"}']
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': platform},
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    if done.returncode == 0:
        pytest.skip('it is here')
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f'error: JAX_PLATFORMS={platform}: ')
    assert done.stderr.count('\n') == 1
    assert not (tmp_path / 'run').exists()


def test_the_manifest_of_the_run_is_whole(run: pathlib.Path) -> None:
    """What FILES damages is refused for the damage alone."""
    assert manifest.problem(checkpoint.step_folder(run, 3)) == ''
    assert workdir.read_config(run).model.name == 'lenet5'
