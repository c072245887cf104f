"""Checkpoints of a workdir: the only file that knows Orbax.

`<workdir>/checkpoints/<step>/` holds two items: `model`, all that evaluation needs, and `training`,
the rest of the state. Writing is asynchronous and atomic: a step's folder exists when complete.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
from orbax.checkpoint import v1 as ocp

from cnn_arch.errors import UserError

FOLDER = 'checkpoints'
MODEL, TRAINING = 'model', 'training'


class Checkpoints:
    """The checkpoints of one run, opened for training."""

    def __init__(self, workdir: pathlib.Path, config: ml_collections.ConfigDict):
        """Opens (and creates) them; `config` is `config.checkpoint`."""
        keep = [ocp.training.preservation_policies.LatestN(config.keep)]
        if config.keep_every:
            keep.append(ocp.training.preservation_policies.EveryNSteps(config.keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            (workdir / FOLDER).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,  # what a killed run left half-written
        )

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, model: Any, training: Any, wait: bool = False) -> None:
        """Begins to write a step (the arrays may change afterwards); does nothing if it exists."""
        if step != self.latest:
            items = {MODEL: model, TRAINING: training}
            self._checkpointer.save_checkpointables_async(step, items)
        if wait:
            self._checkpointer.wait()

    def restore(self, step: int, model: Any, training: Any) -> tuple[Any, Any]:
        """The items of a step, with the shapes and shardings of the abstract ones given."""
        items = self._checkpointer.load_checkpointables(step, {MODEL: model, TRAINING: training})
        return items[MODEL], items[TRAINING]

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Iterator[Checkpoints]:
    """`Checkpoints` that are closed at the end."""
    checkpoints = Checkpoints(workdir, config)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def steps(workdir: pathlib.Path) -> list[int]:
    """The complete steps of a workdir, in order; empty where there is none."""
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def restore_model(workdir: pathlib.Path, abstract: Any, step: int | None = None) -> tuple[Any, int]:
    """The `model` item of a step (default: the newest) and the step.

    `abstract` is its tree of jax.ShapeDtypeStruct, with shardings. Raises UserError where the
    workdir has no such checkpoint.
    """
    available = steps(workdir)
    if not available:
        raise UserError(f'{workdir}: no checkpoint in {workdir / FOLDER}')
    if step is None:
        step = available[-1]
    if step not in available:
        raise UserError(
            f'{workdir}: no checkpoint of step {step}; there are {", ".join(map(str, available))}'
        )
    return restore_weights(step_folder(workdir, step), abstract), step


def step_folder(workdir: pathlib.Path, step: int) -> pathlib.Path:
    """Where a step of a workdir lies; a folder of weights has the same form."""
    return workdir / FOLDER / str(step)


def save_weights(folder: pathlib.Path, variables: Any) -> None:
    """Writes a tree of arrays to a new folder and waits for it."""
    ocp.save_checkpointables(folder.absolute(), {MODEL: variables})


def restore_weights(folder: pathlib.Path, abstract: Any) -> Any:
    """The `model` item of a folder, with the shapes and shardings of the abstract tree given."""
    return ocp.load_checkpointables(folder.absolute(), {MODEL: abstract})[MODEL]


def stored_shapes(folder: pathlib.Path) -> Any:
    """The tree of the `model` item of a folder; its leaves have `shape`."""
    return ocp.checkpointables_metadata(folder.absolute()).metadata[MODEL]
