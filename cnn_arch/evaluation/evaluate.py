"""Error rates of a network over a whole split: every image counts exactly once.

Images are read and decoded once, on the host that owns them, resized to each scale of the
protocol and put into batches of few shapes; the views are cut on the devices. Rows that fill up a
batch carry no image. The result does not depend on the number of devices or hosts: all hosts know
the sizes of all images, so that each works out the same sequence of batches.
"""

import collections
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cnn_arch import cluster
from cnn_arch import mesh as meshes
from cnn_arch.data.sources import Example, Source
from cnn_arch.errors import UserError
from cnn_arch.evaluation import batching, protocols
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation.batching import Batch, Shape
from cnn_arch.evaluation.progress import Progress
from cnn_arch.evaluation.reading import Reader
from cnn_arch.evaluation.result import TOP, Result, Usage, rank_of, ranks_in
from cnn_arch.evaluation.store import COUNTED, MISSING, Store, best_of

ROUND = 512  # images per host whose sizes are read ahead, encoded bytes kept
LONGEST_ERROR = 1024  # bytes of what is said of an image that does not decode
IN_FLIGHT = 2  # batches computing on the devices while the next is prepared
# Canvases of a scale, and so compilations: chosen for the images of the first round, then for those
# of later rounds that fit on none of them.
CANVASES, LATE_CANVASES = 6, 2


