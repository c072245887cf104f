"""A network that can be tested or started from: a checkpoint of a run, or imported weights."""

import dataclasses
import functools
import logging
import pathlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections
from jax.sharding import Mesh

from cnn_arch import cluster, files, models
from cnn_arch import mesh as meshes
from cnn_arch.commands import as_typed, flatten
from cnn_arch.data import classes
from cnn_arch.errors import UserError
from cnn_arch.evaluation.dense import abstract_variables
from cnn_arch.evaluation.tables import TRAINING_KEYS, set_keys
from cnn_arch.papers.published import Row
from cnn_arch.papers.released import RELEASED
from cnn_arch.training import checkpoint, manifest, workdir
from cnn_arch.weights import departures

ARRAYS, RECORD = 'arrays', 'weights.json'  # of a folder of imported weights
RECORDED = {'known_as': str, 'source': str, 'file': str, 'missing': list, 'digest': str,
            'keys': dict, 'network': dict, 'training': dict}  # fmt: skip

# What the numbers that a network reads mean, and the size that its fully connected layers take.
INPUT_KEYS = ('data.mean', 'data.std', 'data.channels', 'data.augment.size')
# What else of imported weights holds whatever the protocol; their test scale is its own matter.
ALWAYS = (*INPUT_KEYS, 'model.', 'eval.interpolation')
# Of a network without influence on its scores.
FREE = ('model.dtype', 'model.batch_norm.group_size', 'model.batch_norm.momentum',
        'model.batch_norm.precise', 'model.options.initialisation')  # fmt: skip


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

    @property
    def classes(self) -> classes.Names | None:
        """The names of its classes in their order; None where they are not known."""
        return _checked(self.folder, workdir.read_classes(self.folder), self.made)

    def described(self, config: ml_collections.ConfigDict) -> str:
        """How a table calls it; `config` is that of its row."""
        kept = {'data.source': 'on', 'model.dtype': 'in'}
        others = [
            f', trained {word} {self.made[key]}'
            for key, word in kept.items()
            if key in self.made and self.made[key] != flatten(config)[key]
        ]
        return f'run {self.folder.name}{"".join(others)}'

    def departures(self, row: Row, config: ml_collections.ConfigDict) -> list[str]:
        """In what it was not trained as a row says, whose configuration is `config`."""
        return departures.of_run(self.made, row, config)

    def made_as(self, other: 'Run') -> bool:
        """Whether another run has the same recipe and seed."""
        return departures.same_recipe(self.made, other.made)

    def digest(self) -> str:
        """SHA-256 of the stored arrays."""
        folder = checkpoint.step_folder(self.folder, self.step)
        with checkpoint.still_there(folder):
            return manifest.digest(folder, checkpoint.MODEL)

    def checked(self) -> str:
        """SHA-256 of the checksums that `find` has compared with the files."""
        return self.digest()

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
        """Trees of what lies there; their leaves have `shape`.

        Raises UserError where an earlier version averaged the parameters alone.
        """
        shapes = checkpoint.stored_shapes(checkpoint.step_folder(self.folder, self.step))
        average = shapes['average']
        if average and average.keys() != {'params', 'batch_stats'}:
            raise UserError(
                f'{self.folder}: {self.label} holds averages of the parameters alone, as an '
                "earlier version of train.py made them, without those of batch normalisation's "
                'statistics: train it again in another --workdir'
            )
        return _in_use(shapes)

    def restore(self, config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
        """The variables that evaluation uses, on the mesh: params and batch_stats.

        Raises UserError as `stored` does.
        """
        self.stored()
        model = _abstract(config, mesh)
        model['average'] = dict(model) if self.made.get('optim.polyak_decay') else {}
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
    def classes(self) -> classes.Names | None:
        """The names of its classes in their order; None where they are not known."""
        if self.missing:  # the classifier may be what is missing
            return None
        names = self.record.get('classes')
        if names is not None:
            names = classes.checked(names, self.folder / RECORD)
        return _checked(self.folder, names, self.record['network'])

    @property
    def missing(self) -> list[str]:
        """Arrays that the file lacked, e.g. 'fc6/kernel'."""
        return self.record['missing']

    def described(self, config: ml_collections.ConfigDict) -> str:
        """How a table calls it."""
        known = self.record['known_as']
        if known not in RELEASED:
            return f'{self.label}, of unknown origin'
        return f'{known}, {RELEASED[known].by}'

    def departures(self, row: Row, config: ml_collections.ConfigDict) -> list[str]:
        """In what it is not the network that a row prints."""
        return departures.of_weights(self.record['known_as'], self.record['file'], row)

    def digest(self) -> str:
        """SHA-256 of the arrays."""
        return self.record['digest']

    def checked(self) -> str:
        """SHA-256 of the checksums that `find` has compared with the files."""
        return manifest.digest(self.folder / ARRAYS, checkpoint.MODEL)

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


def facts(network: Trained) -> dict[str, str]:
    """What tells a network from any other."""
    return {'loaded': network.label, 'arrays': network.digest(), 'files': network.checked()}


def classes_of(folder: pathlib.Path) -> classes.Names | None:
    """The class names of the network in a folder; None where there is no network, or no names."""
    if (folder / RECORD).exists():
        return Weights(folder, _read_record(folder / RECORD)).classes
    if (folder / 'config.json').exists():
        return Run(folder, 0, flatten(workdir.read_config(folder))).classes
    return None


def _checked(
    folder: pathlib.Path, names: classes.Names | None, made: dict[str, Any]
) -> classes.Names | None:
    count = made.get('model.num_classes')
    if names is None:
        _say_unnamed(folder, count)
    elif len(names) != count:
        raise UserError(f'{folder}: {len(names):,} class names of a network of {count} classes')
    return names


@functools.cache
def _say_unnamed(folder: pathlib.Path, count: int) -> None:
    if cluster.process() == 0:
        logging.warning('%s', workdir.unnamed(folder, count))


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    record = files.read_json(path, dict, workdir.MOST_BYTES)
    for key, kind in RECORDED.items():
        if not isinstance(record.get(key), kind):
            raise UserError(
                f'{path}: {key} is not what `python -m cnn_arch.weights` writes there; import the '
                'weights again'
            )
    for key in ('keys', 'network', 'training'):
        workdir.check_types(path, record[key])
    if not all(isinstance(name, str) for name in record['missing']):
        raise UserError(f'{path}: missing is not a list of names; import the weights again')
    return record


def finder(runs: pathlib.Path | None, weights: list[pathlib.Path]) -> Callable[..., Trained]:
    """Finds the network of a table's row.

    It is one of `weights`, or lies in `runs`: in the folder of the row's run, or in one called as
    public weights of that network are, with _ for /. Of those that fit it is the first that departs
    in nothing from the row, else the first. It is none of the `others`, the networks beside which
    it is wanted: neither by its arrays nor by recipe and seed.
    """
    found = functools.cache(functools.partial(find, finished=True))  # each is hashed once
    for number, folder in enumerate(weights):
        find(folder)  # a folder that is named must be there
        if folder.resolve() in {other.resolve() for other in weights[:number]}:
            raise UserError(f'--weights names {folder} twice')

    def find_for(row: Row, config: ml_collections.ConfigDict, others: Sequence[Trained]) -> Trained:
        if runs is None and not weights:
            raise UserError('not run: give --runs=DIR with their runs, or --weights=DIR')
        fitting: list[Trained] = []
        reasons = []
        folders = list(weights)
        if runs is not None:
            folders += [] if row.of_weights else [runs / row.folder]
            public = [runs / name.replace('/', '_') for name in row.weights]
            folders += [folder for folder in public if folder.exists()]
        for folder in folders:
            try:
                trained = found(folder)
                trained.check(config, TRAINING_KEYS)
                for other in others:
                    _check_distinct(trained, other)
                if isinstance(trained, Weights):
                    trained.require_complete()
                fitting.append(trained)
                if not trained.departures(row, config):
                    return trained
            except UserError as error:
                reasons.append(str(error))
        if fitting:
            return fitting[0]
        if row.weights:
            reasons.append(f'public weights are {", ".join(row.weights)}')
        if not row.of_weights:
            reasons.append(f'python train.py {_training(row, runs)} makes it')
        raise UserError('; '.join(reasons))

    return find_for


def _check_distinct(trained: Trained, other: Trained) -> None:
    if trained.digest() == other.digest():
        raise UserError(f'{trained.folder} holds the same arrays as {other.folder}')
    if isinstance(trained, Run) and isinstance(other, Run) and trained.made_as(other):
        raise UserError(
            f'{trained.folder} was trained as {other.folder} was, from the same seed: another '
            'member takes another --config.seed'
        )


def _training(row: Row, runs: pathlib.Path | None) -> str:
    """The flags of the run of a row, as a shell takes them; `init_from` is a run beside it."""
    words = [f'--config={row.config}']
    for key, value in row.overrides.items():
        if key == 'init_from' and runs is not None:
            value = runs / value
        if not key.startswith('eval.'):
            words.append(f'--config.{key}={as_typed(value)}')
    return ' '.join(map(shlex.quote, words))


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
    used = model['average'] or model
    return {'params': used['params'], 'batch_stats': used['batch_stats']}


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
