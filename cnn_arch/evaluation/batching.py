"""The sequence of batches of an evaluation: few shapes, every image once, equal on every host.

An image of a scale goes on the smallest canvas that holds it, and waits there for a full batch.
Everything here is a function of the images' sizes alone, which all hosts know.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

Shape = tuple[int, int]  # height, width

# More canvases than needed for this waste cost compilations and half-empty batches.
ACCEPTED_WASTE = 0.05


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images of one scale on canvases of one shape."""

    scale: int  # pixels
    canvas: Shape
    indices: np.ndarray  # int [groups, rows], for each group of hosts; -1 = no image


def choose_canvases(shapes: Sequence[Shape], most: int) -> list[Shape]:
    """At most `most` canvases that hold all of the shapes with little waste, by area.

    Landscape (and square) shapes get canvases of their own, portrait ones too: both have one side
    in common, so that only the other one varies.
    """
    if not shapes:
        return []
    wide = collections.Counter((h, w) for h, w in shapes if w >= h)
    tall = collections.Counter((h, w) for h, w in shapes if w < h)
    kinds = [part for part in (wide, tall) if part]
    used = sum(h * w for h, w in shapes)
    best: list[Shape] = []
    for count in range(len(kinds), max(most, len(kinds)) + 1):
        options = []
        for split in range(1, count) if len(kinds) == 2 else (count,):
            parts = [_partition(kinds[0], split)]
            if len(kinds) == 2:
                parts.append(_partition(kinds[1], count - split))
            canvases = [canvas for part in parts for canvas in part]
            options.append((_padded_area(shapes, canvases), canvases))
        area, best = min(options)
        if area <= used / (1 - ACCEPTED_WASTE):
            break
    return sorted(best, key=_area)


def fitting(shape: Shape, canvases: Sequence[Shape]) -> Shape | None:
    """The smallest canvas that holds the shape; None where none does."""
    holding = [c for c in canvases if c[0] >= shape[0] and c[1] >= shape[1]]
    return min(holding, key=_area, default=None)


def _area(shape: Shape) -> int:
    return shape[0] * shape[1]


def _padded_area(shapes: Sequence[Shape], canvases: Sequence[Shape]) -> int:
    return sum(
        count * _area(canvas)
        for shape, count in collections.Counter(shapes).items()
        if (canvas := fitting(shape, canvases))
    )


def _partition(shapes: collections.Counter[Shape], parts: int) -> list[Shape]:
    """Canvases for consecutive runs of the shapes, ordered by area, of least padded area."""
    ordered = sorted(shapes, key=_area)
    counts = np.cumsum([0] + [shapes[shape] for shape in ordered])
    heights, widths = (np.asarray([shape[side] for shape in ordered]) for side in (0, 1))
    size = len(ordered)
    parts = min(parts, size)
    cost = np.full((parts + 1, size + 1), np.inf)
    cost[0, 0] = 0
    last = np.zeros((parts + 1, size + 1), int)
    for end in range(1, size + 1):
        # The area of one canvas for the shapes from each beginning to this end.
        high = np.maximum.accumulate(heights[:end][::-1])[::-1]
        wide = np.maximum.accumulate(widths[:end][::-1])[::-1]
        run = high * wide * (counts[end] - counts[:end])
        for part in range(1, parts + 1):
            total = cost[part - 1, :end] + run
            last[part, end] = int(np.argmin(total))
            cost[part, end] = total[last[part, end]]
    canvases, end = [], size
    for part in range(parts, 0, -1):
        begin = last[part, end]
        canvases.append((int(heights[begin:end].max()), int(widths[begin:end].max())))
        end = begin
    return canvases


def rows_of(canvas: Shape, window: int, batch_size: int, devices: int) -> int:
    """Images of a batch on a canvas: a power of two times the devices, within the batch's pixels.

    `batch_size` counts images of `window` x `window` pixels.
    """
    rows = devices
    while 2 * rows * _area(canvas) <= batch_size * window**2:
        rows *= 2
    return rows


class Queues:
    """Images waiting on their canvases, per group of hosts."""

    def __init__(self, groups: int):
        self._groups = groups
        self._canvases: dict[int, list[Shape]] = {}
        self._rows: dict[Shape, int] = {}
        self._waiting: dict[tuple[int, Shape], list[collections.deque[int]]] = {}

    def set_canvases(self, scale: int, rows: dict[Shape, int]) -> None:
        """Adds canvases to a scale, each with the rows of its batches over all groups."""
        self._canvases.setdefault(scale, []).extend(rows)
        self._rows.update(rows)
        for canvas in rows:
            queues = [collections.deque[int]() for _ in range(self._groups)]
            self._waiting.setdefault((scale, canvas), queues)

    def canvas_of(self, scale: int, shape: Shape) -> Shape | None:
        """Where an image of that shape goes; None where it fits nowhere."""
        return fitting(shape, self._canvases.get(scale, []))

    def add(self, scale: int, canvas: Shape, group: int, index: int) -> None:
        """One image more."""
        self._waiting[scale, canvas][group].append(index)

    def full(self) -> Iterator[Batch]:
        """The batches for which every group has all of its rows."""
        for (scale, canvas), queues in self._waiting.items():
            while min(map(len, queues)) >= self._rows[canvas] // self._groups:
                yield self._take(scale, canvas)

    def rest(self) -> Iterator[Batch]:
        """All that wait, in batches that may be partly empty."""
        self._merge()
        for (scale, canvas), queues in self._waiting.items():
            while any(queues):
                yield self._take(scale, canvas)

    def _take(self, scale: int, canvas: Shape) -> Batch:
        rows = self._rows[canvas] // self._groups
        indices = np.full((self._groups, rows), -1)
        for group, queue in enumerate(self._waiting[scale, canvas]):
            taken = [queue.popleft() for _ in range(min(rows, len(queue)))]
            indices[group, : len(taken)] = taken
        return Batch(scale, canvas, indices)

    def _merge(self) -> None:
        """Moves what waits on a canvas to empty rows of a larger one's last batch."""
        keys = sorted(self._waiting, key=lambda key: _area(key[1]))
        for small, large in itertools.combinations(keys, 2):
            if small[0] != large[0] or fitting(small[1], [large[1]]) is None:
                continue
            rows = self._rows[large[1]] // self._groups
            pairs = list(zip(self._waiting[small], self._waiting[large], strict=True))
            if any(more for _, more in pairs) and all(
                len(few) + len(more) <= rows for few, more in pairs
            ):
                for few, more in pairs:
                    more.extend(few)
                    few.clear()
