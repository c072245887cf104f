"""Error rates of a network over a whole split: every image counts exactly once.

Images are read and decoded once, on the host that owns them, resized to each scale of the protocol
and put into batches of one shape; the views are cut on the devices. Rows that fill up a batch carry
no image. The result does not depend on the number of devices or hosts: all hosts know the sizes of
all images, so that each works out the same sequence of batches.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import time
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch.data import decode
from cnn_arch.data.sources import Example, Source
from cnn_arch.errors import UserError
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation import protocols, views
from cnn_arch.evaluation.progress import Progress

TOP = 5  # classes kept of each image
ROUND = 512  # images per host whose sizes are read ahead, encoded bytes kept
IN_FLIGHT = 2  # batches computing on the devices while the next is prepared

Shape = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured over the images of a source, and of how many the whole split has.

    `classes` int32 [images, 5] and `probabilities` float32 [images, 5], the most probable first (-1
    and 0 beyond the number of classes), `labels` int32 [images]; `counted` bool [images] is False
    for an image that could not be decoded.
    """

    protocol: str
    complete: int
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    counted: np.ndarray

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

    def _error(self, top: int) -> float:
        missed = (self.classes[:, :top] != self.labels[:, None]).all(axis=1)[self.counted]
        return 100 * float(missed.sum()) / self.n


