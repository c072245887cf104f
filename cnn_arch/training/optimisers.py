"""The papers' update rules, as Optax transformations that take the learning rate at each step.

With g the gradient, w the parameter, v the momentum buffer, m = `momentum`, d = `weight_decay` and
r the learning rate (L2 is coupled: it enters before momentum, so momentum carries it):

    momentum   v <- m v + (g + d w)          w <- w - r v                    VGG, ResNet, SENet, ...
    nesterov   v <- m v + (g + d w)          w <- w - r (g + d w + m v)      DenseNet, section 4.2
    alexnet    v <- m v - r (g + d w)        w <- w + v                      AlexNet, section 5
    rmsprop    s <- 0.9 s + 0.1 (g + d w)^2
               v <- m v - r (g + d w) / sqrt(s + 1e-10)     w <- w + v      Xception, section 4.3
    levenberg_marquardt
               v <- m v + (g + d w) / (0.02 + h)            w <- w - r v    LeNet, 1998, appendix C

AlexNet's rule keeps the rate inside the buffer: after a drop the old, larger steps fade over some
1 / (1 - m) updates, where `momentum` shrinks at once. With a constant rate the two are the same.

Xception names RMSprop, its momentum and its rate; the decay of s, the epsilon and s = 1 at the
start are those of TensorFlow's RMSPropOptimizer, with which the paper was made.

h is the second derivative of the loss by w, estimated anew before each pass: see curvature.py. The
constant 0.02 is the paper's mu (section III-B); the paper has no momentum and no decay.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from cnn_arch.errors import UserError

RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-10
LEVENBERG_MARQUARDT = 'levenberg_marquardt'
LEVENBERG_MARQUARDT_MU = 0.02


def _descend() -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the `learning_rate` that `update` is given."""

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any
    ) -> tuple[Any, Any]:
        return jax.tree.map(lambda u: -jnp.asarray(learning_rate, u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _momentum(momentum: float) -> list[optax.GradientTransformation]:
    return [optax.trace(momentum), _descend()]


def _nesterov(momentum: float) -> list[optax.GradientTransformation]:
    return [optax.trace(momentum, nesterov=True), _descend()]


def _alexnet(momentum: float) -> list[optax.GradientTransformation]:
    return [_descend(), optax.trace(momentum)]


def _rmsprop(momentum: float) -> list[optax.GradientTransformation]:
    normalised = optax.scale_by_rms(RMSPROP_DECAY, RMSPROP_EPSILON, initial_scale=1.0)
    return [normalised, _descend(), optax.trace(momentum)]


class Curvature(NamedTuple):
    """What `levenberg_marquardt` remembers: h, a tree like the parameters, none of it negative."""

    h: Any


def with_curvature(optimiser: Any, h: Any) -> Any:
    """The state of a `levenberg_marquardt` optimiser that goes on with these second derivatives."""
    return optax.tree.set(optimiser, h=h)


def _by_curvature() -> optax.GradientTransformation:
    def update(updates: Any, state: Curvature, params: Any = None) -> tuple[Any, Curvature]:
        return jax.tree.map(lambda u, h: u / (LEVENBERG_MARQUARDT_MU + h), updates, state.h), state

    return optax.GradientTransformation(
        lambda params: Curvature(jax.tree.map(jnp.zeros_like, params)), update
    )


def _levenberg_marquardt(momentum: float) -> list[optax.GradientTransformation]:
    return [_by_curvature(), optax.trace(momentum), _descend()]


RULES: dict[str, Callable[[float], list[optax.GradientTransformation]]] = {
    'momentum': _momentum,
    'nesterov': _nesterov,
    'alexnet': _alexnet,
    'rmsprop': _rmsprop,
    LEVENBERG_MARQUARDT: _levenberg_marquardt,
}


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the parameter at this path of a Flax tree is a kernel: no bias, scale or the like."""
    return str(path[-1].key).endswith('kernel')


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def build(config: ml_collections.ConfigDict) -> optax.GradientTransformationExtraArgs:
    """The rule that `config.optim` names.

    Its `update(gradients, state, params, learning_rate=rate)` gives what is added to the parameters
    (`optax.apply_updates`); `rate` is a scalar and may be traced. `filter_rms` and `polyak_decay`
    act after the update: see `renormalise_filters` and `update_average`.
    Raises UserError for an unknown rule or a value out of range.
    """
    if config.rule not in RULES:
        raise UserError(f'optim.rule = {config.rule!r}: choose one of {", ".join(RULES)}')
    for name in ('momentum', 'polyak_decay'):
        if not 0 <= config[name] < 1:
            raise UserError(f'optim.{name} = {config[name]}: it must be at least 0 and below 1')
    for name in ('weight_decay', 'filter_rms', 'learning_rate'):
        if not 0 <= config[name] < float('inf'):
            raise UserError(f'optim.{name} = {config[name]}: it must be 0 or a positive number')
    decay = optax.add_decayed_weights(
        config.weight_decay, mask=None if config.decay_all else _kernels
    )
    return optax.chain(decay, *RULES[config.rule](config.momentum))


def renormalise_filters(params: Any, limit: float) -> Any:
    """Scales convolution filters whose RMS exceeds `limit` back to exactly it (ZFNet, section 3).

    A filter is what makes one output map: a kernel [h, w, in, out] holds `out` of them. Other
    parameters, those of fully connected layers among them, are returned as they are.
    """

    def renormalise(path: tuple[Any, ...], kernel: jax.Array) -> jax.Array:
        if kernel.ndim != 4 or not is_kernel(path):
            return kernel
        rms = jnp.sqrt(jnp.mean(jnp.square(kernel), axis=(0, 1, 2)))  # [out]
        return kernel * jnp.where(rms > limit, limit / jnp.where(rms > limit, rms, 1.0), 1.0)

    return jax.tree_util.tree_map_with_path(renormalise, params)


def update_average(average: Any, params: Any, decay: float) -> Any:
    """The averaged parameters after a step: `decay` x average + (1 - decay) x params."""
    return optax.incremental_update(params, average, 1.0 - decay)
