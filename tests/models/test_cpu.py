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


SAME = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}


@pytest.mark.parametrize(('window', 'pads'), [(3, 1), (3, 0), (5, 2), (1, 0)])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_depthwise_convolution_and_its_gradients_are_those_of_lax(window, pads, dtype):
    # Small integers, so that both dtypes and all orders of addition give the same.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 3, (2, 7, 6, 5)), dtype)
    kernel = jnp.asarray(rng.integers(-1, 2, (window, window, 1, 5)), dtype)

    def pull(function):
        @jax.jit
        def pulled(x, kernel):
            y, vjp = jax.vjp(
                lambda x, kernel: function(
                    x, kernel, (1, 1), [(pads, pads)] * 2, feature_group_count=5, **SAME
                ),
                x, kernel,
            )  # fmt: skip
            weights = jnp.arange(y.size, dtype=dtype).reshape(y.shape) % 3
            return y, *vjp(weights)

        return pulled(x, kernel)

    for ours, theirs in zip(
        pull(cpu.depthwise_convolution), pull(lax.conv_general_dilated), strict=True
    ):
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_the_plain_depthwise_convolution(platform):
    def loss(x, kernel):
        return cpu.depthwise_convolution(
            x, kernel, (1, 1), [(1, 1), (1, 1)], feature_group_count=4, **SAME
        ).sum()

    shapes = jax.ShapeDtypeStruct((1, 9, 9, 4), jnp.float32), jnp.zeros((3, 3, 1, 4))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    there = jax.export.export(step, platforms=[platform])(*shapes).mlir_module()
    assert there.count('stablehlo.convolution') == 3
    assert 'multiply' not in there
    assert 'stablehlo.convolution' not in jax.export.export(step)(*shapes).mlir_module()


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
