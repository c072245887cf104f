"""`tests/chaos/chaos.py` at two lengths."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.shared import ROOT


def chaos(folder: pathlib.Path, *flags: str) -> str:
    """Its output, on a small disk of its own where this machine allows one without being root."""
    disk = folder / 'disk'
    disk.mkdir()
    command = [sys.executable, '-m', 'tests.chaos.chaos', f'--out={disk}', *flags]
    if not subprocess.run(['unshare', '-rm', 'true'], check=False).returncode:
        script = f'mount -t tmpfs -o size=32m none {disk} && exec "$0" "$@"'
        command = ['unshare', '-rm', 'sh', '-c', script, *command]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {
            'JAX_PLATFORMS': 'cpu',
            'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_rounds(tmp_path: pathlib.Path) -> None:
    out = chaos(tmp_path, '--rounds=2', '--processes=2', '--seed=3')
    assert '2 rounds: parameters, optimiser and losses bit-identical' in out


@pytest.mark.slow
def test_fifty_rounds(tmp_path: pathlib.Path) -> None:
    out = chaos(tmp_path, '--rounds=50', '--processes=4')
    assert '50 rounds: parameters, optimiser and losses bit-identical' in out
