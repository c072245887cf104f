"""`config.init_from`: a run that starts from the arrays of another one, or of imported weights."""

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from cnn_arch.commands import flatten
from cnn_arch.data import classes
from cnn_arch.data.sources import Source, place
from cnn_arch.errors import UserError
from cnn_arch.training import checkpoint, parameters
from cnn_arch.training.step import TrainState
from cnn_arch.weights import trained
from cnn_arch.weights.trained import Weights


def start(state: TrainState, config: ml_collections.ConfigDict, mesh: Mesh) -> TrainState:
    """`state`, a fresh one, with the arrays of `config.init_from`, or as it is without.

    Layers that partial weights lack keep their own initialisation. Raises UserError that names the
    array where one is left over, missing or of another shape, and the key where the arrays expect
    another input or architecture than `config` has.
    """
    if not config.init_from:
        return state
    source = trained.find(pathlib.Path(config.init_from))
    _check_meaning(source, config)
    ours = {'params': state.params, 'batch_stats': state.batch_stats}
    missing = set(source.missing) if isinstance(source, Weights) else set()
    _check_shapes(config.init_from, source.stored(), ours, missing)
    if isinstance(source, Weights):
        arrays = source.restore(config, mesh, partial=True)
    else:
        arrays = source.restore(config, mesh)
    params = parameters.merged(state.params, arrays['params'])
    batch_stats = parameters.merged(state.batch_stats, arrays.get('batch_stats', {}))
    average = {'params': params, 'batch_stats': batch_stats} if state.average else {}
    return dataclasses.replace(state, params=params, batch_stats=batch_stats, average=average)


def facts(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, dict[str, str]]:
    """What tells the arrays that a run begins with from others; {} where it does not need them.

    Raises UserError where there are none or they are damaged.
    """
    if not config.init_from or checkpoint.steps(workdir):
        return {}
    source = trained.find(pathlib.Path(config.init_from))
    return {'init_from': trained.facts(source)}


def check_classes(config: ml_collections.ConfigDict, train: Source) -> None:
    """Raises UserError that names the class where `config.init_from` has others than the data.

    Weights that lack layers have no say: their classifier may be what is missing.
    """
    if not config.init_from:
        return
    source = trained.find(pathlib.Path(config.init_from))
    if isinstance(source, Weights) and source.missing:
        return
    names = source.classes
    if names is not None:
        classes.require_same(train.classes, place(train), names, f'init_from = {source.folder}')


def _check_meaning(source: trained.Trained, config: ml_collections.ConfigDict) -> None:
    ours = flatten(config)
    for key, value in source.expects().items():
        mine = ours.get(key)
        if value != (list(mine) if isinstance(mine, tuple) else mine):
            raise UserError(
                f'init_from = {source.folder} expects {key} = {value!r}, the config has {mine!r}: '
                f'set --config.{key}={str(value).replace(" ", "")}'
            )


def _check_shapes(name: str, theirs: Any, ours: Any, missing: set[str]) -> None:
    stored, wanted = _shapes(theirs), _shapes(ours)
    for path in sorted(stored.keys() | (wanted.keys() - missing)):
        if stored.get(path) != wanted.get(path):
            raise UserError(
                f'init_from = {name}: {path} is {_text(stored.get(path))} there and '
                f'{_text(wanted.get(path))} in this network'
            )


def _shapes(trees: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """By the paths that weights.json uses: below the collection."""
    result = {}
    for tree in trees.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda leaf: hasattr(leaf, 'shape')
        ):
            result['/'.join(str(key.key) for key in path)] = tuple(leaf.shape)
    return result


def _text(shape: tuple[int, ...] | None) -> str:
    return 'absent' if shape is None else str(list(shape))
