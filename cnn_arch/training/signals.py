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

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

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
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)
        _start(self._receive, receiver)

    def agree(self) -> None:
        """From now on stops together with the other processes, if there are some."""
        self._several = cluster.processes() > 1
        if self._several:
            _start(self._agree)

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
        os.write(2, b'\nstopping after this step with a checkpoint; once more ends at once\n')
        timer = threading.Timer(0.9 * self._grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        text = (f'no step ended within {0.9 * self._grace:g} s: the run goes on from its last '
                'complete checkpoint\n')  # fmt: skip
        os.write(2, text.encode())
        os._exit(PREEMPTED)

    def _agree(self) -> None:
        while not self.requested:
            time.sleep(POLL)
            if cluster.look(ASKED) is not None:
                self._ask()
        cluster.post(ASKED, 'yes')
        with self._lock:
            self._last = 1 + max(map(int, cluster.tell(CALLS, str(self._calls), AGREE_SECONDS)))


def _start(target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()
