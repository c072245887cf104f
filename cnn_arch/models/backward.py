"""What a network's layers do to a signal on its way back, for those who look inside.

Training differentiates: the rule `gradient`. A deconvnet (Zeiler & Fergus 2014, section 2.1) is the
same way back with two changes, since transposed filters and unpooling by switches are the
derivatives of convolution and max pooling. "We pass the reconstructed signal through a relu
non-linearity": ReLU rectifies what comes down, whatever went up. And "we do not use any contrast
normalization operations when in this reconstruction path" (section 2.1, "Filtering"; a sentence
that not every printing has): normalisation lets the signal pass.
`guided` (Springenberg et al. 2015, section 3.4) applies ReLU's derivative and rectifies;
normalisation keeps its derivative.

`curvature` is no picture but LeCun's way to second derivatives (LeCun et al. 1998, appendix C, with
the Gauss-Newton approximation): what comes down is d2E/dy2, and each layer hands on d2E/dx2 by the
squares of its weights and of its slopes. Layers that know it use `bilinear` and `scaled_tanh`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

RULES = ('deconvnet', 'guided', 'gradient')

CURVATURE = 'curvature'

_rule = contextvars.ContextVar('backward rule', default='gradient')


@contextlib.contextmanager
def backward_rule(rule: str) -> Iterator[None]:
    """Networks traced inside go back by one of RULES, or CURVATURE; forward is unchanged."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), and on the way back what the rule says."""
    rule = _rule.get()
    return nn.relu(x) if rule == 'gradient' else _relu(x, rule)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _relu(x: jax.Array, rule: str) -> jax.Array:
    del rule
    return nn.relu(x)


def _relu_forward(x: jax.Array, rule: str) -> tuple[jax.Array, jax.Array | None]:
    return nn.relu(x), x > 0 if rule == 'guided' else None


def _relu_backward(rule: str, went_up: jax.Array | None, signal: jax.Array) -> tuple[jax.Array]:
    del rule
    rectified = nn.relu(signal)
    return (rectified if went_up is None else jnp.where(went_up, rectified, 0),)


_relu.defvjp(_relu_forward, _relu_backward)


def contrast_normalisation(normalise: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`normalise(x)`, of x's shape; a deconvnet's signal passes it as it is."""
    return _passed_back(normalise, x) if _rule.get() == 'deconvnet' else normalise(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _passed_back(normalise: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return normalise(x)


_passed_back.defvjp(
    lambda normalise, x: (normalise(x), None), lambda normalise, _, signal: (signal,)
)


def bilinear(
    op: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, weights: jax.Array
) -> jax.Array:
    """`op(x, weights)`, linear in each; the curvature comes back through the squares of both."""
    return _squared_back(op, x, weights) if _rule.get() == CURVATURE else op(x, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _squared_back(
    op: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, weights: jax.Array
) -> jax.Array:
    return op(x, weights)


def _squared_backward(
    op: Callable[[jax.Array, jax.Array], jax.Array],
    operands: tuple[jax.Array, jax.Array],
    curvature: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, weights = operands
    _, back = jax.vjp(op, x * x, weights * weights)
    return back(curvature)


_squared_back.defvjp(lambda op, x, weights: (op(x, weights), (x, weights)), _squared_backward)


def convolution(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated`, `bilinear`."""
    return bilinear(
        lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, *args, **kwargs), x, kernel
    )


def scaled_tanh(x: jax.Array) -> jax.Array:
    """LeCun's squashing function A tanh(S a), A = 1.7159, S = 2 / 3 (1998, appendix A)."""
    return _steep_back(x) if _rule.get() == CURVATURE else _scaled_tanh(x)


def _scaled_tanh(x: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(2 / 3 * x)


@jax.custom_vjp
def _steep_back(x: jax.Array) -> jax.Array:
    return _scaled_tanh(x)


def _steep_backward(x: jax.Array, curvature: jax.Array) -> tuple[jax.Array]:
    _, slope = jax.jvp(_scaled_tanh, (x,), (jnp.ones_like(x),))
    return (slope * slope * curvature,)


_steep_back.defvjp(lambda x: (_scaled_tanh(x), x), _steep_backward)
