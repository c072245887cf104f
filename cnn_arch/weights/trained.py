"""A network that can be tested or started from: the checkpoint of a run, or imported weights."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
from jax.sharding import Mesh

from cnn_arch import models
from cnn_arch.commands import flatten
from cnn_arch.errors import UserError
from cnn_arch.papers.published import Row
from cnn_arch.training import checkpoint, workdir
from cnn_arch.training import step as steps

# What the numbers that a network reads mean, and the size that its fully connected layers take.
INPUT_KEYS = ('data.mean', 'data.std', 'data.channels', 'data.augment.size')


@dataclasses.dataclass(frozen=True)
class Trained:
    """Where a network lies, and the configuration it was made under (JSON's types)."""

    folder: pathlib.Path
    step: int
    config: dict[str, Any]  # dotted keys

    @property
    def label(self) -> str:
        """How messages call it."""
        return f'{self.folder}, step {self.step:,}'

    def digest(self) -> str:
        """SHA-256 of the stored arrays."""
        return _digest(checkpoint.model_folder(self.folder, self.step))

    def adapt(self, config: ml_collections.ConfigDict, keys: Iterable[str] = ()) -> None:
        """Sets what the network reads (mean, scale, ...) in `config` to what it was trained with.

        Raises UserError that names the first of the architecture's keys, or of `keys`, in which
        the network was made under another value.
        """
        workdir.check_architecture(self.folder, config)
        wanted = flatten(config)
        for key in keys:
            if self.config.get(key) != _plain(wanted[key]):
                raise UserError(
                    f'{self.folder} was trained with {key} = {self.config.get(key)!r}, not '
                    f'{wanted[key]!r}'
                )
        for key in INPUT_KEYS:
            if key in self.config:
                _set(config, key, self.config[key])

    def restore(self, config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
        """The Flax variables that evaluation uses, on the mesh."""
        abstract = steps.abstract_state(models.build(config.model), config, mesh).model()
        return steps.variables(checkpoint.restore_model(self.folder, abstract, self.step)[0])


def find(folder: pathlib.Path, step: int | None = None, finished: bool = False) -> Trained:
    """The network in a workdir: a step's, or the newest one's.

    Raises UserError where there is none, or, with `finished`, where the run has not ended.
    """
    if not folder.is_dir():
        raise UserError(f'no folder {folder}')
    config = flatten(workdir.read_config(folder))
    available = checkpoint.steps(folder)
    if not available:
        raise UserError(f'{folder}: no checkpoint yet')
    if finished and not (folder / 'result.json').exists():
        raise UserError(f'{folder}: its run is not finished, at step {available[-1]:,}')
    return Trained(folder, available[-1] if step is None else step, config)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _set(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    *parents, leaf = key.split('.')
    for parent in parents:
        config = config[parent]
    config[leaf] = tuple(value) if isinstance(config[leaf], tuple) else value


def _digest(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        digest.update(f'{path.relative_to(folder).as_posix()} {path.stat().st_size}\n'.encode())
        with path.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def finder(runs: pathlib.Path | None, weights: list[pathlib.Path]) -> Callable[..., Trained]:
    """Finds the network of a table's row: the finished run in `runs`/<the row's folder>."""

    def find_for(row: Row, config: ml_collections.ConfigDict) -> Trained:
        if runs is None:
            raise UserError('not run: give --runs=DIR with their runs')
        try:
            return find(runs / row.folder, finished=True)
        except UserError as error:
            raise UserError(f'{error}; python train.py {_training(row)} makes it') from error

    return find_for


def _training(row: Row) -> str:
    keys = [
        f'--config.{key}={value}'
        for key, value in row.overrides.items()
        if not key.startswith('eval.')
    ]
    return ' '.join([f'--config={row.config}', *keys])
