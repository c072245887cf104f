"""Runs whose disk is full: one line, a code of its own, the checkpoints before it as they were."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from cnn_arch.training import checkpoint
from tests.shared import ROOT

RUN = ['--config=configs/demo.py:lenet5', '--config.train.batch_size=16',
       '--config.train.steps=12', '--config.checkpoint.every=4']  # fmt: skip


def train(folder: pathlib.Path, *wrapper: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*wrapper, sys.executable, 'train.py', *RUN, f'--workdir={folder}'], cwd=ROOT,
        capture_output=True, text=True, check=False, env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip


def test_files_that_cannot_grow(tmp_path: pathlib.Path) -> None:
    """The kernel ends each write at 200 blocks, 100 or 200 kB, as a quota does."""
    failed = train(tmp_path, 'sh', '-c', 'ulimit -f 200; exec "$0" "$@"')
    assert failed.returncode == 74, failed.stderr
    assert failed.stderr.startswith('error: the checkpoint of step 4 cannot be written to ')
    assert 'File too large; there is none before it' in failed.stderr
    assert failed.stderr.count('\n') == 1
    assert checkpoint.steps(tmp_path) == []
    assert not (tmp_path / 'result.json').exists()


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path: pathlib.Path) -> None:
    """A real file system with room for one checkpoint and a half; needs user namespaces."""
    if subprocess.run(['unshare', '-rm', 'true'], check=False).returncode:
        pytest.skip('this machine does not allow user namespaces')
    disk, kept = tmp_path / 'disk', tmp_path / 'kept'
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=900k none {disk} && "$0" "$@"; code=$?; '
        f'cp -r {disk} {kept}; exit $code'
    )
    failed = train(disk, 'unshare', '-rm', 'sh', '-c', script)
    assert failed.returncode == 74, failed.stderr
    assert 'cannot be written' in failed.stderr
    assert 'No space left on device; that of step' in failed.stderr
    assert failed.stderr.count('\n') == 1
    step = checkpoint.find(kept)
    assert checkpoint.steps(kept) == [step]
    done = train(kept)
    assert f'going on from the checkpoint of step {step}' in done.stdout, done.stderr
    shutil.rmtree(kept)
