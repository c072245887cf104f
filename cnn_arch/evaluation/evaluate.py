"""Error rates of a network over a whole split: every image counts exactly once.

Images are read and decoded once, on the host that owns them, resized to each scale of the
protocol and put into batches of few shapes; the views are cut on the devices. Rows that fill up a
batch carry no image. The result does not depend on the number of devices or hosts: all hosts know
the sizes of all images, so that each works out the same sequence of batches.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch.data import decode
from cnn_arch.data.sources import Example, Source
from cnn_arch.errors import UserError
from cnn_arch.evaluation import batching, protocols, views
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation.batching import Batch, Shape
from cnn_arch.evaluation.progress import Progress

TOP = 5  # classes kept of each image
ROUND = 512  # images per host whose sizes are read ahead, encoded bytes kept
IN_FLIGHT = 2  # batches computing on the devices while the next is prepared
# Canvases of a scale, and so compilations: chosen for the images of the first round, then for those
# of later rounds that fit on none of them.
CANVASES, LATE_CANVASES = 6, 2


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
        size = len(source)
        self.labels = np.zeros(size, np.int32)
        self.classes = np.full((size, TOP), -1, np.int32)
        self.probabilities = np.zeros((size, TOP), np.float32)
        self.counted = np.zeros(size, bool)

        rows = meshes.host_rows(config.eval.batch_size, network.mesh)
        starts = meshes.exchange(np.asarray([rows.start]))[:, 0]
        groups = np.unique(starts)  # processes that supply the same rows are one group
        self._groups, self._group = len(groups), int(np.searchsorted(groups, rows.start))
        self._speakers = [int(np.flatnonzero(starts == start)[0]) for start in groups]

        self._queues = batching.Queues(self._groups)
        self._sizes: dict[int, Shape] = {}  # of images on their way, pixels
        self._decoded: dict[int, concurrent.futures.Future] = {}  # this host's images
        self._errors: dict[int, str] = {}  # why an image of this host did not decode
        self._sums: dict[int, tuple[int, np.ndarray]] = {}  # scales done, sum of posteriors
        self._computing: collections.deque[tuple[Batch, Any]] = collections.deque()
        self._finished = 0
        self._progress = Progress(size)

    # ---- the sequence of batches, the same on every process

    def run(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Fills in labels, classes, probabilities and counted."""
        late = self._run_all(pool, range(len(self._source)), CANVASES)
        if late:
            self._run_all(pool, late, LATE_CANVASES)
        for batch in self._queues.rest():
            self._compute(batch)
        while self._computing:
            self._collect()
        self._progress.close()

    def _run_all(
        self, pool: concurrent.futures.ThreadPoolExecutor, indices: Sequence[int], canvases: int
    ) -> list[int]:
        """Runs these images; returns those that fit on no canvas."""
        step = ROUND * self._groups
        rounds = [indices[start : start + step] for start in range(0, len(indices), step)]
        late: list[int] = []
        ahead = self._read(pool, rounds[0]) if rounds else []
        for number, images in enumerate(rounds):
            examples = [future.result() for future in ahead]
            ahead = self._read(pool, rounds[number + 1]) if number + 1 < len(rounds) else []
            self._learn(images, examples)
            if number == 0:
                self._choose_canvases([i for i in indices if i in self._sizes], canvases)
            late += self._run_round(pool, images, examples)
        return late

    def _shares(self, images: Sequence[int]) -> list[Sequence[int]]:
        """The part of a round that each group of hosts reads."""
        size = -(-len(images) // self._groups)
        return [images[group * size : (group + 1) * size] for group in range(self._groups)]

    def _learn(self, images: Sequence[int], examples: list[tuple[Example, Shape | None]]) -> None:
        """Takes note of the sizes and labels of a round's images, this host's and the others'."""
        facts = np.full((ROUND, 4), -1, np.int32)  # height, width, label, readable
        for row, (example, size) in enumerate(examples):
            facts[row] = (*(size or (0, 0)), example.label, size is not None)
        everyone = meshes.exchange(facts)[self._speakers]
        for share, rows in zip(self._shares(images), everyone, strict=True):
            for index, (height, width, label, readable) in zip(share, rows, strict=False):
                self.labels[index] = label
                self._check_label(index, int(label))
                if readable:
                    self._sizes[index] = (int(height), int(width))
                else:
                    self._skip(index)

    def _choose_canvases(self, images: Sequence[int], most: int) -> None:
        for scale in self._scales:
            shapes = [self._box(self._sizes[index], scale)[2:] for index in images]
            canvases = batching.choose_canvases(shapes, most)
            rows = {canvas: self._rows(canvas) for canvas in canvases}
            self._queues.set_canvases(scale, rows)

    def _rows(self, canvas: Shape) -> int:
        """Images of a batch: as configured for windows; whole images count by their area."""
        size = self._config.eval.batch_size
        if not any(view.kind == 'whole' for view in self._views):
            return size
        devices = self._network.mesh.shape[meshes.DATA]
        return batching.rows_of(canvas, self._network.crop, size, devices)

    def _run_round(
        self,
        pool: concurrent.futures.ThreadPoolExecutor,
        images: Sequence[int],
        examples: list[tuple[Example, Shape | None]],
    ) -> list[int]:
        """Decodes and computes a round; returns the images that fit on no canvas."""
        shares, late = self._shares(images), []
        fits = {index: self._canvases_of(index) for index in images if index in self._sizes}
        mine = collections.deque(enumerate(zip(shares[self._group], examples, strict=True)))
        for place in range(len(shares[0])):
            while mine and (mine[0][0] <= place or len(self._decoded) < self._depth()):
                _, (index, (example, size)) = mine.popleft()
                if size is not None and None not in fits[index]:
                    self._decoded[index] = pool.submit(self._prepare, example, size)
            for group, share in enumerate(shares):
                if place >= len(share) or share[place] not in fits:
                    continue
                index = share[place]
                if None in fits[index]:
                    late.append(index)
                    continue
                for scale, canvas in zip(self._scales, fits[index], strict=True):
                    assert canvas is not None
                    self._queues.add(scale, canvas, group, index)
            for batch in self._queues.full():
                self._compute(batch)
        return late

    def _canvases_of(self, index: int) -> list[Shape | None]:
        return [
            self._queues.canvas_of(scale, self._box(self._sizes[index], scale)[2:])
            for scale in self._scales
        ]

    def _box(self, size: Shape, scale: int) -> tuple[int, int, int, int]:
        """The part of a resized image that its views need: top, left, height, width."""
        resized = decode.isotropic_size(*size, scale)
        return views.bounding_box(self._views, resized, self._network.crop)

    # ---- this host's part

    def _read(
        self, pool: concurrent.futures.ThreadPoolExecutor, images: Sequence[int]
    ) -> list[concurrent.futures.Future]:
        return [pool.submit(self._open, index) for index in self._shares(images)[self._group]]

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
            top, left, height, width = self._box(size, scale)
            ratio = (size[0] / resized[0], size[1] / resized[1])
            result[scale] = decode.crop_and_resize(
                image,
                (top * ratio[0], left * ratio[1], height * ratio[0], width * ratio[1]),
                (height, width),
                self._config.eval.interpolation,
                channels,
            )
        return result

    def _compute(self, batch: Batch) -> None:
        """Starts one batch on the devices."""
        mesh, crop = self._network.mesh, self._network.crop
        began = time.monotonic()
        inputs = meshes.to_devices(mesh, self._inputs(batch), batch.indices.size)
        self._progress.waited += time.monotonic() - began
        total, images, corners = inputs['total'], inputs['images'], inputs['corners']
        for number, view in enumerate(self._views):
            weight, mirrored = np.float32(view.weight), np.bool_(view.mirrored)
            if view.kind == 'whole':
                pixels = networks.mirror(images, inputs['widths'], mesh) if mirrored else images
                total = networks.add_whole(
                    total, weight, self._variables, pixels, inputs['facts'], self._network
                )
                continue
            pixels = images
            if view.kind == 'square':
                pixels = networks.cut_window(pixels, corners, number, mirrored, batch.scale, mesh)
                pixels = networks.resize(pixels, crop)
            elif len(self._views) > 1:
                pixels = networks.cut_window(pixels, corners, number, mirrored, crop, mesh)
            total = networks.add_windows(total, weight, self._variables, pixels, self._network)
        self._computing.append((batch, (total, inputs['valid'])))
        while len(self._computing) > IN_FLIGHT:
            self._collect()

    def _inputs(self, batch: Batch) -> dict[str, np.ndarray]:
        """This host's rows of a batch, and where its views lie in them."""
        indices = batch.indices[self._group]
        rows, classes = len(indices), self._config.model.num_classes
        shapes = np.tile(batch.canvas, (rows, 1))
        images = np.zeros((rows, *batch.canvas, self._config.data.channels), np.uint8)
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
            pixels = prepared.pop(batch.scale)
            shapes[row], valid[row] = pixels.shape[:2], True
            images[row, : len(pixels), : pixels.shape[1]] = pixels
            resized = decode.isotropic_size(*self._sizes[index], batch.scale)
            box = self._box(self._sizes[index], batch.scale)
            for number, view in enumerate(self._views):
                top, left, _, _ = view.box(resized, self._network.crop)
                corners[row, number] = top - box[0], left - box[1]
        inputs = {
            'images': images,
            'corners': corners,
            'valid': valid,
            'total': np.zeros((rows, classes), np.float32),
        }
        if any(view.kind == 'whole' for view in self._views):
            inputs['facts'] = self._network.ragged().facts(shapes)
            inputs['widths'] = shapes[:, 1].astype(np.int32)
        return inputs

    def _depth(self) -> int:
        """Images decoded ahead."""
        return self._config.data.prefetch * self._config.eval.batch_size // self._groups

    # ---- results

    def _collect(self) -> None:
        """Takes in the posteriors of the oldest batch."""
        batch, outputs = self._computing.popleft()
        posteriors, valid = meshes.gather(self._network.mesh, outputs)
        for index, row, is_valid in zip(batch.indices.flat, posteriors, valid, strict=True):
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
