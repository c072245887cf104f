"""train.py started where another one runs, or whose folder is taken away: real processes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests import test_preflight
from tests.test_owner import first_line, hold
from tests.test_train import ENDLESS, losses, start, train


@pytest.fixture
def running(tmp_path: pathlib.Path):
    """A run without end in `tmp_path / 'run'`, which has written."""
    process = start(*ENDLESS, '--config.train.steps=100000', f'--workdir={tmp_path / "run"}')
    try:
        deadline = time.monotonic() + 300
        metrics = tmp_path / 'run' / 'metrics.jsonl'
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_run_leaves_the_first_alone(
    running: subprocess.Popen, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / 'run'
    flags = [*ENDLESS, '--config.train.steps=100000', f'--workdir={workdir}']
    config = (workdir / 'config.json').read_bytes()
    out, err = train(*flags, '--config.optim.learning_rate=0.5', code=2)
    assert err.startswith(f'error: --workdir={workdir} is in use: process {running.pid} on ')
    assert err.count('\n') == 1
    assert 'changed since' not in out
    assert (workdir / 'config.json').read_bytes() == config
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 75, err
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    trained = [json.loads(line)['step'] for line in lines if 'loss' in json.loads(line)]
    assert trained == list(range(1, len(losses(workdir)) + 1))
    assert not (workdir / 'owner.json').exists()


def test_a_workdir_that_is_removed(running: subprocess.Popen, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / 'run'
    os.rename(workdir, tmp_path / 'away')
    out, err = running.communicate(timeout=120)
    assert running.returncode == 74, out + err
    assert err.startswith('error: ')
    assert f'was removed while this run wrote to {workdir}' in err
    assert err.count('\n') == 1
    assert 'done' not in out
    shutil.rmtree(tmp_path / 'away')


def test_several_processes_are_refused_alike(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / 'run'
    other = hold(workdir, 300)
    try:
        assert first_line(other) == 'owns'
        flags = [f'--workdir={workdir}']
        ends = test_preflight.start(2, {0: flags, 1: flags})
    finally:
        other.kill()
        other.communicate()
    expected = f'--workdir={workdir} is in use: process {other.pid} on '
    test_preflight.check_all_say(ends, expected)
    assert [path.name for path in workdir.iterdir()] == ['owner.json']


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: pathlib.Path) -> None:
    """What it starts from expects another input, which is seen late."""
    small = [*ENDLESS, '--config.train.steps=1']
    train(*small, f'--workdir={tmp_path / "other"}')
    flags = [*small, f'--config.init_from={tmp_path / "other"}', '--config.data.mean=7.0']
    _, err = train(*flags, f'--workdir={tmp_path / "run"}', code=2)
    assert 'expects data.mean = ' in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'run').exists()
