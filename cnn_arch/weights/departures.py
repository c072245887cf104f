"""In what a network was not trained as a row of a table, or as another network, says."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from cnn_arch import config_keys
from cnn_arch.configuration import flatten
from cnn_arch.evaluation.tables import set_keys
from cnn_arch.papers.published import Row
from cnn_arch.papers.released import AUTHORS, RELEASED
from configs import base


def of_run(made: Mapping[str, Any], row: Row, config: ml_collections.ConfigDict) -> list[str]:
    """One line for each key of the recipe that the run's configuration `made` has differently.

    `config` is the row's. Where the paper has several ways (`row.alternatives`), the nearest one
    counts. Keys that neither looks at, such as the `drops` of a schedule of steps, do not. A row
    that is about public weights is about no run.
    """
    if row.of_weights:
        return [_about(row)]
    ways = []
    for more in ({}, *row.alternatives):
        wanted = config.copy_and_resolve_references()
        set_keys(wanted, more)
        ways.append(_differences(made, wanted))
    return min(ways, key=len)


def of_weights(known_as: str, file: str, row: Row) -> list[str]:
    """What public weights are, where they are not the network that a row prints."""
    if row.of_weights:
        mine = known_as in row.weights
        return [] if mine else [_about(row)]
    released = RELEASED.get(known_as)
    if released is None:
        return [f'nothing is known of who trained {known_as or file}, or how']
    if known_as not in row.weights:
        return [f"{known_as} is of another recipe than the row's: {released.trained}"]
    return [] if released.by == AUTHORS else [f'{known_as} is {released.by}: {released.trained}']


def _about(row: Row) -> str:
    return f'the row is about {" or ".join(row.weights)}'


def same_recipe(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether two runs were made alike, their seeds among it."""
    seeds = {key for key in one.keys() | two.keys() if config_keys.is_seed(key)}
    alike = all(one.get(key) == two.get(key) for key in seeds)
    return alike and not _differences(one, complete(two))


def complete(leaves: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A configuration from dotted keys, whose lists JSON made of tuples; base.py has the rest."""
    config = base.get_config()
    with config.unlocked():
        set_keys(config, leaves)
    return config.lock()


def _differences(made: Mapping[str, Any], config: ml_collections.ConfigDict) -> list[str]:
    run, wanted = complete(made), flatten(config)
    result = []
    # Without a key, as in a run of an earlier version, a network was trained by base.py's value.
    for key in sorted(made.keys() & wanted.keys() | flatten(base.get_config()).keys()):
        ours, rows = config_keys.leaf(run, key), wanted[key]
        if not _same(key, ours, rows) and any(_counts(key, c) for c in (run, config)):
            pair = [config_keys.shown(value) for value in (ours, rows)]
            result.append(f'trained with {key} = {pair[0]}, the row has {pair[1]}')
    return result


def _same(key: str, ours: Any, rows: Any) -> bool:
    if key == 'init_from' and ours and rows:  # where runs lie is their owner's business
        return pathlib.Path(ours).name == pathlib.Path(rows).name
    return _plain(ours) == _plain(rows)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, Sequence) and not isinstance(
        value, str) else value  # fmt: skip


def _counts(key: str, config: ml_collections.ConfigDict) -> bool:
    """Whether a key belongs to how the network of a configuration is trained."""
    line = config_keys.of(key)
    if line.recipe is None or line.training is None:
        return False
    return not line.recipe(config) and not line.training(config)
