"""The forms for XLA's CPU backend, against the plain `lax` operations they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_arch.models import cpu
from tests import oracles

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


def pulled(function, weights, *arrays):
    """The function's value and the gradients of its weighted sum."""
    y, vjp = jax.vjp(function, *arrays)
    return y, *vjp(weights)


def assert_same(ours, theirs, dtype):
    for pair in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert pair[0].dtype == dtype
        np.testing.assert_array_equal(*pair)


@pytest.fixture(params=[jnp.float32, jnp.bfloat16, jnp.float64])
def dtype(request):
    if request.param == jnp.float64 and jax.default_backend() == 'tpu':
        pytest.skip('TPUs have no float64')
    with jax.enable_x64(request.param == jnp.float64):
        yield request.param


def test_max_pool_and_its_gradient_are_those_of_lax_ties_included(dtype):
    # Small integers: most windows are ties, as after ReLU, and every sum is exact.
    rng = np.random.default_rng(0)
    images = [jnp.asarray(rng.integers(0, 3, (2, *size, 3)), dtype) for *_, size in POOLS]

    @functools.partial(oracles.jit, static_argnums=0)  # all cases in one program: compiled at once
    def run(pool, images):
        results = []
        for x, (window, stride, pads, _) in zip(images, POOLS, strict=True):
            shape = jax.eval_shape(lambda x, a=(window, stride, pads): plain(x, *a), x).shape
            weights = (jnp.arange(np.prod(shape)).reshape(shape) % 9 - 4).astype(dtype)
            results.append(pulled(lambda x, a=(window, stride, pads): pool(x, *a), weights, x))
        return results

    assert_same(run(cpu.max_pool, images), run(plain, images), dtype)


def test_max_pool_of_negative_values_never_takes_the_padding():
    x = -jnp.ones((1, 3, 3, 1))
    np.testing.assert_array_equal(cpu.max_pool(x, 3, 2, ((1, 1), (1, 1))), -jnp.ones((1, 2, 2, 1)))


# kernel, stride, pads, groups, maps below, maps here
CONVOLUTIONS = [
    (3, 1, ((1, 1), (1, 1)), 5, 5, 5),  # depthwise
    (3, 1, ((0, 0), (0, 0)), 5, 5, 5),
    (5, 1, ((2, 2), (2, 1)), 5, 5, 5),
    (3, 2, ((1, 1), (1, 1)), 6, 6, 6),  # depthwise in strides: merged
    (3, 1, ((1, 1), (1, 1)), 5, 5, 10),  # two maps from each
    (3, 1, ((1, 1), (1, 1)), 2, 8, 6),  # AlexNet's towers
    (3, 2, ((1, 1), (0, 2)), 2, 80, 4),  # too large to be merged
    (3, 1, ((1, 1), (1, 1)), 16, 64, 32),  # ResNeXt: merged by eights
    (3, 1, ((1, 1), (1, 1)), 1, 3, 4),
]


def convolve(function, x, kernel, stride, pads, groups):
    return function(
        x, kernel, (stride, stride), pads, feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip


def test_convolution_and_its_gradients_are_those_of_lax(dtype):
    # Small integers, so that both dtypes and all orders of addition give the same.
    rng = np.random.default_rng(0)
    arrays = [
        (
            jnp.asarray(rng.integers(-1, 2, (1, 5, 6, below)), dtype),
            jnp.asarray(rng.integers(-1, 2, (window, window, below // groups, here)), dtype),
        )
        for window, _, _, groups, below, here in CONVOLUTIONS
    ]

    @functools.partial(oracles.jit, static_argnums=0)
    def run(function, arrays):
        results = []
        for pair, (_, *settings, _, _) in zip(arrays, CONVOLUTIONS, strict=True):
            form = functools.partial(convolve, stride=settings[0], pads=settings[1],
                                     groups=settings[2])  # fmt: skip
            shape = jax.eval_shape(functools.partial(form, lax.conv_general_dilated), *pair).shape
            weights = (jnp.arange(np.prod(shape)).reshape(shape) % 3 - 1).astype(dtype)
            results.append(pulled(functools.partial(form, function), weights, *pair))
        return results

    assert_same(run(cpu.convolution, arrays), run(lax.conv_general_dilated, arrays), dtype)


@pytest.mark.parametrize('groups', [2, 4])
@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_the_plain_convolution(platform, groups):
    def loss(x, kernel):
        return convolve(cpu.convolution, x, kernel, 1, ((1, 1), (1, 1)), groups).sum()

    shapes = jnp.zeros((1, 9, 9, 4)), jnp.zeros((3, 3, 4 // groups, 4))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    there = jax.export.export(step, platforms=[platform])(*shapes).mlir_module()
    assert there.count('stablehlo.convolution') == 3  # the value and two gradients
    assert 'multiply' not in there
    assert 'dot_general' not in there
    in_groups = f'feature_group_count = {groups}'
    assert in_groups in there
    assert in_groups not in jax.export.export(step)(*shapes).mlir_module()


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
