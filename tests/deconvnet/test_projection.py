"""Projections against loops over the paper's own steps, and against PyTorch's hooks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cnn_arch.deconvnet.projection import project
from cnn_arch.models import backward, googlenet, layers
from cnn_arch.models.backward import RULES, backward_rule
from tests.deconvnet.common import random_images, small_config, small_network

WHOLE = np.zeros((1, 1, 2), np.int32)  # the corner of a window as large as the image


def projected(network, variables, images, layer, method, m, place):
    """float32 [H, W, C]: one unit of one image, over the whole image."""
    result = project(
        variables, images, np.full((1, 1), m), np.full((1, 1), place), WHOLE,
        network=network, layer=layer, method=method, window=images.shape[1:3],
    )  # fmt: skip
    return np.asarray(result)[0, 0]


def convolved(x, kernel, bias):
    """A 3x3 convolution with one pixel of padding by loops, [h, w, c] -> [h, w, maps]."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    result = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            window = padded[row : row + 3, column : column + 3]
            result[row, column] = np.einsum('hwc,hwcm->m', window, kernel) + bias
    return result


def filtered_back(signal, kernel):
    """The transposed filters: each place lays its filters where the window read."""
    height, width, _ = signal.shape
    result = np.zeros((height + 2, width + 2, kernel.shape[2]))
    for row in range(height):
        for column in range(width):
            result[row : row + 3, column : column + 3] += kernel @ signal[row, column]
    return result[1:-1, 1:-1]


def pooled(x):
    """2x2 maxima and the switches: the first place in row-major order that has the maximum."""
    height, width, maps = x.shape
    result = np.zeros((height // 2, width // 2, maps))
    switches = {}
    for row, column, m in np.ndindex(result.shape):
        places = [(2 * row + dy, 2 * column + dx) for dy in (0, 1) for dx in (0, 1)]
        values = [x[place][m] for place in places]
        best = values.index(max(values))
        result[row, column, m], switches[row, column, m] = values[best], places[best]
    return result, switches


@pytest.mark.parametrize('between', [[], ['LRN']])
def test_two_layers_are_a_deconvnet_of_loops(between):
    network, variables = small_network(small_config((5, *between, 'M', 7, 'M', 8, 'M')))
    image = random_images(1, network)
    params = jax.tree.map(np.float64, variables['params'])
    first, second = params['conv1_1'], params['conv2_1']
    pixels = (image[0] - np.float64(network.data.mean)) / np.float64(network.data.std)

    one = np.maximum(convolved(pixels, first['kernel'], first['bias']), 0)
    if between:
        total = np.stack([(one[..., max(0, i - 2) : i + 3] ** 2).sum(-1) for i in range(5)], -1)
        one = one * (2 + 1e-4 * total) ** -0.75
    down, switches = pooled(one)
    two = np.maximum(convolved(down, second['kernel'], second['bias']), 0)
    row, column, m = np.unravel_index(two.argmax(), two.shape)

    signal = np.zeros_like(two)
    signal[row, column, m] = two[row, column, m]
    signal = filtered_back(np.maximum(signal, 0), second['kernel'])
    unpooled = np.zeros_like(one)
    for (r, c, k), place in switches.items():
        unpooled[(*place, k)] = signal[r, c, k]
    expected = filtered_back(np.maximum(unpooled, 0), first['kernel'])

    place = row * two.shape[1] + column
    found = projected(network, variables, image, 'conv2_1', 'deconvnet', m, place)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_pooling_what_was_unpooled_gives_it_back():
    """Also with windows that overlap; a place that two windows chose holds both their values."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 13, 13, 6)).astype(np.float32))
    for window, stride in ((2, 2), (3, 2)):
        y, pull = jax.vjp(lambda x, w=window, s=stride: layers.max_pool(x, w, s), x)
        signal = np.abs(rng.standard_normal(y.shape)).astype(np.float32)
        (unpooled,) = pull(jnp.asarray(signal))
        _, switches = layers.max_pool_with_switches(x, window, stride)
        flat = np.asarray(unpooled).reshape(2, -1, 6)
        read = np.take_along_axis(flat, np.asarray(switches).reshape(2, -1, 6), axis=1)
        if window == stride:
            np.testing.assert_array_equal(layers.max_pool(unpooled, window, stride), signal)
        summed = np.zeros_like(flat)
        for n, place, m in np.ndindex(read.shape):
            row, column = divmod(place, y.shape[2])
            summed[n, switches[n, row, column, m], m] += signal[n, row, column, m]
        np.testing.assert_allclose(flat, summed, rtol=1e-6)


def test_of_equal_maxima_the_first_is_the_switch():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1].set(3.0).at[0, 0, 1].set(3.0).at[0, 3, 2].set(1.0)
    _, pull = jax.vjp(lambda x: layers.max_pool(x, 2, 2), x)
    (signal,) = pull(jnp.ones((1, 2, 2, 1)))
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[0, 2] = expected[2, 0] = expected[3, 2] = 1  # zeros tie too
    np.testing.assert_array_equal(signal[0, ..., 0], expected)
    _, switches = layers.max_pool_with_switches(x, 2, 2)
    assert sorted(np.asarray(switches).ravel().tolist()) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize('method', RULES)
def test_is_zero_outside_the_receptive_field(method):
    network, variables = small_network()
    fields = network.fields(variables)['conv2_1']
    image = random_images(1, network)
    for place in (0, 5 * 12 + 4, 143):  # a corner, the middle, the last
        row, column = divmod(place, 12)
        (top, bottom), (left, right) = fields.rows[row], fields.columns[column]
        seen = 0
        for m in range(8):
            found = projected(network, variables, image, 'conv2_1', method, m, place)
            seen += np.abs(found[top : bottom + 1, left : right + 1]).sum()
            found = found.copy()
            found[top : bottom + 1, left : right + 1] = 0
            assert not found.any()
        assert seen > 0


def test_windows_are_cut_from_the_whole():
    """Many units of several images at once, at the borders too, over one device and over eight."""
    config = small_config()
    images = random_images(8, small_network(config)[0])
    rng = np.random.default_rng(1)
    maps, places = rng.integers(0, 8, (8, 3)), rng.integers(0, 144, (8, 3))
    network, variables = small_network(config)
    fields = network.fields(variables)['conv2_1']
    height, width = fields.shape
    corners = np.asarray([[fields.corner(int(p)) for p in row] for row in places], np.int32)
    results = []
    for devices in (1, 8):
        network, variables = small_network(config, devices)
        results.append(np.asarray(project(
            variables, images, maps, places, corners,
            network=network, layer='conv2_1', method='deconvnet', window=(height, width),
        )))  # fmt: skip
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    network, variables = small_network(config)
    for n, k in ((0, 0), (3, 1), (7, 2)):
        whole = projected(
            network, variables, images[n : n + 1], 'conv2_1', 'deconvnet', maps[n, k], places[n, k]
        )
        framed = np.pad(whole, ((height, height), (width, width), (0, 0)))
        top, left = corners[n, k] + np.asarray((height, width))
        np.testing.assert_allclose(
            results[0][n, k], framed[top : top + height, left : left + width], rtol=1e-5, atol=1e-6
        )


class _Rectifier(torch.autograd.Function):
    """ReLU with one of the three ways back, as PyTorch's users write it."""

    @staticmethod
    def forward(ctx, x, rule):
        ctx.save_for_backward(x)
        ctx.rule = rule
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, signal):
        (x,) = ctx.saved_tensors
        if ctx.rule != 'gradient':
            signal = signal.clamp(min=0)
        if ctx.rule != 'deconvnet':
            signal = signal * (x > 0)
        return signal, None


@pytest.mark.parametrize('rule', RULES)
def test_the_three_methods_are_pytorchs(rule):
    """One unit of the third layer through two poolings."""
    network, variables = small_network(small_config((6, 'M', 8, 'M', 8, 'M')))
    image = random_images(1, network)
    pixels = torch.tensor(np.asarray(network.pixels(jnp.asarray(image)))).permute(0, 3, 1, 2)
    pixels.requires_grad_(True)
    x = pixels
    for stage in (1, 2, 3):
        layer = variables['params'][f'conv{stage}_1']
        kernel = torch.tensor(layer['kernel']).permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, torch.tensor(layer['bias']), padding=1)
        x = _Rectifier.apply(x, rule)
        if stage < 3:
            x = torch.nn.functional.max_pool2d(x, 2)
    m, place = np.unravel_index(x.detach().numpy().reshape(8, -1).argmax(), (8, 36))
    signal = torch.zeros_like(x)
    unit = divmod(int(place), 6)
    signal[0, m, unit[0], unit[1]] = 1.0 if rule == 'gradient' else x[0, m, unit[0], unit[1]].item()
    x.backward(signal)
    expected = pixels.grad[0].permute(1, 2, 0).numpy()
    found = projected(network, variables, image, 'conv3_1', rule, m, place)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize('rule', RULES)
