"""The stream of training batches: a function of the seed and the step number, nothing else.

The seed is `data.seed`, or that of the run where it is -1: so the networks of GoogLeNet's ensemble
start from the same weights and differ in sampling (section 7).

The sample at position p = step * batch_size + row is image `permutation(seed, epoch)[p mod n]` with
augmentation drawn from a generator seeded by (seed, p). So the stream is the same for any number of
hosts, threads, workers and devices, and the state of the input is the step: any step is reached at
once.
"""

import collections
import functools
import logging
import time
import types
from collections.abc import Iterator
from typing import Protocol

import grain
import jax
import ml_collections
import numpy as np
from absl import flags
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch.data import arrays, augment, decode
from cnn_arch.data.sources import ArraySource, Source
from cnn_arch.errors import UserError

Batch = dict[str, np.ndarray]

# Streams of random numbers that must never meet: each is keyed by (seed, one of these);
# cnn_arch.data.arrays has another.
_ORDER, _SAMPLE, _REPLACEMENT = 0, 1, 2


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """The random numbers of one position of one stream; Philox makes any position cheap."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, position, stream]))


@functools.lru_cache(maxsize=3)  # two epochs meet in a batch that straddles them
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of all images in an epoch: a global shuffle, int64 [size]."""
    return generator(seed, _ORDER, epoch).permutation(size)


def indices(seed: int, size: int, positions: range) -> np.ndarray:
    """Which of `size` images stands at each position of the stream, int64 [positions]."""
    parts = []
    for epoch in range(positions.start // size, (positions.stop - 1) // size + 1):
        first, last = positions.start - epoch * size, positions.stop - epoch * size
        parts.append(permutation(seed, epoch, size)[max(0, first) : last])
    return np.concatenate(parts)


def sampling_seed(config: ml_collections.ConfigDict) -> int:
    """The seed of the stream: data.seed, or the run's where that is -1."""
    return config.seed if config.data.seed < 0 else config.data.seed


class Reader(Protocol):
    """Makes the samples at consecutive positions of the stream; safe to call from threads."""

    def batch(self, positions: range) -> Batch: ...


class SampleReader:
    """Makes the sample at any position of the stream; safe to call from several threads."""

    def __init__(self, source: Source, config: ml_collections.ConfigDict):
        self._source = source
        self._seed = sampling_seed(config)
        self._config = config.data
        # A ConfigDict takes its time at each look, which matters a dozen times per image.
        self._augment = types.SimpleNamespace(**config.data.augment)

    def __call__(self, position: int) -> Batch:
        size = len(self._source)
        epoch, place = divmod(position, size)
        index = int(permutation(self._seed, epoch, size)[place])
        replaced = False
        try:
            sample = self._sample(index, position)
        except decode.DecodeError as error:
            sample, replaced = self._replacement(error, position), True
        if self._config.on_bad_image == 'skip':
            sample['replaced'] = np.asarray(replaced)  # counted in the step, whoever read it
        return sample

    def batch(self, positions: range) -> Batch:
        """The samples at consecutive positions, one after another."""
        samples = [self(position) for position in positions]
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}

    def _sample(self, index: int, position: int) -> Batch:
        example = self._source[index]
        rng = generator(self._seed, _SAMPLE, position)
        try:
            sample = augment.train_example(example.image, rng, self._augment, self._config.channels)
        except decode.DecodeError as error:
            raise decode.DecodeError(f'{example.key}: {error}') from error
        sample['label'] = np.asarray(example.label, np.int32)
        return sample

    def _replacement(self, error: decode.DecodeError, position: int) -> Batch:
        """With `on_bad_image=skip`, another image, drawn from the seed and the position alone."""
        if self._config.on_bad_image == 'stop':
            raise UserError(
                f'image {error}; remove it, or go on without it: --config.data.on_bad_image=skip'
            ) from error
        logging.warning('replaced image %s', error)
        for index in generator(self._seed, _REPLACEMENT, position).integers(
            len(self._source), size=100
        ):
            try:
                return self._sample(int(index), position)
            except decode.DecodeError:
                continue
        raise UserError(f'100 images in a row do not decode; the last: {error}') from error


class TrainingBatches:
    """Iterates over the batches of steps `start` to `stop` as arrays on the devices.

    `waited` counts the seconds that the iterating thread spent waiting for input. Raises UserError
    where an image does not decode (its key is named) and `data.on_bad_image` is 'stop'.
    """

    def __init__(
        self,
        source: Source,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        start: int,
        stop: int,
    ):
        reader = reader_of(source, config)
        self.waited = 0.0
        self._mesh = mesh
        self._size = config.train.batch_size
        rows = meshes.host_rows(self._size, mesh)
        steps: grain.MapDataset = grain.MapDataset.range(start, stop)
        batches = steps.map(functools.partial(host_batch, reader, self._size, rows))
        options = grain.ReadOptions(
            num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch
        )
        stream = batches.to_iter_dataset(options)
        if config.data.workers:
            if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, which nobody sets
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(config.data.workers))
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        ahead: collections.deque[dict[str, jax.Array]] = collections.deque()
        stream = iter(self._stream)
        try:
            while True:
                started = time.monotonic()
                batch = next(stream, None)
                if batch is not None:
                    # One batch is on its way to the devices while the step before it computes.
                    ahead.append(meshes.to_devices(self._mesh, batch, self._size))
                self.waited += time.monotonic() - started
                if batch is None or len(ahead) > 1:
                    if not ahead:
                        return
                    yield ahead.popleft()
        finally:
            # Ends the workers; the memory they share goes back once nobody holds a batch of it.
            batch = None
            ahead.clear()
            stream.close()


def reader_of(source: Source, config: ml_collections.ConfigDict) -> Reader:
    """What makes the samples of a source: whole arrays at once where that gives the same."""
    augment = config.data.augment
    if isinstance(source, ArraySource) and arrays.serves(source, augment):
        seed = sampling_seed(config)
        order = functools.partial(indices, seed, len(source))
        return arrays.ArrayReader(source, order, seed, augment)
    return SampleReader(source, config)


def host_batch(reader: Reader, size: int, rows: slice, step: int) -> Batch:
    """The rows of the global batch of `step` that this host supplies."""
    return reader.batch(range(step * size + rows.start, step * size + rows.stop))
