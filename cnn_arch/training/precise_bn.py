"""Batch normalisation's running statistics, recomputed with the trained parameters.

Ioffe & Szegedy 2015, algorithm 2: the mean over many training batches of their mean and of their
unbiased variance, instead of averages that decay while the parameters still move. ResNet's authors
released statistics made so (README of deep-residual-networks).
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError


def recompute_statistics(
    apply: Callable[[Any, Any], Any],
    variables: dict[str, Any],
    batches: Iterable[Any],
    momentum: float,
) -> Any:
    """The 'batch_stats' of `variables`, over all of `batches`; {} for a network without any.

    `apply(variables, batch)` runs the network as in training and returns its updated 'batch_stats',
    decayed with `momentum` (`config.model.batch_norm.momentum`). All batches count alike, so they
    should be of one size. Parameters and statistics of `variables` stay as they are. Raises
    UserError without batches, or where `momentum` is 1 and the update shows nothing of the batch.
    """
    statistics = variables.get('batch_stats', {})
    if not jax.tree.leaves(statistics):
        return {}
    if not 0 <= momentum < 1:
        raise UserError(
            f'model.batch_norm.momentum = {momentum}: statistics can be recomputed for momenta '
            'from 0 to less than 1'
        )
    # In training nothing depends on the old statistics; from zeros, the update is a known share of
    # the batch's own, to the last bits.
    zeros = jax.tree.map(jnp.zeros_like, statistics)
    mean, count = zeros, 0
    for batch in batches:
        count += 1
        updated = apply({**variables, 'batch_stats': zeros}, batch)
        mean = _update(mean, updated, 1 / (1 - momentum), count)
    if not count:
        raise UserError('model.batch_norm.precise: no batch to recompute statistics from')
    return mean


@jax.jit
def _update(mean: Any, updated: Any, scale: float, count: int) -> Any:
    """The mean of `count` batches from that of one less and the latest, times `scale`."""
    return jax.tree.map(lambda m, u: m + (u * scale - m) / count, mean, updated)