def test_through_inceptions_branches_as_pytorch(rule):
    """One unit of each branch's part of the concatenation, and of the one that pools."""
    row = (4, 6, 5, 3, 4, 2)
    conv = functools.partial(googlenet.convolution, batch_norm=None, train=False, dtype=jnp.float32)
    module = googlenet.Inception(row, False, conv)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 9, 8)).astype(np.float32)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) * 0.3,
        jax.eval_shape(module.init, jax.random.key(0), x),
    )
    below = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_(True)

    def layer(below, name):
        kernel = torch.tensor(params['params'][name]['kernel']).permute(3, 2, 0, 1)
        bias = torch.tensor(params['params'][name]['bias'])
        y = torch.nn.functional.conv2d(below, kernel, bias, padding=kernel.shape[-1] // 2)
        return _Rectifier.apply(y, rule)

    y = torch.cat([
        layer(below, '1x1'),
        layer(layer(below, '3x3_reduce'), '3x3'),
        layer(layer(below, '5x5_reduce'), '5x5'),
        layer(torch.nn.functional.max_pool2d(below, 3, 1, 1), 'pool_proj'),
    ], dim=1)  # fmt: skip
    signal = np.zeros((1, 9, 9, 15), np.float32)
    for m in (2, 6, 10, 14):  # one of each branch
        signal[0, 4, m % 5 + 2, m] = y[0, m].max().item()
    with backward_rule(rule):
        found, pull = jax.vjp(lambda x: module.apply(params, x), jnp.asarray(x))
    np.testing.assert_allclose(found, y.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    y.backward(torch.tensor(signal).permute(0, 3, 1, 2))
    expected = below.grad.permute(0, 2, 3, 1).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(pull(jnp.asarray(signal))[0], expected, rtol=1e-3, atol=1e-5)


def test_forward_and_training_do_not_change():
    x = jnp.asarray([-2.0, 0.0, 3.0])
    for rule in RULES:
        with backward_rule(rule):
            np.testing.assert_array_equal(backward.relu(x), [0, 0, 3])
            normal = layers.local_response_normalisation(x[None, None, None])
        np.testing.assert_array_equal(
            normal, layers.local_response_normalisation(x[None, None, None])
        )
    np.testing.assert_array_equal(jax.grad(lambda x: backward.relu(x).sum())(x), [0, 0, 1])
