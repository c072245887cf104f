"""Progress of an evaluation: a live line on a terminal, a plain line now and then in a log."""

import sys
import time

import jax


class Progress:
    """Prints images done, rate, share of waiting for input and time left; silent when short."""

    def __init__(self, total: int):
        self._total = total
        self._began = self._printed = time.monotonic()
        self._live = sys.stdout.isatty()
        self._active = jax.process_index() == 0
        self.waited = 0.0  # seconds that the evaluation waited for images

    def update(self, done: int) -> None:
        """Takes note of the number of images done so far."""
        now = time.monotonic()
        if not self._active or now - self._printed < (1 if self._live else 15):
            return
        self._printed = now
        seconds = now - self._began
        rate = done / seconds
        left = (self._total - done) / rate if done else float('inf')
        remaining = f'{int(left) // 60}:{int(left) % 60:02d}' if done else '?'
        line = (
            f'evaluating: {done:,}/{self._total:,} images  {rate:.1f} images/s '
            f'({rate / jax.device_count():.1f} per device)  '
            f'waits for input {100 * self.waited / seconds:.0f} %  ETA {remaining}'
        )
        print(f'\r\033[K{line}' if self._live else line, end='' if self._live else '\n', flush=True)

    def close(self) -> None:
        """Clears the live line."""
        if self._active and self._live:
            print('\r\033[K', end='', flush=True)
