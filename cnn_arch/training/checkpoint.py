"""Checkpoints of a workdir: the only file that knows Orbax.

`<workdir>/checkpoints/<step>/` holds two items, `model`, all that evaluation needs, and `training`,
the rest of the state, and `manifest.json`, the checksums of both. A step is written while training
goes on, as `<step>.writing`, and gets its name when all files and the manifest are there; then the
oldest ones go. So a folder that is called by its step was complete once, and its manifest says
whether it still is. The first process does what is not each process's own share of the arrays.
"""

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnn_arch import mesh as meshes
from cnn_arch.errors import StorageError, UserError, storage_problem
from cnn_arch.training import manifest

FOLDER, DAMAGED = 'checkpoints', 'damaged'
MODEL, TRAINING = 'model', 'training'


class Checkpoints:
    """The checkpoints of one run, opened for training.

    Opening removes what a killed run left half-written and sets aside damaged steps that are newer
    than the newest whole one, each named in the log. `latest` is that one, None if there is none.
    """

    def __init__(self, workdir: pathlib.Path, config: ml_collections.ConfigDict):
        """Opens (and creates) them; `config` is `config.checkpoint`."""
        self._workdir, self._config = workdir, config
        self._folder = (workdir / FOLDER).absolute()
        newest = _recover(workdir) if jax.process_index() == 0 else None
        newest = int(meshes.exchange(np.asarray(-1 if newest is None else newest))[0])
        self.latest = None if newest < 0 else newest
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future | None = None

    def save(
        self, step: int, model: Any, training: Any, wait: bool = False, again: bool = False
    ) -> None:
        """Begins to write a step (the arrays may change afterwards).

        Does nothing if it exists, unless `again` asks to put another in its place. Raises
        StorageError where this one (with `wait`) or the one before it cannot be written.
        """
        if step != self.latest or again:
            self.wait()
            with self._named(step):
                items = {MODEL: model, TRAINING: training}
                response = ocp.save_checkpointables_async(self._scratch(step), items)
            self._writing = self._pool.submit(self._complete, response, step)
            self.latest = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for what is being written. Raises StorageError where that failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raises StorageError once a step could not be written; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def restore(self, step: int, model: Any, training: Any) -> tuple[Any, Any]:
        """The items of a step, with the shapes and shardings of the abstract ones given.

        Raises UserError where other arrays lie there, as those of an earlier version.
        """
        abstract = {MODEL: model, TRAINING: training}
        stored = ocp.checkpointables_metadata(self._folder / str(step)).metadata
        theirs, ours = (
            _shapes({key: tree[key] for key in abstract}) for tree in (stored, abstract)
        )
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f'{self._workdir}: the checkpoint of step {step:,} does not fit: {name} is '
                    f'{_shape_text(theirs.get(name))} there, {_shape_text(ours.get(name))} in this '
                    'version of train.py with this configuration; choose another --workdir'
                )
        items = ocp.load_checkpointables(self._folder / str(step), abstract)
        return items[MODEL], items[TRAINING]

    def _scratch(self, step: int) -> pathlib.Path:
        return self._folder / f'{step}.writing'

    def _complete(self, response: ocp.AsyncResponse[None], step: int) -> None:
        """In the background: waits until all processes have written, then makes it official."""
        with self._named(step):
            response.result()
            if jax.process_index() == 0:
                manifest.write(self._scratch(step))
                self._remove(step)
                os.replace(self._scratch(step), self._folder / str(step))
                for old in steps(self._workdir)[: -self._config.keep]:
                    if not self._config.keep_every or old % self._config.keep_every:
                        self._remove(old)

    @contextlib.contextmanager
    def _named(self, step: int) -> Iterator[None]:
        """A full disk and the like become a StorageError that names the step."""
        try:
            yield
        except Exception as error:
            found = storage_problem(error)
            if found is None:
                raise
            reason, remedy = found
            kept = steps(self._workdir)
            kept_text = f'that of step {kept[-1]:,} is kept' if kept else 'there is none before it'
            if jax.process_index() == 0:
                _remove_leftovers(self._folder)
            raise StorageError(
                f'the checkpoint of step {step:,} cannot be written to {self._folder}: {reason}; '
                f'{kept_text}; {remedy} and run the same command again'
            ) from error

    def _remove(self, step: int) -> None:
        """First the name: a step is there as a whole or not at all."""
        leaving = self._folder / f'{step}.deleting'
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._folder / str(step), leaving)
            shutil.rmtree(leaving)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, the same for a tuple and for what Orbax makes of it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, 'shape'))
    return {
        '/'.join(
            str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in keys
        ): tuple(leaf.shape)
        for keys, leaf in leaves
    }


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return 'absent' if shape is None else str(list(shape))


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Iterator[Checkpoints]:
    """`Checkpoints`; waits at the end for what is being written."""
    checkpoints = Checkpoints(workdir, config)
    try:
        yield checkpoints
    finally:
        checkpoints.wait()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                (workdir / FOLDER).rmdir()  # that of a run that did not begin is empty


