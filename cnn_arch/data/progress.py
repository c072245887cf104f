"""How far a long job over many images is, and when it will end."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')

TERMINAL, LOG = 0.5, 30.0  # seconds between reports: on one line of a terminal, as lines of a log


class Progress:
    """Reports `name: done/total unit, rate, time left` on stderr while work is counted.

    As a context it ends its line also when the work fails; otherwise call `close`.
    """

    def __init__(self, name: str, total: int, unit: str = 'images'):
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._terminal = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The last report."""
        self._show(self.line())
        if self._terminal:
            print(file=sys.stderr)

    def add(self, count: int = 1) -> None:
        """Counts work that is done, and reports when it is time to."""
        self.done += count
        now = time.monotonic()
        if now - self._shown >= (TERMINAL if self._terminal else LOG):
            self._shown = now
            self._show(self.line(now))

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted once it has been used."""
        for item in items:
            yield item
            self.add()

    def line(self, now: float | None = None) -> str:
        """The report at time `now` (of time.monotonic)."""
        seconds = (time.monotonic() if now is None else now) - self._start
        text = f'{self.name}: {self.done:,}/{self.total:,} {self.unit}'
        if not self.done or seconds <= 0:
            return text
        rate = self.done / seconds
        if self.done >= self.total:
            return f'{text} in {duration(seconds)}'
        return f'{text}, {rate:,.0f}/s, {duration((self.total - self.done) / rate)} left'

    def _show(self, line: str) -> None:
        if self._terminal:
            print(f'\r\x1b[2K{line}', end='', file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02d} min'


def size(count: float) -> str:
    """Bytes in the unit that suits: 512 bytes, 3.1 MB, 137.9 GB."""
    for unit in ('bytes', 'kB', 'MB'):
        if count < 1000:
            return f'{count:.0f} {unit}' if unit == 'bytes' else f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:,.1f} GB'
