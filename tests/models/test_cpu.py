"""The forms for XLA's CPU backend, against the plain `lax` operations they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_arch.models import cpu

POOLS = [
    (2, 2, ((0, 0), (0, 0)), (6, 8)),
    (2, 2, ((0, 0), (0, 0)), (7, 5)),  # a row and a column are left over
    (3, 2, ((0, 0), (0, 0)), (13, 12)),  # overlapping
    (3, 2, ((0, 1), (1, 1)), (8, 9)),
    (3, 1, ((1, 1), (1, 1)), (5, 6)),
    (3, 3, ((1, 0), (0, 1)), (8, 11)),
]


def plain(x, window, stride, pads):
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, ((0, 0), *pads, (0, 0)))


@pytest.mark.parametrize(('window', 'stride', 'pads', 'size'), POOLS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient_are_those_of_lax_ties_included(
    window, stride, pads, size, dtype
):
    # Small integers: most windows are ties, as after ReLU, and every sum is exact.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (2, *size, 3)), dtype)
    expected, expected_vjp = jax.vjp(lambda x: plain(x, window, stride, pads), x)
    y, vjp = jax.vjp(jax.jit(lambda x: cpu.max_pool(x, window, stride, pads)), x)
    np.testing.assert_array_equal(y, expected)
    gradient = jnp.asarray(rng.integers(-4, 5, y.shape), dtype)
    result = vjp(gradient)[0]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected_vjp(gradient)[0])


def test_max_pool_of_negative_values_never_takes_the_padding():
    x = -jnp.ones((1, 3, 3, 1))
    np.testing.assert_array_equal(cpu.max_pool(x, 3, 2, ((1, 1), (1, 1))), -jnp.ones((1, 2, 2, 1)))


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_the_plain_operations(platform):
    def loss(x):
        return cpu.max_pool(x, 3, 2, ((0, 0), (0, 0))).sum()

    shape = jax.ShapeDtypeStruct((1, 9, 9, 2), jnp.float32)
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(shape)
    text = exported.mlir_module()
    assert 'select_and_scatter' in text
    assert 'compare EQ' not in text  # the other form is not even there
    here = jax.export.export(jax.jit(jax.grad(loss)), platforms=['cpu'])(shape).mlir_module()
    assert 'select_and_scatter' not in here
