"""What ReLU and response normalisation do to a signal on its way back, for those who look inside.

Training differentiates: the rule `gradient`. A deconvnet (Zeiler & Fergus 2014, section 2.1) is the
same way back with two changes, since transposed filters and unpooling by switches are the
derivatives of convolution and max pooling. "We pass the reconstructed signal through a relu
non-linearity": ReLU rectifies what comes down, whatever went up. And "we do not use any contrast
normalization operations when in this reconstruction path" (section 2.1, "Filtering"; a sentence
that not every printing has): normalisation lets the signal pass.
`guided` (Springenberg et al. 2015, section 3.4) applies ReLU's derivative and rectifies;
normalisation keeps its derivative.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

RULES = ('deconvnet', 'guided', 'gradient')

_rule = contextvars.ContextVar('backward rule', default='gradient')


@contextlib.contextmanager
def backward_rule(rule: str) -> Iterator[None]:
    """Networks that are traced inside follow one of RULES on the way back; forward is unchanged."""
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
