"""SIGINT and SIGTERM, sent to a process that has asked to be told."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.shared import ROOT

PROGRAM = """
import os, sys, time
from cnn_arch.errors import Stopped
from cnn_arch.training.signals import StopRequest
stop = StopRequest(60.0)
stop.check()
for number in sys.argv[1:]:
    os.kill(os.getpid(), int(number))
    time.sleep(0.5)
    try:
        stop.check()
    except Stopped:
        print('stopped', flush=True)
print('saved')
"""


# One long call outside Python, as a compilation is: no handler runs until it returns.
BUSY = """
import hashlib
from cnn_arch.training.signals import StopRequest
stop = StopRequest(1.0)
print('begun', flush=True)
hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""


def send(*numbers: int) -> subprocess.CompletedProcess:
    words = [sys.executable, '-c', PROGRAM, *(str(int(number)) for number in numbers)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_only_asks(number: int) -> None:
    ended = send(number)
    assert ended.returncode == 0
    assert ended.stdout == 'stopped\nsaved\n'
    assert ended.stderr.strip().count('\n') == 0
    assert 'once more ends at once' in ended.stderr


@pytest.mark.parametrize(
    ('first', 'second'), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_the_second_ends_at_once(first: int, second: int) -> None:
    ended = send(first, second)
    assert ended.returncode == 128 + second
    assert ended.stdout == 'stopped\n'


@pytest.mark.parametrize(('signals', 'code'), [(1, 75), (2, 128 + signal.SIGTERM)])
def test_while_the_main_thread_is_busy(signals: int, code: int) -> None:
    """Within the grace period (1 s here), or at the second signal."""
    process = subprocess.Popen(
        [sys.executable, '-c', BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == 'begun\n'
    for _ in range(signals):
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert ('goes on from its last complete checkpoint' in errors) == (code == 75)
    assert time.monotonic() - began < 10  # 1 s on a machine with nothing else to do


def test_nobody_listens() -> None:
    """As after the end of what has started it: the first signal asks, the second one ends it."""
    for numbers, code in (((signal.SIGTERM,), 0), ((signal.SIGTERM, signal.SIGTERM), 143)):
        reader, writer = os.pipe()
        os.close(reader)
        words = [sys.executable, '-c', PROGRAM, *(str(int(number)) for number in numbers)]
        ended = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True,
                               timeout=60, check=False)  # fmt: skip
        os.close(writer)
        assert ended.stdout.startswith('stopped\n')
        assert ended.returncode == code


# The others are asked through a store that counts, and ends the process once JAX has shut down.
POLLED = """
import os, time
from cnn_arch import cluster
from cnn_arch.training import signals
cluster.processes = lambda: 2
shut_down = False

def look(key):
    if shut_down:
        os.abort()
    time.sleep(0.01)  # a shutdown in between is just as bad
    if shut_down:
        os.abort()

cluster.look, signals.POLL = look, 0.01
with signals.StopRequest(60.0).agreed():
    time.sleep(0.3)
shut_down = True
time.sleep(0.5)
"""


def test_the_others_are_not_asked_after_the_end() -> None:
    words = [sys.executable, '-c', POLLED]
    ended = subprocess.run(words, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 0
