"""Training samples of small images held in memory, made as whole batches.

The augmentation of CIFAR (He et al. 2016, section 4.2, after Lee et al. 2015): "4 pixels are padded
on each side, and a 32x32 crop is randomly sampled from the padded image or its horizontal flip".
One image at a time costs more than a small network's step; here one call draws the numbers of a
batch, and a sample costs three copies of slices.

The stream has the same meaning as any other: what is drawn at position p derives from (seed, p)
alone. A position owns one block of the counter-based generator, and consecutive positions own
consecutive blocks, so that a batch's numbers are one stretch of its output.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_arch.data.sources import ArraySource, Source
from cnn_arch.errors import UserError

WINDOW = 3  # the stream of these numbers, beside those of cnn_arch.data.loader
# What a batch drawn as arrays does not do.
OTHERS = ('pca_colour', 'pixel_jitter', 'photometric', 'colour_jitter', 'rotation', 'planar')


def serves(source: ArraySource, augment: Any) -> bool:
    """Whether `ArrayReader` makes the samples of a source under config.data.augment.

    It does for `crop=padded`, and where images are taken as they are: then the samples are those of
    the reader of single images.
    """
    if any(augment[key] for key in OTHERS):
        return False
    as_it_is = augment.crop == 'none' and not augment.mirror
    return augment.crop == 'padded' or (as_it_is and _fits(source, augment.size))


def check(source: Source, augment: Any) -> None:
    """Raises UserError where `crop=padded` is asked for what it cannot be done with."""
    if augment.crop != 'padded':
        return
    if not isinstance(source, ArraySource) or not _fits(source, augment.size):
        raise UserError(
            f'data.augment.crop = padded takes images of data.augment.size = {augment.size} pixels '
            f'that lie in memory (cifar10, cifar100, digits, idx files of mnist), not {source.name}'
        )
    for key in OTHERS:
        if augment[key]:
            raise UserError(f'data.augment.{key} = {augment[key]!r} does not go with '
                            'data.augment.crop = padded')  # fmt: skip


def _fits(source: ArraySource, size: int) -> bool:
    return source.images.shape[1:3] == (size, size)


def windows(seed: int, positions: range, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each position: the crop's corner, int64 [N, 2], and whether it is mirrored, bool [N].

    The corner is the crop's upper left pixel in the image, each of the 2 padding + 1 places from
    -padding to padding equally likely (to 1e-18).
    """
    generator = np.random.Philox(key=seed, counter=[positions.start, 0, 0, WINDOW])
    words = generator.random_raw(4 * len(positions)).reshape(-1, 4)
    corners = (words[:, :2] % np.uint64(2 * padding + 1)).astype(np.int64) - padding
    return corners, (words[:, 2] & np.uint64(1)).astype(bool)


class ArrayReader:
    """Makes the samples at consecutive positions of the stream; safe to call from threads.

    `order` gives the index of the image at each of these positions.
    """

    def __init__(
        self, source: ArraySource, order: Callable[[range], np.ndarray], seed: int, augment: Any
    ):
        self._source, self._order, self._seed = source, order, seed
        self._padding = augment.padding if augment.crop == 'padded' else 0
        self._padded, self._mirror = augment.crop == 'padded', augment.mirror

    def batch(self, positions: range) -> dict[str, np.ndarray]:
        """The samples at consecutive positions.

        'image' uint8 [N, size, size, C], 'label' int32 [N]; with padding also 'corner' int32 [N, 2]
        (see `cnn_arch.data.preprocess`): the pixels beyond the image, here 0, become zeros there.
        """
        images, indices = self._source.images, self._order(positions)
        labels = self._source.labels[indices].astype(np.int32)
        if not self._padded:
            return {'image': images[indices], 'label': labels}
        side = images.shape[1]
        corners, mirrored = windows(self._seed, positions, self._padding)
        mirrored &= self._mirror
        batch = np.zeros((len(indices), *images.shape[1:]), np.uint8)
        places = zip(batch, indices.tolist(), corners.tolist(), mirrored.tolist(), strict=True)
        for sample, index, (top, left), mirror in places:
            part = images[index, max(0, top) : side + top, max(0, left) : side + left]
            target = sample[:, ::-1] if mirror else sample
            row, column = max(0, -top), max(0, -left)
            target[row : row + part.shape[0], column : column + part.shape[1]] = part
        corners[:, 1] *= np.where(mirrored, -1, 1)  # where the image lies in the mirrored crop
        return {'image': batch, 'label': labels, 'corner': corners.astype(np.int32)}
