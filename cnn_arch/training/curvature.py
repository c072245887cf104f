"""Second derivatives for LeCun's stochastic diagonal Levenberg-Marquardt method.

LeCun et al. 1998, appendix C: h_k, the second derivative of the loss by parameter k, averaged over
some images. Each is estimated by back-propagation without mixed terms and with the Gauss-Newton
approximation, which drops what could make it negative; for a shared parameter the places where it
acts are summed.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from cnn_arch.errors import UserError
from cnn_arch.models import backward
from cnn_arch.training import losses, optimisers

NETWORKS = ('lenet1',)  # whose layers all know how curvature goes back
IMAGES = 500  # of which the mean is taken, before each pass


def wanted(config: ml_collections.ConfigDict) -> bool:
    """Whether the run's update rule uses second derivatives.

    Raises UserError where the network's layers do not hand them back.
    """
    if config.optim.rule != optimisers.LEVENBERG_MARQUARDT:
        return False
    if config.model.name not in NETWORKS:
        raise UserError(
            f'optim.rule = {config.optim.rule!r}: second derivatives come back through '
            f'{", ".join(NETWORKS)} alone, not through {config.model.name}'
        )
    return True


def diagonal(
    model: nn.Module, config: ml_collections.ConfigDict
) -> Callable[[Any, jax.Array, jax.Array], Any]:
    """The function (params, images [N, H, W, C], labels int32 [N]) -> h, a tree like params."""

    def loss_of(logits: jax.Array, label: jax.Array) -> jax.Array:
        return losses.loss(logits[None], {}, label[None], config.loss)[0]

    def h(params: Any, images: jax.Array, labels: jax.Array) -> Any:
        with backward.backward_rule(backward.CURVATURE):
            logits, back = jax.vjp(lambda p: model.apply({'params': p}, images)[0], params)
            at_outputs = jax.vmap(lambda y, label: jnp.diag(jax.hessian(loss_of)(y, label)))
            (total,) = back(at_outputs(logits, labels))
        return jax.tree.map(lambda leaf: leaf / len(images), total)

    return h
