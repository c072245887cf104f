"""A network that can be tested or started from: a checkpoint of a run, or imported weights."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.commands import flatten
from cnn_arch.errors import UserError
from cnn_arch.evaluation.dense import abstract_variables
from cnn_arch.evaluation.tables import TRAINING_KEYS, set_keys
from cnn_arch.papers.published import Row
from cnn_arch.training import checkpoint, manifest, workdir

ARRAYS, RECORD = 'arrays', 'weights.json'  # of a folder of imported weights
RECORDED = {'known_as', 'source', 'file', 'missing', 'digest', 'keys', 'network', 'training'}

# What the numbers that a network reads mean, and the size that its fully connected layers take.
INPUT_KEYS = ('data.mean', 'data.std', 'data.channels', 'data.augment.size')
# What else of imported weights holds whatever the protocol; their test scale is its own matter.
ALWAYS = (*INPUT_KEYS, 'model.', 'eval.interpolation')
# Of a network without influence on its scores.
FREE = ('model.dtype', 'model.batch_norm.group_size', 'model.batch_norm.momentum',
        'model.batch_norm.precise')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A step of a run of train.py."""

    folder: pathlib.Path
    step: int
    made: dict[str, Any]  # the keys it was trained with, as JSON has them

    @property
    def label(self) -> str:
        """How a result calls it."""
        return f'step {self.step:,}'

    def digest(self) -> str:
        """SHA-256 of the stored arrays."""
        folder = checkpoint.step_folder(self.folder, self.step)
        with checkpoint.still_there(folder):
            return manifest.digest(folder, checkpoint.MODEL)

    def check(self, config: ml_collections.ConfigDict, keys: Iterable[str] = ()) -> None:
        """Raises UserError where the architecture, or one of `keys`, is not that of `config`."""
        workdir.check_architecture(self.folder, config)
        _compare(f'{self.folder} was trained with', self.made, flatten(config), keys)

    def adapt(self, config: ml_collections.ConfigDict, evaluation: bool = False) -> None:
        """Sets what the network reads (mean, scale, ...) to what it was trained on."""
        del evaluation
        set_keys(config, {key: self.made[key] for key in INPUT_KEYS if key in self.made})

    def expects(self) -> dict[str, Any]:
        """The keys without which the arrays mean something else."""
        return {key: self.made[key] for key in INPUT_KEYS[:2] if key in self.made}

    def stored(self) -> dict[str, Any]:
        """Trees of what lies there; their leaves have `shape`."""
        return _in_use(checkpoint.stored_shapes(checkpoint.step_folder(self.folder, self.step)))

    def restore(self, config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
        """The variables that evaluation uses, on the mesh: params and batch_stats."""
        model = _abstract(config, mesh)
        model['average'] = model['params'] if self.made.get('optim.polyak_decay') else {}
        folder = checkpoint.step_folder(self.folder, self.step)
        return _present(_in_use(checkpoint.restore_weights(folder, model)))


@dataclasses.dataclass(frozen=True)
class Weights:
    """A folder that `python -m cnn_arch.weights` wrote."""

    folder: pathlib.Path
    record: dict[str, Any]

    @property
    def label(self) -> str:
        """How a result calls it."""
        return self.record['known_as'] or f'{self.record["source"]} {self.record["file"]}'

    @property
    def missing(self) -> list[str]:
        """Arrays that the file lacked, e.g. 'fc6/kernel'."""
        return self.record['missing']

    def digest(self) -> str:
        """SHA-256 of the arrays."""
        return self.record['digest']

    def check(self, config: ml_collections.ConfigDict, keys: Iterable[str] = ()) -> None:
        """Raises UserError where the architecture, or one of `keys`, is not that of `config`."""
        wanted = flatten(config) | self.record['keys']
        network = {key for key in wanted | self.record['network'] if key.startswith('model.')}
        where = f'{self.folder} holds weights of'
        _compare(where, self.record['network'], wanted, sorted(network - set(FREE)))
        _compare(where, self.record['training'], flatten(config), keys)

    def adapt(self, config: ml_collections.ConfigDict, evaluation: bool = False) -> None:
        """Sets the keys that the weights ask for; with `evaluation` their test scale too."""
        keys = self.record['keys'].items()
        set_keys(config, {k: v for k, v in keys if evaluation or k.startswith(ALWAYS)})

    def expects(self) -> dict[str, Any]:
        """The keys without which the arrays mean something else."""
        kept = ('model.', *INPUT_KEYS[:2])
        return {k: v for k, v in self.record['keys'].items() if k.startswith(kept)}

    def stored(self) -> dict[str, Any]:
        """Trees of what lies there; their leaves have `shape`."""
        return checkpoint.stored_shapes(self.folder / ARRAYS)

    def require_complete(self) -> None:
        """Raises UserError where layers are missing."""
        if self.missing:
            raise UserError(
                f'{self.folder} lacks {len(self.missing)} arrays of the network, among them '
                f'{self.missing[0]}: such weights serve to visualise and to start training '
                '(--config.init_from), not to be tested'
            )

    def restore(
        self, config: ml_collections.ConfigDict, mesh: Mesh, partial: bool = False
    ) -> dict[str, Any]:
        """The variables on the mesh: params and batch_stats; with `partial`, those there are.

        Raises UserError where layers are missing and `partial` is not given.
        """
        if not partial:
            self.require_complete()
        abstract = _without(_abstract(config, mesh), set(self.missing))
        return _present(checkpoint.restore_weights(self.folder / ARRAYS, abstract))


Trained = Run | Weights


def find(folder: pathlib.Path, step: int | None = None, finished: bool = False) -> Trained:
    """The network in a folder: a step of a run (default: the newest), or imported weights.

    Raises UserError where there is none, where it is damaged (of a run's steps the newest that is
    whole is taken, and those passed over are named), or, with `finished`, where the run has not
    ended.
    """
    if not folder.is_dir():
        raise UserError(f'no folder {folder}')
    if (folder / RECORD).exists():
        weights = Weights(folder, _read_record(folder / RECORD))
        problem = manifest.problem(folder / ARRAYS)
        if problem:
            raise UserError(f'{folder / ARRAYS} is damaged: {problem}; import the weights again')
        return weights
    made = flatten(workdir.read_config(folder))
    step = checkpoint.find(folder, step)
    if finished and not (folder / 'result.json').exists():
        raise UserError(f'{folder}: its run is not finished, at step {step:,}')
    return Run(folder, step, made)


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path}: not valid JSON ({error})') from error
    if not isinstance(record, dict) or not record.keys() >= RECORDED:
        raise UserError(f'{path}: not written by `python -m cnn_arch.weights`; import them again')
    return record


