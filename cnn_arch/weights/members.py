"""Members of an ensemble: each network in a folder with the configuration that it was made with."""

from typing import Any

import ml_collections

from cnn_arch.commands import flatten
from cnn_arch.data import classes
from cnn_arch.data.sources import Source
from cnn_arch.errors import UserError
from cnn_arch.weights.trained import INPUT_KEYS, Run, Trained
from configs import base

# What belongs to a network and not to the test: its input, and the scales that it was trained at.
OWN = (*INPUT_KEYS, 'eval.interpolation', 'data.augment.')


def settings_like(
    member: Trained, config: ml_collections.ConfigDict, source: Source
) -> ml_collections.ConfigDict:
    """The configuration of a network that is tested on `source` as the one of `config` is.

    Raises UserError where the network has other classes, or the same in another order.
    """
    made = member.made if isinstance(member, Run) else member.record['network'] | (
        member.record['training'] | member.record['keys']
    )  # fmt: skip
    test = {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(('data.', 'eval.', 'mesh.')) and not key.startswith(OWN)
    }
    settings = _from_leaves(made | test)
    if settings.model.num_classes != source.num_classes:
        raise UserError(
            f'--with={member.folder}: its network has {settings.model.num_classes} classes, '
            f'{source.name} has {source.num_classes}'
        )
    if member.classes is not None:
        theirs, where = member.classes, f'--with={member.folder}'
        classes.require_same(theirs, where, source.classes, 'the first network')
    return settings


def _from_leaves(leaves: dict[str, Any]) -> ml_collections.ConfigDict:
    """From dotted keys, whose lists JSON made of tuples."""
    config = base.get_config()
    with config.unlocked():
        for key, value in leaves.items():
            *parents, leaf = key.split('.')
            node = config
            for parent in parents:
                node = node[parent]
            node[leaf] = tuple(value) if isinstance(value, list) else value
    return config.lock()
