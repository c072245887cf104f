"""Pooling at even and odd sizes, against PyTorch and against a loop over every window.

All cases of a test are compiled as one program, which is what makes hundreds of them affordable.
"""

import itertools
import math

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from cnn_arch.errors import UserError
from cnn_arch.models import layers
from cnn_arch.models.xception import same_padding
from tests import oracles

WINDOWS = [(2, 2), (3, 2), (3, 1), (3, 3), (2, 3), (5, 3), (1, 2)]
SIZES = [(5, 5), (6, 8), (7, 9), (8, 5), (13, 12), (14, 14)]


def cases(paddings):
    """(size, window, stride, padding, flag); padding is at most half the window, as in PyTorch."""
    for size, (window, stride), padding, flag in itertools.product(
        SIZES, WINDOWS, paddings, (False, True)
    ):
        if padding <= window // 2:
            yield size, window, stride, padding, flag


def run(function, settings):
    """Our function on its own random image for each case, in float64."""
    images = [oracles.random_images(1, *case[0], 2, seed=i) for i, case in enumerate(settings)]
    images = oracles.as_float64(images)

    @oracles.jit
    def all_at_once(images):
        return [function(x, *case[1:]) for x, case in zip(images, settings, strict=True)]

    with oracles.float64():
        return zip(images, all_at_once(images), settings, strict=True)


def to_torch(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def from_torch(x):
    return x.numpy().transpose(0, 2, 3, 1)


def test_max_pool_is_pytorchs_in_floor_and_ceil_mode():
    for x, ours, (size, window, stride, padding, ceil) in run(layers.max_pool, list(cases((0, 1)))):
        theirs = functional.max_pool2d(to_torch(x), window, stride, padding, ceil_mode=ceil)
        name = f'{size}, {window}/{stride}, padding {padding}, ceil {ceil}'
        np.testing.assert_array_equal(ours, from_torch(theirs), name)


def test_gradient_of_max_pool_is_pytorchs():
    settings = [case for case in cases((0, 1)) if case[0] == (8, 5)]

    def gradient(x, *case):
        weights = np.cos(np.arange(x.size))  # each window pulls differently

        def total(x):
            y = layers.max_pool(x, *case)
            return (y * weights[: y.size].reshape(y.shape)).sum()

        return jax.grad(total)(x)

    for x, ours, (_, window, stride, padding, ceil) in run(gradient, settings):
        image = to_torch(x).requires_grad_()
        y = functional.max_pool2d(image, window, stride, padding, ceil_mode=ceil)
        y = y.permute(0, 2, 3, 1)
        weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
        (y * weights).sum().backward()
        oracles.assert_close(ours, from_torch(image.grad))


def test_avg_pool_is_pytorchs_with_and_without_the_padding():
    for x, ours, (_, window, stride, padding, counted) in run(layers.avg_pool, list(cases((0, 1)))):
        theirs = functional.avg_pool2d(
            to_torch(x), window, stride, padding, count_include_pad=counted
        )
        oracles.assert_close(ours, from_torch(theirs))


def windows_of(x, window, stride, pads):
    """The part of the image [H, W, C] under each window, row by row, and the map's size."""
    (top, bottom), (left, right) = pads
    height, width = x.shape[:2]
    rows = range(-top, height + bottom - window + 1, stride)
    columns = range(-left, width + right - window + 1, stride)
    return (len(rows), len(columns)), [
        x[max(row, 0) : row + window, max(column, 0) : column + window]
        for row in rows
        for column in columns
    ]


UNEVEN = [((0, 1), (0, 1)), ((1, 0), (0, 2)), ((2, 1), (1, 1)), ((0, 0), (2, 2))]


@pytest.mark.parametrize('pads', UNEVEN)
def test_uneven_padding_by_a_loop_over_windows(pads):
    settings = [(size, 3, stride, pads) for size in SIZES for stride in (1, 2, 3)]
    for x, ours, (_, window, stride, _) in run(layers.max_pool, settings):
        size, parts = windows_of(x[0], window, stride, pads)
        expected = np.array([part.max(axis=(0, 1)) for part in parts]).reshape(1, *size, 2)
        np.testing.assert_array_equal(ours, expected)
    for x, ours, (_, window, stride, _) in run(layers.avg_pool, settings):
        size, parts = windows_of(x[0], window, stride, pads)
        expected = np.array([part.sum(axis=(0, 1)) / window**2 for part in parts])
        oracles.assert_close(ours, expected.reshape(1, *size, 2))


def test_same_padding_gives_the_size_over_the_stride():
    settings = [
        (size, window, stride, tuple(same_padding(side, window, stride) for side in size))
        for size in SIZES
        for window, stride in WINDOWS
    ]
    for x, ours, (size, window, stride, pads) in run(layers.max_pool, settings):
        assert ours.shape[1:3] == tuple(math.ceil(side / stride) for side in size)
        _, parts = windows_of(x[0], window, stride, pads)
        expected = np.array([part.max(axis=(0, 1)) for part in parts]).reshape(ours.shape)
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize('size', [(1, 1), (7, 7), (8, 11)])
def test_global_average_pool(size):
    x = oracles.as_float64(oracles.random_images(2, *size, 3))
    with oracles.float64():
        ours = layers.global_average_pool(x)
    oracles.assert_close(ours, x.mean(axis=(1, 2)))


def test_global_average_pool_of_half_precision_sums_in_single():
    x = jax.numpy.full((1, 64, 64, 1), 1.0078125, jax.numpy.bfloat16)  # 1 + 2^-7
    y = layers.global_average_pool(x)
    assert y.dtype == jax.numpy.bfloat16
    assert float(y[0, 0]) == 1.0078125


@pytest.mark.parametrize('pool', [layers.max_pool, layers.avg_pool])
def test_a_map_smaller_than_the_window_is_the_users_mistake(pool):
    with pytest.raises(UserError, match='window of 3 on a map of 2x5'):
        pool(np.zeros((1, 2, 5, 1), np.float32), 3, 2)
