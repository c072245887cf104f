"""What an evaluation found: errors as the papers print them, and of how many images."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cnn_arch import mesh as meshes
from cnn_arch.errors import UserError
from cnn_arch.evaluation.batching import Shape
from cnn_arch.evaluation.store import COUNTED, Store, best_of

TOP = 5  # classes kept of each image


@dataclasses.dataclass
class Usage:
    """What the images of one scale were put on."""

    scale: int
    shapes: set[Shape] = dataclasses.field(default_factory=set)  # of the images
    canvases: set[Shape] = dataclasses.field(default_factory=set)  # one compilation each
    used: int = 0  # pixels of images
    computed: int = 0  # pixels of canvases

    def add(self, canvas: Shape, shapes: Sequence[Shape], rows: int) -> None:
        """Takes note of a batch of images on canvases of one shape."""
        self.shapes.update(shapes)
        self.canvases.add(canvas)
        self.used += sum(height * width for height, width in shapes)
        self.computed += rows * canvas[0] * canvas[1]

    def __str__(self) -> str:
        names = ', '.join(f'{height}x{width}' for height, width in sorted(self.canvases))
        return (
            f'scale {self.scale}: {len(self.shapes)} shapes on {len(self.canvases)} canvases '
            f'({names}), {100 * (1 - self.used / self.computed):.1f} % of the pixels are padding'
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured over the images of a source, and of how many the whole split has.

    `classes` int32 [images, 5] and `probabilities` float32 [images, 5], the most probable first (-1
    and 0 beyond the number of classes), `labels` int32 [images]; `counted` bool [images] is False
    for an image that could not be decoded. `ranks` int32 [images, 2] are `rank_of` each label. Of
    classes that are equally probable the one with the smaller number comes first; how many images
    that decides is told (`ties`). `usage` tells how the images computed in this call were padded,
    scale by scale.
    """

    protocol: str
    complete: int
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    counted: np.ndarray
    ranks: np.ndarray
    usage: tuple[Usage, ...] = ()

    @property
    def n(self) -> int:
        """Number of images that the errors are taken over."""
        return int(self.counted.sum())

    @property
    def top1_error(self) -> float:
        """Percent of images whose label is not the most probable class."""
        return self._error(1)

    @property
    def top5_error(self) -> float:
        """Percent of images whose label is not among the five most probable classes."""
        return self._error(TOP)

    @property
    def images(self) -> str:
        """'50,000', or '300 of 50,000' where the split is not complete."""
        if self.n == self.complete:
            return f'{self.n:,}'
        return f'{self.n:,} of {self.complete:,}'

    def __str__(self) -> str:
        return (
            f'top-1 error {self.top1_error:.2f} %  top-5 error {self.top5_error:.2f} %  '
            f'n = {self.images}'
        )

    @property
    def ties(self) -> str:
        """How many images are right or wrong by a tie alone, and what that makes of the errors.

        '' where there is none.
        """
        ahead, equal = self.ranks[self.counted].T
        counts = {top: int(((ahead < top) & (ahead + equal >= top)).sum()) for top in (1, TOP)}
        if not any(counts.values()):
            return ''
        bounds = {
            top: (100 * float(np.mean(ahead >= top)), 100 * float(np.mean(ahead + equal >= top)))
            for top in (1, TOP)
        }
        return (
            f'ties, decided by class number: {counts[1]:,} images at rank 1, {counts[TOP]:,} at '
            f'rank {TOP}; '
            + ', '.join(
                f'the top-{top} error lies between {low:.2f} and {high:.2f} %'
                for top, (low, high) in bounds.items()
                if counts[top]
            )
        )

    def _error(self, top: int) -> float:
        missed = (self.classes[:, :top] != self.labels[:, None]).all(axis=1)[self.counted]
        return 100 * float(missed.sum()) / self.n


def ensemble(stores: Sequence[Store], protocol: str, complete: int) -> Result:
    """The networks' posteriors averaged after the softmax, from what their stores hold.

    An image counts where it counts for all of them. Raises UserError where one numbers the class of
    an image otherwise than another: their posteriors are of other classes then.
    """
    counted = np.all([store.states == COUNTED for store in stores], axis=0)
    for number, store in enumerate(stores[1:], 2):
        other = np.flatnonzero(counted & (store.labels != stores[0].labels))
        if len(other):
            raise UserError(
                f'network {number} of the ensemble numbers the classes otherwise than the first: '
                f'image {other[0]:,} has class {store.labels[other[0]]}, not '
                f'{stores[0].labels[other[0]]}'
            )
    classes = np.full((len(counted), TOP), -1, np.int32)
    probabilities = np.zeros((len(counted), TOP), np.float32)
    labels, ranks = stores[0].labels, np.zeros((len(counted), 2), np.int32)
    if jax.process_index() == 0:
        for index in np.flatnonzero(counted):
            total = sum(store.posteriors[index].astype(np.float64) for store in stores)
            mean = np.asarray(total) / len(stores)
            classes[index], probabilities[index] = best_of(mean, TOP)
            ranks[index] = rank_of(int(labels[index]), mean)
    classes, probabilities, ranks = (
        meshes.exchange(array)[0] for array in (classes, probabilities, ranks)
    )
    return Result(protocol, complete, labels, classes, probabilities, counted, ranks)


def rank_of(label: int, posteriors: np.ndarray) -> tuple[int, int]:
    """How many of [classes] are more probable than a label, and how many others as probable."""
    own = posteriors[label]
    return int((posteriors > own).sum()), int((posteriors == own).sum()) - 1


def ranks_in(store: Store) -> np.ndarray:
    """`rank_of` the labels of what a store holds, int32 [images, 2], on every process."""
    ranks = np.zeros((len(store.states), 2), np.int32)
    if jax.process_index() == 0:
        for index in np.flatnonzero(store.states == COUNTED):
            ranks[index] = rank_of(int(store.labels[index]), store.posteriors[index])
    return meshes.exchange(ranks)[0]
