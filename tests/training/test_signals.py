"""SIGINT and SIGTERM, sent to a process that has asked to be told."""

import signal
import subprocess
import sys

import pytest

from tests.shared import ROOT

PROGRAM = """
import os, sys
from cnn_arch.training.signals import StopRequest
stop = StopRequest()
for number in sys.argv[1:]:
    os.kill(os.getpid(), int(number))
    print('requested' if stop.requested else 'not requested', flush=True)
print('saved')
"""


def send(*numbers: int) -> subprocess.CompletedProcess:
    words = [sys.executable, '-c', PROGRAM, *(str(int(number)) for number in numbers)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_only_asks(number: int) -> None:
    ended = send(number)
    assert ended.returncode == 0
    assert ended.stdout == 'requested\nsaved\n'
    assert ended.stderr.strip().count('\n') == 0
    assert 'once more ends at once' in ended.stderr


@pytest.mark.parametrize(
    ('first', 'second'), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_the_second_ends_at_once(first: int, second: int) -> None:
    ended = send(first, second)
    assert ended.returncode == 128 + second
    assert ended.stdout == 'requested\n'
