"""Members of an ensemble: each network in a folder with the configuration that it was made with."""

from collections.abc import Sequence

import ml_collections

from cnn_arch.commands import flatten
from cnn_arch.data import classes
from cnn_arch.data.sources import Source
from cnn_arch.errors import UserError
from cnn_arch.weights.departures import complete
from cnn_arch.weights.trained import INPUT_KEYS, Run, Trained

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
    settings = complete(made | test)
    if settings.model.num_classes != source.num_classes:
        raise UserError(
            f'--with={member.folder}: its network has {settings.model.num_classes} classes, '
            f'{source.name} has {source.num_classes}'
        )
    if member.classes is not None:
        theirs, where = member.classes, f'--with={member.folder}'
        classes.require_same(theirs, where, source.classes, 'the first network')
    return settings


def check_distinct(networks: Sequence[Trained]) -> None:
    """Raises UserError where two networks of an ensemble are one and the same."""
    for number, network in enumerate(networks):
        for other in networks[:number]:
            if network.digest() == other.digest():
                raise UserError(
                    f'--with: {network.folder} holds the same arrays as {other.folder}: an '
                    'ensemble needs networks that differ'
                )


def label(networks: Sequence[Trained]) -> str:
    """What a result calls an ensemble; networks that were made alike are named as such."""
    text = ' + '.join(network.label for network in networks)
    alike = [
        f'{other.folder.name} and {network.folder.name}'
        for number, network in enumerate(networks)
        for other in networks[:number]
        if isinstance(network, Run) and isinstance(other, Run) and network.made_as(other)
    ]
    return f'{text} (of one recipe and seed: {", ".join(alike)})' if alike else text