def evaluate(
    model: nn.Module,
    variables: Any,
    source: Source,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    protocol: str | None = None,
    store: Store | None = None,
    check: Callable[[], None] | None = None,
) -> Result:
    """Runs `config.eval.protocol` (or `protocol`) over all images of a source.

    Compiled functions are kept: a second call with an equal model, config and mesh starts at once.
    What a `store` of the same evaluation holds is not computed again, and what is computed is kept
    there. `check` is called before each batch, at the same one on every process; it may raise.
    Raises UserError for an impossible protocol, labels out of range, scores that are not finite,
    and an image that does not decode unless `data.on_bad_image` is 'skip' (then it is not counted).
    """
    plan = protocols.resolve(config, protocol)
    meshes.check_batch('eval.batch_size', config.eval.batch_size, mesh)
    network = networks.Network.create(model, config, plan, mesh)
    evaluation = _Evaluation(
        network, meshes.place(mesh, variables), source, config, plan, store, check
    )
    pool = concurrent.futures.ThreadPoolExecutor(config.data.threads)
    try:
        with contextlib.nullcontext() if store is None else store.writing():
            evaluation.run(pool)
    finally:
        pool.shutdown(cancel_futures=True)
    if not evaluation.counted.any():
        raise UserError(f'{source.name}: not one image could be evaluated')
    return Result(
        plan.protocol,
        source.complete,
        evaluation.labels,
        evaluation.classes,
        evaluation.probabilities,
        evaluation.counted,
        evaluation.ranks,
        tuple(evaluation.usage[scale] for scale in plan.scales if scale in evaluation.usage),
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
        store: Store | None,
        check: Callable[[], None] | None,
    ):
        self._network, self._variables, self._source = network, variables, source
        self._config, self._scales = config, plan.scales
        self._average_scores = plan.view_average == 'scores'
        self._reader = Reader(source, config, plan)
        self._views = self._reader.views
        size = len(source)
        self.labels = np.zeros(size, np.int32)
        self.classes = np.full((size, TOP), -1, np.int32)
        self.probabilities = np.zeros((size, TOP), np.float32)
        self.counted = np.zeros(size, bool)
        self.ranks = np.zeros((size, 2), np.int32)
        self.usage: dict[int, Usage] = {}
        self._check = check
        self._store, self._remaining = store, list(range(size))
        if store is not None:
            self.labels[:] = store.labels
            self.classes, self.probabilities = store.best(TOP)
            self.counted[:] = store.states == COUNTED
            self.ranks = ranks_in(store)
            self._remaining = np.flatnonzero(store.states == MISSING).tolist()

        rows = meshes.host_rows(config.eval.batch_size, network.mesh)
        starts = meshes.exchange(np.asarray([rows.start]))[:, 0]
        groups = np.unique(starts)  # processes that supply the same rows are one group
        self._groups, self._group = len(groups), int(np.searchsorted(groups, rows.start))
        self._speakers = [int(np.flatnonzero(starts == start)[0]) for start in groups]

        self._queues = batching.Queues(self._groups)
        self._sizes: dict[int, Shape] = {}  # of images on their way, pixels
        self._decoded: dict[int, concurrent.futures.Future] = {}  # this host's images
        self._sums: dict[int, tuple[int, np.ndarray]] = {}  # scales done, sum of posteriors
        self._computing: collections.deque[tuple[Batch, Any]] = collections.deque()
        self._finished = 0
        self._progress = Progress(len(self._remaining))

    # ---- the sequence of batches, the same on every process

    def run(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Fills in labels, classes, probabilities and counted."""
        late = self._run_all(pool, self._remaining, CANVASES)
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
            shapes = [self._shape(index, scale) for index in images]
            canvases = batching.choose_canvases(shapes, most)
            rows = {canvas: self._rows(canvas) for canvas in canvases}
            self._queues.set_canvases(scale, rows)

    def _rows(self, canvas: Shape) -> int:
        """Images of a batch: as configured for windows; whole images count by their area."""
        size = self._config.eval.batch_size
        if not any(view.kind == 'whole' for view in self._views):
            return size
        devices = self._network.mesh.devices.size
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
                    self._decoded[index] = pool.submit(self._reader.prepare, index, example, size)
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
        return [self._queues.canvas_of(scale, self._shape(index, scale)) for scale in self._scales]

    def _shape(self, index: int, scale: int) -> Shape:
        """Of the pixels that an image's views need."""
        return self._reader.box(self._sizes[index], scale)[2:]

    # ---- this host's part

    def _read(
        self, pool: concurrent.futures.ThreadPoolExecutor, images: Sequence[int]
    ) -> list[concurrent.futures.Future]:
        return [
            pool.submit(self._reader.open, index) for index in self._shares(images)[self._group]
        ]

    def _compute(self, batch: Batch) -> None:
        """Starts one batch on the devices."""
        if self._check is not None:
            self._check()
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
        self.usage.setdefault(batch.scale, Usage(batch.scale)).add(
            batch.canvas, [self._shape(i, batch.scale) for i in batch.indices.flat if i >= 0],
            batch.indices.size,
        )  # fmt: skip
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
            prepared = self._decoded[index].result()
            if prepared is None:
                continue
            pixels = prepared.pop(batch.scale)
            shapes[row], valid[row] = pixels.shape[:2], True
            images[row, : len(pixels), : pixels.shape[1]] = pixels
            corners[row] = self._reader.corners(self._sizes[index], batch.scale)
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

    def _finish(self, index: int, average: np.ndarray) -> None:
        if not np.isfinite(average).all():
            raise UserError(
                f'image {self._source[index].key}: the scores of the network are not finite, so '
                'that no error can be given; the weights may be those of a run that diverged'
            )
        posteriors = _softmax(average) if self._average_scores else average
        assert not self.counted[index], index
        self.classes[index], self.probabilities[index] = best_of(posteriors, TOP)
        self.ranks[index] = rank_of(int(self.labels[index]), posteriors)
        self.counted[index] = True
        self._forget(index, posteriors)

    def _skip(self, index: int) -> None:
        error = self._error_of(index)
        if self._config.data.on_bad_image == 'stop':
            raise UserError(
                f'image {error}; remove it, or go on without it: --config.data.on_bad_image=skip'
            )
        if cluster.process() == 0:
            logging.warning('not counted: image %s', error)
        self._forget(index, None)

    def _error_of(self, index: int) -> str:
        """The name of an image that does not decode, and why: only who has read it knows."""
        mine = np.zeros(LONGEST_ERROR, np.uint8)
        text = self._reader.errors.pop(index, '').encode(errors='replace')[:LONGEST_ERROR]
        mine[: len(text)] = np.frombuffer(text, np.uint8)
        told = meshes.exchange(mine)
        (speakers,) = np.nonzero(told[:, 0])
        # That nobody should know is no reason to end with another error than the image's.
        said = bytes(told[speakers[0]]).rstrip(b'\0') if len(speakers) else b''
        return said.decode(errors='replace') or f'{index} of {self._source.name}'

    def _forget(self, index: int, posteriors: np.ndarray | None) -> None:
        if self._store is not None:
            self._store.add(index, int(self.labels[index]), posteriors)
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


def _softmax(scores: np.ndarray) -> np.ndarray:
    """float32 [classes] -> float32 [classes]; in float64 between."""
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return (powers / powers.sum()).astype(np.float32)