def evaluate(
    model: nn.Module,
    variables: Any,
    source: Source,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    protocol: str | None = None,
) -> Result:
    """Runs `config.eval.protocol` (or `protocol`) over all images of a source.

    Compiled functions are kept: a second call with an equal model, config and mesh starts at once.
    Raises UserError for an impossible protocol, labels out of range, scores that are not finite,
    and an image that does not decode unless `data.on_bad_image` is 'skip' (then it is not counted).
    """
    plan = protocols.resolve(config, protocol)
    meshes.check_batch('eval.batch_size', config.eval.batch_size, mesh)
    network = networks.Network.create(model, config, plan, mesh)
    evaluation = _Evaluation(network, meshes.place(mesh, variables), source, config, plan)
    with concurrent.futures.ThreadPoolExecutor(config.data.threads) as pool:
        evaluation.run(pool)
    if not evaluation.counted.any():
        raise UserError(f'{source.name}: not one image could be evaluated')
    return Result(
        plan.protocol,
        source.complete,
        evaluation.labels,
        evaluation.classes,
        evaluation.probabilities,
        evaluation.counted,
    )


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Images of one scale that fit one shape: for each host group the indices of its rows."""

    scale: int  # pixels
    shape: Shape  # of the arrays
    indices: np.ndarray  # int [rows], -1 = no image


class _Evaluation:
    """One pass over a source. Every process runs the same batches in the same order."""

    def __init__(
        self,
        network: networks.Network,
        variables: Any,
        source: Source,
        config: ml_collections.ConfigDict,
        plan: protocols.Plan,
    ):
        self._network, self._variables, self._source = network, variables, source
        self._config, self._scales = config, plan.scales
        self._views = views.views_of(plan)
        self._whole = any(view.kind == 'whole' for view in self._views)
        size = len(source)
        self.labels = np.zeros(size, np.int32)
        self.classes = np.full((size, TOP), -1, np.int32)
        self.probabilities = np.zeros((size, TOP), np.float32)
        self.counted = np.zeros(size, bool)

        mesh = network.mesh
        rows = meshes.host_rows(config.eval.batch_size, mesh)
        starts = meshes.exchange(np.asarray([rows.start]))[:, 0]
        groups = np.unique(starts)  # processes that supply the same rows are one group
        self._groups, self._group = len(groups), int(np.searchsorted(groups, rows.start))
        self._first_process = np.asarray(
            [int(np.flatnonzero(starts == start)[0]) for start in groups]
        )

        self._sizes: dict[int, Shape] = {}  # of images on their way, pixels
        self._queues: dict[tuple[int, Shape], list[collections.deque[int]]] = {}
        self._decoded: dict[int, concurrent.futures.Future] = {}  # this host's images
        self._errors: dict[int, str] = {}  # why an image of this host did not decode
        self._sums: dict[int, tuple[int, np.ndarray]] = {}  # scales done, sum of posteriors
        self._computing: collections.deque[tuple[_Batch, Any]] = collections.deque()
        self._finished = 0
        self._progress = Progress(size)

    # ---- the sequence of batches, the same on every process

    def run(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Fills in labels, classes, probabilities and counted."""
        step = ROUND * self._groups
        starts = range(0, len(self._source), step)
        ahead = self._read(pool, starts[0]) if starts else []
        for start in starts:
            examples = [future.result() for future in ahead]
            ahead = self._read(pool, start + step) if start + step < len(self._source) else []
            self._run_round(pool, start, examples)
        while self._queues:
            (scale, shape), queues = next(iter(self._queues.items()))
            while any(queues):
                self._compute(scale, shape, queues)
            del self._queues[scale, shape]
        while self._computing:
            self._collect()
        self._progress.close()

    def _owned(self, start: int, group: int) -> range:
        """The images of the round that begins at `start` which a group of hosts reads."""
        first = start + group * ROUND
        return range(min(first, len(self._source)), min(first + ROUND, len(self._source)))

    def _run_round(
        self,
        pool: concurrent.futures.ThreadPoolExecutor,
        start: int,
        examples: list[tuple[Example, Shape | None]],
    ) -> None:
        facts = np.full((ROUND, 4), -1, np.int32)  # height, width, label, readable
        for row, (example, size) in enumerate(examples):
            facts[row] = (*(size or (0, 0)), example.label, size is not None)
        everyone = meshes.exchange(facts)[self._first_process]  # [groups, ROUND, 4]
        owned = [self._owned(start, group) for group in range(self._groups)]
        mine = owned[self._group]
        for indices, of_group in zip(owned, everyone, strict=True):
            for index, (height, width, label, readable) in zip(indices, of_group, strict=False):
                self.labels[index] = label
                self._check_label(index, int(label))
                if readable:
                    self._sizes[index] = (int(height), int(width))
                else:
                    self._skip(index)

        lookahead = collections.deque(zip(mine, examples, strict=True))
        for place in range(max(len(indices) for indices in owned)):
            for indices in owned:
                if place < len(indices) and indices[place] in self._sizes:
                    self._enqueue(indices[place])
            while lookahead and lookahead[0][0] <= mine.start + place + self._depth():
                index, (example, size) = lookahead.popleft()
                if size is not None:
                    self._decoded[index] = pool.submit(self._prepare, example, size)
            for (scale, shape), queues in self._queues.items():
                rows = self._batch_size(shape) // self._groups
                while all(len(queue) >= rows for queue in queues):
                    self._compute(scale, shape, queues)

    def _enqueue(self, index: int) -> None:
        for scale in self._scales:
            size = decode.isotropic_size(*self._sizes[index], scale)
            box = views.bounding_box(self._views, size, self._network.crop)
            shape = (box[2], box[3])
            queues = self._queues.setdefault(
                (scale, shape), [collections.deque() for _ in range(self._groups)]
            )
            queues[self._group_of(index)].append(index)

    def _group_of(self, index: int) -> int:
        return index % (ROUND * self._groups) // ROUND

    def _batch_size(self, shape: Shape) -> int:
        """Images in a batch: whole images count by their area, in windows."""
        size = self._config.eval.batch_size
        if not self._whole:
            return size
        parts = self._network.mesh.shape[meshes.DATA]
        share = self._network.crop**2 / (shape[0] * shape[1])
        return max(1, int(size * min(share, 1.0)) // parts) * parts

    # ---- this host's part

    def _depth(self) -> int:
        """Images decoded ahead."""
        return self._config.data.prefetch * self._config.eval.batch_size // self._groups

    def _read(
        self, pool: concurrent.futures.ThreadPoolExecutor, start: int
    ) -> list[concurrent.futures.Future]:
        return [pool.submit(self._open, index) for index in self._owned(start, self._group)]

    def _open(self, index: int) -> tuple[Example, Shape | None]:
        example = self._source[index]
        try:
            return example, decode.image_size(example.image)
        except decode.DecodeError as error:
            self._errors[index] = f'{example.key}: {error}'
            return example, None

    def _prepare(self, example: Example, size: Shape) -> dict[int, np.ndarray]:
        """For each scale the part of the resized image that its views need."""
        image, channels = example.image, self._config.data.channels
        if len(self._scales) > 1:
            image = decode.decode(image, channels)
        result = {}
        for scale in self._scales:
            resized = decode.isotropic_size(*size, scale)
            box = views.bounding_box(self._views, resized, self._network.crop)
            ratio = (size[0] / resized[0], size[1] / resized[1])
            source_box = (
                box[0] * ratio[0], box[1] * ratio[1], box[2] * ratio[0], box[3] * ratio[1]
            )  # fmt: skip
            result[scale] = decode.crop_and_resize(
                image, source_box, (box[2], box[3]), self._config.eval.interpolation, channels
            )
        return result

    def _compute(self, scale: int, shape: Shape, queues: list[collections.deque[int]]) -> None:
        """Starts one batch on the devices."""
        size = self._batch_size(shape)
        rows = size // self._groups
        indices = np.full((self._groups, rows), -1)
        for group, queue in enumerate(queues):
            taken = [queue.popleft() for _ in range(min(rows, len(queue)))]
            indices[group, : len(taken)] = taken
        batch = _Batch(scale, shape, indices.reshape(-1))
        began = time.monotonic()
        inputs = meshes.to_devices(
            self._network.mesh, self._inputs(batch, indices[self._group]), size
        )
        self._progress.waited += time.monotonic() - began
        mesh = self._network.mesh
        total, images, corners = inputs['total'], inputs['images'], inputs['corners']
        for number, view in enumerate(self._views):
            mirrored, pixels = np.bool_(view.mirrored), images
            if view.kind == 'whole':
                pixels = networks.cut_whole(images, mirrored)
            elif view.kind == 'square':
                pixels = networks.cut_window(images, corners, number, mirrored, scale, mesh)
                pixels = networks.resize(pixels, size=self._network.crop)
            elif len(self._views) > 1:
                side = self._network.crop
                pixels = networks.cut_window(images, corners, number, mirrored, side, mesh)
            total = networks.accumulate(
                total, np.float32(view.weight), self._variables, pixels,
                network=self._network, whole=view.kind == 'whole',
            )  # fmt: skip
        self._computing.append((batch, (total, inputs['valid'])))
        while len(self._computing) > IN_FLIGHT:
            self._collect()

    def _inputs(self, batch: _Batch, indices: np.ndarray) -> dict[str, np.ndarray]:
        """This host's rows of a batch, and the corner of each view in them, [rows, views, 2]."""
        rows = len(indices)
        images = np.zeros((rows, *batch.shape, self._config.data.channels), np.uint8)
        corners = np.zeros((rows, len(self._views), 2), np.int32)
        valid = np.zeros(rows, bool)
        for row, index in enumerate(indices):
            if index < 0:
                continue
            try:
                prepared = self._decoded[index].result()
            except decode.DecodeError as error:
                self._errors[index] = f'{self._source[index].key}: {error}'
                continue
            images[row] = prepared.pop(batch.scale)
            valid[row] = True
            size = decode.isotropic_size(*self._sizes[index], batch.scale)
            box = views.bounding_box(self._views, size, self._network.crop)
            for number, view in enumerate(self._views):
                top, left, _, _ = view.box(size, self._network.crop)
                corners[row, number] = top - box[0], left - box[1]
        total = np.zeros((rows, self._config.model.num_classes), np.float32)
        return {'images': images, 'corners': corners, 'valid': valid, 'total': total}

    # ---- results

    def _collect(self) -> None:
        """Takes in the posteriors of the oldest batch."""
        batch, outputs = self._computing.popleft()
        posteriors, valid = meshes.gather(self._network.mesh, outputs)
        for index, row, is_valid in zip(batch.indices, posteriors, valid, strict=True):
            if index < 0:
                continue
            done, total = self._sums.pop(index, (0, np.zeros_like(row)))
            total = total + (row if is_valid else np.nan)
            if done + 1 < len(self._scales):
                self._sums[index] = (done + 1, total)
            elif is_valid:
                self._finish(index, total)
            else:
                self._skip(index)
        self._progress.update(self._finished)

    def _finish(self, index: int, posteriors: np.ndarray) -> None:
        if not np.isfinite(posteriors).all():
            raise UserError(f'image {index} of {self._source.name}: the scores are not finite')
        assert not self.counted[index], index
        best = np.argsort(-posteriors, kind='stable')[:TOP]
        self.classes[index, : len(best)] = best
        self.probabilities[index, : len(best)] = posteriors[best]
        self.counted[index] = True
        self._forget(index)

    def _skip(self, index: int) -> None:
        error = self._errors.pop(index, f'{index} of {self._source.name}')
        if self._config.data.on_bad_image == 'stop':
            raise UserError(
                f'image {error}; remove it, or go on without it: --config.data.on_bad_image=skip'
            )
        logging.warning('not counted: image %s', error)
        self._forget(index)

    def _forget(self, index: int) -> None:
        self._sizes.pop(index, None)
        self._decoded.pop(index, None)
        self._finished += 1

    def _check_label(self, index: int, label: int) -> None:
        classes = self._config.model.num_classes
        if not 0 <= label < classes:
            raise UserError(
                f'image {self._source[index].key}: class {label} is out of range, the network has '
                f'{classes} classes'
            )
