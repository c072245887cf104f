"""The images of a source as the network sees them: central windows, uint8."""

import collections
import concurrent.futures
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

import ml_collections
import numpy as np

from cnn_arch.data.sources import Example, Source
from cnn_arch.errors import UserError
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.reading import Reader

AHEAD = 32  # images decoded ahead


class Pictures:
    """Random access to the central windows of a source, decoded by threads."""

    def __init__(self, source: Source, config: ml_collections.ConfigDict):
        plan = protocols.resolve(config, 'center')
        plan = dataclasses.replace(plan, views=('center',), scales=plan.scales[:1])
        self.source, self.shape = source, (plan.crop, plan.crop, config.data.channels)
        self.described = f'central {plan.crop}x{plan.crop} of {source.name} at {plan.scales[0]}'
        self._reader, self._scale = Reader(source, config, plan), plan.scales[0]
        self._threads, self._skip = config.data.threads, config.data.on_bad_image == 'skip'

    def __len__(self) -> int:
        return len(self.source)

    def example(self, index: int) -> Example:
        """The source's own."""
        return self.source[index]

    def read(self, index: int) -> np.ndarray | None:
        """uint8 [crop, crop, C]; None where it does not decode and data.on_bad_image is 'skip'.

        Raises UserError where it does not decode otherwise.
        """
        example, size = self._reader.open(index)
        prepared = self._reader.prepare(index, example, size) if size else None
        if prepared is not None:
            return prepared[self._scale]
        reason = self._reader.errors.pop(index)
        if not self._skip:
            raise UserError(f'{reason}; --config.data.on_bad_image=skip leaves it out')
        logging.info('left out: %s', reason)
        return None

    def read_all(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        """`read` of each, some of them decoded ahead."""
        todo = iter(indices)
        pool = concurrent.futures.ThreadPoolExecutor(self._threads)
        try:
            waiting = collections.deque(pool.submit(self.read, i) for i in _first(todo, AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self.read, i) for i in _first(todo, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def batches(self, indices: Sequence[int], rows: int) -> Iterator[dict[str, np.ndarray]]:
        """`images` uint8 [rows, ...] and `indices` int32 [rows] in order; -1 = no image."""
        read = self.read_all(i for i in indices if i >= 0)
        for start in range(0, len(indices), rows):
            part = np.full(rows, -1, np.int32)
            images = np.zeros((rows, *self.shape), np.uint8)
            for row, index in enumerate(indices[start : start + rows]):
                image = next(read) if index >= 0 else None
                if image is not None:
                    part[row], images[row] = index, image
            yield {'images': images, 'indices': part}


def _first(todo: Iterator[int], count: int) -> list[int]:
    return list(itertools.islice(todo, count))
