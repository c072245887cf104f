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

The gradient of the decay is d w, as in cuda-convnet, Caffe and Torch, where AlexNet, VGG, the
public GoogLeNet, ResNet, SENet and DenseNet were made, and with TensorFlow's l2_loss, which is half
of the squares' sum. Keras' regularizers.l2(c) leaves the half out: it is d = 2 c.

AlexNet's rule keeps the rate inside the buffer: after a drop the old, larger steps fade over some
1 / (1 - m) updates, where `momentum` shrinks at once. With a constant rate the two are the same.

Xception names RMSprop, its momentum and its rate; the decay of s, the epsilon and s = 1 at the
start are those of TensorFlow's RMSPropOptimizer, with which the paper was made.

h is the second derivative of the loss by w, estimated anew before each pass: see curvature.py. The
constant 0.02 is the paper's mu (section III-B); the paper has no momentum and no decay.

`rates` multiply r parameter by parameter (Caffe's lr_mult). Parameters that `freeze` names never
come here: a rule is given the trees of those that train, see parameters.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from cnn_arch.errors import UserError
from cnn_arch.training import parameters

RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-10
LEVENBERG_MARQUARDT = 'levenberg_marquardt'
LEVENBERG_MARQUARDT_MU = 0.02


def _descend(rates: parameters.Rates) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the `learning_rate` that `update` is given, times the path's factor."""

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any
    ) -> tuple[Any, Any]:
        def step(keys: tuple[Any, ...], u: jax.Array) -> jax.Array:
            rate = learning_rate * parameters.rate_of(parameters.path_of(keys), rates)
            return -jnp.asarray(rate, u.dtype) * u

        return jax.tree_util.tree_map_with_path(step, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _momentum(
    momentum: float, descend: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    return [optax.trace(momentum), descend]


def _nesterov(
    momentum: float, descend: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    return [optax.trace(momentum, nesterov=True), descend]


def _alexnet(
    momentum: float, descend: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    return [descend, optax.trace(momentum)]


def _rmsprop(
    momentum: float, descend: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    normalised = optax.scale_by_rms(RMSPROP_DECAY, RMSPROP_EPSILON, initial_scale=1.0)
    return [normalised, descend, optax.trace(momentum)]


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


def _levenberg_marquardt(
    momentum: float, descend: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    return [_by_curvature(), optax.trace(momentum), descend]


RULES: dict[
    str, Callable[[float, optax.GradientTransformation], list[optax.GradientTransformation]]
] = {
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
    (`optax.apply_updates`); `rate` is a scalar and may be traced. The trees hold the parameters
    that train (`parameters.split`). `filter_rms` and `polyak_decay` act after the update: see
    `renormalise_filters` and `update_average`.
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
    return optax.chain(decay, *RULES[config.rule](config.momentum, _descend(config.rates)))


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


def update_average(average: Any, variables: Any, decay: float, count: Any) -> Any:
    """The Polyak average after the update number `count` (int, from 1; may be traced).

    Both are trees of the variables that an evaluation uses: parameters, and with batch
    normalisation the statistics of the update's own batch. Averaged parameters make other
    activations than the last ones, so that the last statistics do not fit them. Inception's
    training code averages the running statistics along with the parameters, by TensorFlow's
    ExponentialMovingAverage, and calls it a double average, kept for older models. Here it is a
    single one: over ten thousand updates the two are the same, over a few hundred the running
    statistics are those of another network, a hundred updates back.

    The decay of update n is min(decay, (1 + n) / (10 + n)), as that class has it with
    `num_updates`, which that code gives. While n is small the average is over about the last n / 9
    updates, and of the random initialisation some n^-9 remains; with decay^n, of 0.9999, it would
    be 96 % after 400 updates.
    """
    # One minus the decay, without the cancellation; what does not move is its own average.
    share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + count))
    return jax.tree.map(lambda a, v: a + share.astype(a.dtype) * (v - a), average, variables)
