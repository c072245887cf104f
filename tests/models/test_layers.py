"""Switches, response normalisation and sizes, against PyTorch or against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from cnn_arch.errors import UserError
from cnn_arch.models import layers
from tests import oracles


def to_torch(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def from_torch(x):
    return x.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ('size', 'window', 'stride', 'padding', 'ceil_mode'),
    [
        ((7, 7), 3, 2, 0, False),
        ((8, 8), 3, 2, 0, False),
        ((8, 8), 3, 2, 0, True),
        ((13, 10), 3, 2, 0, True),
        ((13, 10), 3, 2, 1, False),
        ((6, 27), 3, 2, 1, True),
        ((6, 9), 3, 1, 1, False),
        ((7, 8), 2, 2, 0, True),
    ],
)
def test_max_pool_and_its_switches(size, window, stride, padding, ceil_mode):
    # Small integers: ties everywhere, as after ReLU, and negative maxima beside the padding.
    x = np.random.default_rng(0).integers(-4, 0, (2, *size, 3)).astype(np.float32)
    theirs, places = functional.max_pool2d(
        to_torch(x), window, stride, padding, ceil_mode=ceil_mode, return_indices=True
    )

    @oracles.jit
    def both(x):
        ours = layers.max_pool(x, window, stride, padding, ceil_mode)
        return ours, *layers.max_pool_with_switches(x, window, stride, padding, ceil_mode)

    ours, again, switches = both(x)
    np.testing.assert_array_equal(ours, from_torch(theirs))
    np.testing.assert_array_equal(again, ours)
    assert switches.dtype == jnp.int32
    np.testing.assert_array_equal(switches, from_torch(places))  # PyTorch's ties: the first, too


def test_asymmetric_padding_counts_from_the_image():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    pads = ((0, 1), (1, 0))
    ours, switches = layers.max_pool_with_switches(x, 2, 2, pads)
    np.testing.assert_array_equal(ours[0, :, :, 0], [[4, 6], [12, 14]])
    np.testing.assert_array_equal(switches[0, :, :, 0], [[4, 6], [12, 14]])
    np.testing.assert_array_equal(layers.max_pool(x, 2, 2, pads), ours)


def test_ceil_mode_covers_the_whole_map():
    """The sizes that the papers' networks need, and what rounding down would give."""
    for side, rounded_up, rounded_down in [(110, 55, 54), (26, 13, 12), (13, 6, 6), (112, 56, 55)]:
        x = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        for ceil_mode, expected in ((True, rounded_up), (False, rounded_down)):
            shape = jax.eval_shape(lambda x, c=ceil_mode: layers.max_pool(x, 3, 2, 0, c), x).shape
            assert shape == (1, expected, expected, 1)


@pytest.mark.parametrize('channels', [3, 5, 16])
def test_local_response_normalisation(channels):
    x = oracles.as_float64(60 * oracles.random_images(2, 4, 5, channels))
    # PyTorch divides alpha by n, the paper does not.
    theirs = functional.local_response_norm(to_torch(x), 5, alpha=5e-4, beta=0.75, k=2.0)
    with oracles.float64():
        ours = layers.local_response_normalisation(jnp.asarray(x))
    oracles.assert_close(ours, from_torch(theirs))


def test_local_response_normalisation_by_the_papers_formula():
    a = 100 * np.random.default_rng(0).standard_normal(7)
    b = [
        a[i] / (2 + 1e-4 * sum(a[j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))) ** 0.75
        for i in range(7)
    ]
    with oracles.float64():
        ours = layers.local_response_normalisation(jnp.asarray(a).reshape(1, 1, 1, 7))
    oracles.assert_close(ours[0, 0, 0], b)


def test_check_size_names_the_smallest_size():
    layers.check_size(jnp.zeros((1, 32, 40, 3)), 32)
    with pytest.raises(UserError, match='images of 31x40: this network takes 32x32 pixels or more'):
        layers.check_size(jnp.zeros((1, 31, 40, 3)), 32)
