"""The papers' loss functions, one value per image.

Cross-entropy is everybody's but LeCun's: LeNet-5 minimises its RBF outputs with equation 8 or 9
(LeCun et al. 1998, section II-C), LeNet-1 a mean squared error (Le Cun et al. 1990).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections

from cnn_arch.errors import UserError

AUXILIARY = ('loss1', 'loss2')  # endpoints of GoogLeNet's auxiliary logits, present in training


def softmax(logits: jax.Array, labels: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Cross-entropy in nats; label smoothing as in Szegedy et al. 2016, section 7."""
    log_p = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -(1 - config.label_smoothing) * right - config.label_smoothing * log_p.mean(axis=1)


def lenet_mse(logits: jax.Array, labels: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Equation 8: the penalty y of the right class, which is LeNet-5's negative logit."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def lenet_map(logits: jax.Array, labels: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Equation 9: y of the right class + log(exp(-j) + sum over classes i of exp(-y_i))."""
    rubbish = -config.map_j  # the class of what is no digit at all
    competition = jnp.logaddexp(rubbish, jax.nn.logsumexp(logits, axis=1))
    return lenet_mse(logits, labels, config) + competition


def mse(logits: jax.Array, labels: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Mean over classes of (output - target)^2; the target is +1 for the right class, -1 else."""
    targets = 2 * jax.nn.one_hot(labels, logits.shape[1]) - 1
    return jnp.square(logits - targets).mean(axis=1)


Loss = Callable[[jax.Array, jax.Array, ml_collections.ConfigDict], jax.Array]
LOSSES: dict[str, Loss] = {
    'softmax': softmax,
    'lenet_mse': lenet_mse,
    'lenet_map': lenet_map,
    'mse': mse,
}


def loss(
    logits: jax.Array,
    endpoints: Mapping[str, jax.Array],
    labels: jax.Array,
    config: ml_collections.ConfigDict,
) -> jax.Array:
    """Losses [N] of logits [N, classes] at labels int32 [N]; `config` is `config.loss`.

    Computed in float32, or in the logits' own dtype where that is wider.
    Where the endpoints hold auxiliary logits (GoogLeNet in training), `auxiliary_weight` times the
    loss of each is added (Szegedy et al. 2015, section 5). Raises UserError for an unknown name.
    """
    if config.name not in LOSSES:
        raise UserError(f'loss.name = {config.name!r}: choose one of {", ".join(LOSSES)}')
    function = LOSSES[config.name]
    total = function(_widened(logits), labels, config)
    for name in AUXILIARY:
        if name in endpoints:
            auxiliary = _widened(endpoints[name])
            total = total + config.auxiliary_weight * function(auxiliary, labels, config)
    return total


def _widened(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
