"""SIGINT and SIGTERM: a checkpoint and a clean end within a grace period, on all processes alike.

The first signal, to any process, asks the run to stop; a second one ends its process at once.

While a long call (a compilation) holds Python's main thread no handler runs there, so a thread of
its own receives the signals, through a pipe. When the run has not ended after nine tenths of the
grace period, that thread ends it: the run goes on from its last complete checkpoint.

Several processes must leave at the same place, or some would wait for ever for the others. `check`
is called at the same places of the program on all of them, so its calls can be counted. Once asked
to stop, each process holds its next call until it knows how far all have come, which background
threads tell each other; all stop at the first call that none has made yet.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cnn_arch import cluster
from cnn_arch.errors import PREEMPTED, Stopped

POLL = 0.2  # seconds between looks whether another process was asked to stop
AGREE_SECONDS = 10.0  # to hear from all others
ASKED, CALLS = 'cnn_arch/stop/asked', 'cnn_arch/stop/calls'


class StopRequest:
    """Receives the signals from now on; `requested` turns true at the first."""

    def __init__(self, grace: float):
        """`grace` is the time in seconds from the first signal to the end."""
        self.requested = False
        self._grace = grace
        self._several = False
        self._calls = 0  # of `check`
        self._last: int | None = None  # the call at which all stop
        self._lock = threading.Lock()
        self._ended = threading.Event()
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)
        _start(self._receive, receiver)

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Within it this process stops together with the others, if there are some.

        They are not asked any more once it has ended: JAX ends a process that asks after its
        connection to them is shut down.
        """
        self._several = cluster.processes() > 1
        if not self._several:
            yield
            return
        thread = _start(self._agree)
        try:
            yield
        finally:
            self._ended.set()
            thread.join(POLL + 2 * AGREE_SECONDS)

    def check(self) -> None:
        """Raises Stopped when it is time; all processes call this at the same places."""
        with self._lock:
            self._calls += 1
            if self._several:
                time_to_stop = self._last is not None and self._calls >= self._last
            else:
                time_to_stop = self.requested
        if time_to_stop:
            raise Stopped

    def _receive(self, receiver: int) -> None:
        os.read(receiver, 1)
        self._ask()
        number = os.read(receiver, 1)[0]
        os._exit(128 + number)

    def _ask(self) -> None:
        if self.requested:
            return
        self.requested = True
        _say('\nstopping after this step with a checkpoint; once more ends at once\n')
        timer = threading.Timer(0.9 * self._grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        _say(f'no step ended within {0.9 * self._grace:g} s: the run goes on from its last '
             'complete checkpoint\n')  # fmt: skip
        os._exit(PREEMPTED)

    def _agree(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the others have ended by now
            while not self.requested:
                if self._ended.wait(POLL):
                    return
                if cluster.look(ASKED) is not None:
                    self._ask()
            cluster.post(ASKED, 'yes')
            with self._lock:
                told = cluster.tell(CALLS, str(self._calls), AGREE_SECONDS)
                self._last = 1 + max(map(int, told))


def _start(target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _say(text: str) -> None:
    """As far as somebody listens: who was started by a process that was killed has no one."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
