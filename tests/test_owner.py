"""A folder has one owner: processes that start together, are killed, or live on another host."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cnn_arch import owner
from cnn_arch.errors import StorageError
from tests.shared import ROOT

HOLD = """
import pathlib, sys, time
from cnn_arch.owner import InUse, Owner
try:
    with Owner(pathlib.Path(sys.argv[1])):
        print('owns', flush=True)
        time.sleep(float(sys.argv[2]))
except InUse as error:
    print(error, flush=True)
"""


def hold(folder: pathlib.Path, seconds: float) -> subprocess.Popen[str]:
    """A process that owns a folder for a while, or says who does."""
    return subprocess.Popen([sys.executable, '-c', HOLD, str(folder), str(seconds)], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def written(folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """What an owner leaves behind that differs from this process in some points."""
    values = json.loads(owner._content('0123')) | changes
    folder.mkdir(exist_ok=True)
    scratch = folder.parent / os.urandom(8).hex()
    scratch.write_text(json.dumps(values))
    os.replace(scratch, folder / owner.FILE)
    return folder


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life are due within a second."""
    monkeypatch.setattr(owner, 'SILENCE', 0.6)
    monkeypatch.setattr(owner, 'POLL', 0.05)
    monkeypatch.setattr(owner, 'BEAT', 0.1)


def test_the_second_is_told_who_is_there(tmp_path: pathlib.Path) -> None:
    first = hold(tmp_path, 60)
    try:
        assert first_line(first) == 'owns'
        with pytest.raises(owner.InUse) as refused:
            owner.Owner(tmp_path).__enter__()
        expected = f'in use: process {first.pid} on {socket.gethostname()} has it since 20'
        assert str(refused.value).startswith(expected)
        assert str(refused.value).endswith('UTC')
        assert [path.name for path in tmp_path.iterdir()] == [owner.FILE]
    finally:
        first.kill()
    # Not yet waited for, it is a zombie: dead all the same, and known to be so at once.
    began = time.monotonic()
    with owner.Owner(tmp_path):
        assert time.monotonic() - began < 5
        assert json.loads((tmp_path / owner.FILE).read_text())['process'] == os.getpid()
    first.communicate()
    assert not list(tmp_path.iterdir())


def test_of_many_that_find_a_dead_one_one_takes_over(tmp_path: pathlib.Path) -> None:
    dead = hold(tmp_path, 60)
    assert first_line(dead) == 'owns'
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    owners = most = 0
    failures: list[BaseException] = []
    lock, gate = threading.Lock(), threading.Barrier(8)

    def take() -> None:
        nonlocal owners, most
        gate.wait()
        for _ in range(40):
            try:
                with owner.Owner(tmp_path):
                    with lock:
                        owners += 1
                        most = max(most, owners)
                    time.sleep(0.001)
                    # As if killed: what it leaves behind is another dead one's.
                    with lock:
                        owners -= 1
                        written(tmp_path, process=dead.pid, started='1', token=os.urandom(8).hex())
            except (owner.InUse, StorageError):
                continue
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert most == 1
    assert [path.name for path in tmp_path.iterdir()] == [owner.FILE]


def test_a_number_that_another_process_has_now(tmp_path: pathlib.Path) -> None:
    """Of this very process, but started at another time."""
    with owner.Owner(written(tmp_path, started='1')):
        pass
    with pytest.raises(owner.InUse):
        owner.Owner(written(tmp_path)).__enter__()


@pytest.mark.parametrize('content', ['', '{', '[]', '{"host": 3}', '{"token": "../x"}', '{"a": 1}'])
def test_a_file_that_says_nothing_is_watched(tmp_path: pathlib.Path, soon, content: str) -> None:
    """As of one that is being written: it is there, so somebody may be."""
    (tmp_path / owner.FILE).write_text(content)
    began = time.monotonic()
    with owner.Owner(tmp_path):
        assert 0.6 <= time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('skew', [-86400, 0, 86400], ids=['behind', 'alike', 'ahead'])
def test_an_owner_on_another_host(tmp_path: pathlib.Path, soon, skew: int) -> None:
    """What counts is that its file changes, not what time its changes are said to be of."""
    file = written(tmp_path, place='elsewhere', host='node7', process=3) / owner.FILE
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(0.1):
            count += 1
            os.utime(file, (0, time.time() + skew + count))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(owner.InUse, match='process 3 on node7'):
            owner.Owner(tmp_path).__enter__()
    finally:
        ended.set()
        beating.join()
    began = time.monotonic()
    with owner.Owner(tmp_path):
        assert time.monotonic() - began >= 0.6
    assert not list(tmp_path.iterdir())


def test_it_shows_that_it_lives(tmp_path: pathlib.Path, soon) -> None:
    with owner.Owner(tmp_path):
        before = (tmp_path / owner.FILE).stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / owner.FILE).stat().st_mtime_ns > before


@pytest.mark.parametrize('what', ['folder', 'file', 'taken'])
def test_one_that_lost_it_ends(tmp_path: pathlib.Path, monkeypatch, what: str) -> None:
    monkeypatch.setattr(owner, 'CHECK_EVERY', 0.0)
    folder = tmp_path / 'run'

    def lose() -> None:
        if what == 'folder':
            os.rename(folder, tmp_path / 'away')
        elif what == 'file':
            (folder / owner.FILE).unlink()
        else:
            written(folder, token='4567')

    def run() -> None:
        with owner.Owner(folder) as mine:
            mine.check()
            lose()
            mine.check()

    with pytest.raises(StorageError, match=str(folder)):
        run()
    assert (folder / owner.FILE).exists() == (what == 'taken'), 'not ours to remove'


def test_what_comes_of_a_folder_that_is_gone(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / 'run'

    def run() -> None:
        with owner.Owner(folder):
            os.rename(folder, tmp_path / 'away')
            (folder / 'metrics').write_text('')

    with pytest.raises(StorageError, match='run was removed'):
        run()


def test_what_was_made_for_nothing_goes(tmp_path: pathlib.Path) -> None:
    with owner.Owner(tmp_path / 'a' / 'b'):
        pass
    assert not list(tmp_path.iterdir())
    with owner.Owner(tmp_path / 'a' / 'b'):
        (tmp_path / 'a' / 'kept').write_text('')
    assert [path.name for path in tmp_path.rglob('*')] == ['a', 'kept']