def finder(runs: pathlib.Path | None, weights: list[pathlib.Path]) -> Callable[..., Trained]:
    """Finds the network of a table's row.

    It is the first of `weights` that fits, or lies in `runs`: in the folder of the row's run, or in
    one called as public weights of that network are, with _ for /.
    """
    for folder in weights:
        find(folder)  # a folder that is named must be there

    def find_for(row: Row, config: ml_collections.ConfigDict) -> Trained:
        if runs is None and not weights:
            raise UserError('not run: give --runs=DIR with their runs, or --weights=DIR')
        reasons = []
        folders = list(weights)
        if runs is not None:
            folders.append(runs / row.folder)
            public = [runs / name.replace('/', '_') for name in row.weights]
            folders += [folder for folder in public if folder.exists()]
        for folder in folders:
            try:
                trained = find(folder, finished=True)
                trained.check(config, TRAINING_KEYS)
                if isinstance(trained, Weights):
                    trained.require_complete()
                return trained
            except UserError as error:
                reasons.append(str(error))
        if row.weights:
            reasons.append(f'public weights are {", ".join(row.weights)}')
        reasons.append(f'python train.py {_training(row)} makes it')
        raise UserError('; '.join(reasons))

    return find_for


def _training(row: Row) -> str:
    keys = [
        f'--config.{key}={value}'
        for key, value in row.overrides.items()
        if not key.startswith('eval.')
    ]
    return ' '.join([f'--config={row.config}', *keys])


def _compare(where: str, made: dict[str, Any], wanted: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        value = wanted.get(key)
        value = list(value) if isinstance(value, tuple) else value  # as JSON has it
        if made.get(key) != value:
            raise UserError(f'{where} {key} = {made.get(key)!r}, not {value!r}')


def _abstract(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of the network's params and batch_stats."""
    model = models.build(config.model)
    shapes = abstract_variables(model, config.data.augment.size, config.data.channels)
    trees = {'params': {}, 'batch_stats': {}} | shapes
    return meshes.abstract(mesh, trees, models.sharding_rules(config.model))


def _present(variables: dict[str, Any]) -> dict[str, Any]:
    """Without collections that are empty, as Flax wants it."""
    return {collection: tree for collection, tree in variables.items() if tree}


def _in_use(model: dict[str, Any]) -> dict[str, Any]:
    """Of a run's `model` item what evaluation uses."""
    return {'params': model['average'] or model['params'], 'batch_stats': model['batch_stats']}


def _without(variables: dict[str, Any], missing: set[str]) -> dict[str, Any]:
    """The trees without the leaves whose paths below the collection are in `missing`."""

    def prune(tree: dict[str, Any], path: str) -> dict[str, Any]:
        kept = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                below = prune(value, f'{path}{name}/')
                if below:
                    kept[name] = below
            elif f'{path}{name}' not in missing:
                kept[name] = value
        return kept

    return {collection: prune(tree, '') for collection, tree in variables.items()}
