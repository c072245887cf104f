"""The roll call, and what the environment may say."""

import concurrent.futures
import socket
import threading

import pytest

from cnn_arch import cluster
from cnn_arch.errors import NotReady, UserError
from launch.local import free_port


def call(processes: int, present: list[int], seconds: float) -> list[list[str] | NotReady]:
    """What each of the present ones hears."""
    address = f'127.0.0.1:{free_port()}'
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        futures = [
            pool.submit(cluster.roll_call, address, processes, number, seconds)
            for number in present
        ]
        heard: list[list[str] | NotReady] = []
        for future in futures:
            try:
                heard.append(future.result(timeout=30))
            except NotReady as error:
                heard.append(error)
    return heard


def test_all_hear_the_hosts_of_all() -> None:
    assert call(4, [3, 1, 0, 2], 20) == [[socket.gethostname()] * 4] * 4


def test_all_that_came_hear_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for heard in call(4, [2, 0], 1.0):
        assert isinstance(heard, NotReady)
        assert '2 of 4 processes joined within 1 s; missing: process 1, process 3' in str(heard)
    monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b,c,d')
    assert 'missing: process 3 (d).' in str(call(4, [0, 1, 2], 1.0)[0])


def test_without_the_first_process_the_others_say_so() -> None:
    for heard in call(3, [1, 2], 1.0):
        assert 'waited 1 s for process 0 at 127.0.0.1:' in str(heard)


def test_strangers_and_the_port_again() -> None:
    """What is not a process of the run is no process; the port is free for JAX afterwards."""
    port = free_port()
    stop = threading.Event()

    def knock() -> None:
        while not stop.wait(0.01):
            try:
                with socket.create_connection(('127.0.0.1', port), timeout=1) as connection:
                    connection.sendall(b'GET / HTTP/1.1\n')
            except OSError:
                continue

    stranger = threading.Thread(target=knock)
    stranger.start()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(cluster.roll_call, f'127.0.0.1:{port}', 2, n, 20) for n in (0, 1)]
        assert [len(future.result()) for future in calls] == [2, 2]
    stop.set()
    stranger.join()
    with socket.create_server(('', port)):
        pass


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        (('127.0.0.1:1', '2', ''), 'JAX_PROCESS_ID: set all three or none'),
        (('127.0.0.1', '2', '0'), 'expected host:port and two whole numbers'),
        (('127.0.0.1:1', 'two', '0'), 'expected host:port and two whole numbers'),
        (('127.0.0.1:1', '2', '2'), 'expected 0 to JAX_NUM_PROCESSES - 1 = 1'),
    ],
)
def test_contradictions_are_one_line(
    values: tuple[str, str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (cluster.COORDINATOR, cluster.PROCESSES, cluster.PROCESS)
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        cluster.join()


def test_one_process_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.join()
    monkeypatch.setenv(cluster.PROCESSES, '1')
    cluster.join()