def _recover(workdir: pathlib.Path) -> int | None:
    """Tidies a workdir after its last run; returns the newest step that is whole."""
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    for step in reversed(steps(workdir)):
        problem = manifest.problem(folder / str(step))
        if not problem:
            return step
        aside = workdir / DAMAGED / str(step)
        logging.warning('the checkpoint of step %d is damaged: %s; it is skipped, and kept as %s',
                        step, problem, aside)  # fmt: skip
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        os.replace(folder / str(step), aside)
    return None


def _remove_leftovers(folder: pathlib.Path) -> None:
    """As far as no thread still writes there."""
    for path in folder.iterdir():
        if not path.name.isdecimal():
            shutil.rmtree(path, ignore_errors=True)


def steps(workdir: pathlib.Path) -> list[int]:
    """The complete steps of a workdir, in order, damaged or not; empty where there is none."""
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def find(workdir: pathlib.Path, step: int | None = None) -> int:
    """The newest step that is whole, or `step` if it is.

    Damaged ones that are passed over are named in the log. Of a run that goes on, steps may leave
    meanwhile: then those are looked at that came. Raises UserError where there is none.
    """
    while True:
        available = steps(workdir)
        try:
            return _find(workdir, step, available)
        except UserError:
            if not set(available) - set(steps(workdir)):
                raise


def _find(workdir: pathlib.Path, step: int | None, available: list[int]) -> int:
    if not available:
        raise UserError(f'{workdir}: no checkpoint yet')
    if step is not None and step not in available:
        raise UserError(
            f'{workdir}: no checkpoint of step {step}; there are {", ".join(map(str, available))}'
        )
    for candidate in reversed(available) if step is None else (step,):
        problem = manifest.problem(step_folder(workdir, candidate))
        if not problem:
            return candidate
        if not step_folder(workdir, candidate).exists():
            continue  # removed by the run meanwhile
        text = f'{workdir}: the checkpoint of step {candidate} is damaged: {problem}'
        if step is not None:
            others = [str(other) for other in available if other != step]
            hint = f'; there are also {", ".join(others)}' if others else '; there is no other'
            raise UserError(text + hint)
        logging.warning('%s; the one before it is taken', text)
    raise UserError(
        f'{workdir}: all its checkpoints are damaged ({", ".join(map(str, available))})'
    )


def step_folder(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where a step of a workdir lies; a folder of weights has the same form."""
    return workdir / FOLDER / str(step)


def save_weights(folder: pathlib.Path, variables: Any) -> None:
    """Writes a tree of arrays to a new folder and waits for it."""
    ocp.save_checkpointables(folder.absolute(), {MODEL: variables})
    manifest.write(folder)


def restore_weights(folder: pathlib.Path, abstract: Any) -> Any:
    """The `model` item of a folder, with the shapes and shardings of the abstract tree given."""
    with still_there(folder):
        return ocp.load_checkpointables(folder.absolute(), {MODEL: abstract})[MODEL]


def stored_shapes(folder: pathlib.Path) -> Any:
    """The tree of the `model` item of a folder; its leaves have `shape`."""
    with still_there(folder):
        return ocp.checkpointables_metadata(folder.absolute()).metadata[MODEL]


@contextlib.contextmanager
def still_there(folder: pathlib.Path) -> Iterator[None]:
    """Raises UserError where reading a step fails since a run that goes on has removed it."""
    try:
        yield
    except Exception as error:  # Orbax, TensorStore and Python each have their own
        if folder.exists():
            raise
        raise UserError(
            f'{folder} was removed while it was read: the run that goes on there keeps its newest '
            'steps alone (checkpoint.keep); run the same command again'
        ) from error
