"""Real processes that cannot begin together say why, all with one exit code."""

import json
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Mapping

import pytest
from PIL import Image

from cnn_arch import cluster, preflight
from cnn_arch.data import scenes
from cnn_arch.errors import NOT_READY
from launch import local
from tests.shared import ROOT

SMALL = ['--config=configs/demo.py:lenet5', '--config.train.steps=20', '--config.train.log_every=5',
         '--config.eval.batch_size=60']  # fmt: skip


def start(
    processes: int,
    own_flags: dict[int, list[str]],
    own_environment: Mapping[int, dict[str, str]] = types.MappingProxyType({}),
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of the processes that `own_flags` has, of a run of so many."""
    address = f'127.0.0.1:{local.free_port()}'
    started = []
    for number, flags in own_flags.items():
        change = local.environment(address, processes, number, 1)
        change |= own_environment.get(number, {})
        command = [sys.executable, 'train.py', *SMALL, *flags]
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=os.environ | change | {cluster.TIMEOUT: '40'},
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
                assert done.stdout.count('one folder for all') == 1
        results.append(json.loads((tmp_path / name / 'result.json').read_text()))
        assert len(list((tmp_path / name / 'tensorboard').glob('events.*'))) == 1
        losses = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
        assert [json.loads(line)['step'] for line in losses] == [5, 10, 15, 20, 20]
        assert not list((tmp_path / name).glob('.preflight*'))
    assert results[0]['top1_error'] == pytest.approx(results[1]['top1_error'], abs=0.3)
    assert [len(found) for found in lines] == [1, 1]
    assert len((tmp_path / 'predictions.csv').read_text().splitlines()) == 361


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
