"""Padded images have exactly the scores they get alone; what cannot be exact is refused."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch.evaluation import dense
from cnn_arch.evaluation.ragged import RaggedError, RaggedFunction
from cnn_arch.models import (
    alexnet,
    bn_inception,
    densenet,
    googlenet,
    layers,
    resnet,
    senet,
    vgg,
    xception,
    zfnet,
)
from tests.evaluation.common import CLASSES, random_variables


def scores_of(model):
    """(variables, uint8 images) -> scores, averaged over the map of a dense network."""

    def function(variables, images):
        scores, _ = model.apply(variables, images.astype(jnp.float32) / 64 - 2)
        return scores if scores.ndim == 2 else layers.global_average_pool(scores)

    return function


def check(function, variables, base, sizes, channels=3):
    """Runs images of these sizes on one canvas; returns (ours, alone, with padding that leaks)."""
    height, width = np.max(sizes, axis=0)
    # Grey everywhere: what lies beyond an image must not matter, whatever it is.
    canvas = np.random.default_rng(0).integers(0, 256, (len(sizes), height, width, channels))
    canvas = canvas.astype(np.uint8)
    zeros = np.zeros_like(canvas)
    for row, (h, w) in enumerate(sizes):
        zeros[row, :h, :w] = canvas[row, :h, :w]
    apply = jax.jit(function)
    alone = [apply(variables, canvas[i : i + 1, :h, :w]) for i, (h, w) in enumerate(sizes)]
    ragged = RaggedFunction(function, variables, channels, jnp.uint8, base)
    ours = jax.jit(ragged)(variables, canvas, ragged.facts(np.asarray(sizes)))
    return np.asarray(ours), np.concatenate(alone), np.asarray(apply(variables, zeros))


def error(found, expected):
    """Largest difference of an image's scores, relative to its largest score."""
    return np.max(np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1))


NARROW_GOOGLENET = [
    (name, *(max(4, maps // 8) for maps in row)) for name, *row in googlenet.TABLE_1
]
NARROW_BN_INCEPTION = {
    label: tuple(n if isinstance(n, str) else n // 8 for n in row)
    for label, row in bn_inception.FIGURE_5.items()
}
SE = {**senet.VARIANTS['se_resnet50'], 'blocks': (1, 1, 1, 1), 'width': 16}
SENET154 = {**senet.VARIANTS['senet154'], 'blocks': (1, 1, 1, 1), 'width': 16, 'groups': 4,
            'stem': (8, 8, 16)}  # fmt: skip
NARROW_ALEXNET = [(maps // 16, *row) for maps, *row in alexnet.TWO_TOWER]
NARROW_ZFNET = [(maps // 16, *row) for maps, *row in zfnet.FIGURE_3]
N = CLASSES
FAMILIES = {
    'alexnet': (alexnet.AlexNet(NARROW_ALEXNET, 224, N, fc_units=32), 224),
    'alexnet-67': (alexnet.AlexNet(NARROW_ALEXNET, 224, N, removed=(6, 7)), 224),
    'zfnet': (zfnet.ZFNet(NARROW_ZFNET, N, fc_units=32), 224),
    'vgg': (
        vgg.VGG((8, 'LRN', 'M', 8, 'M', (1, 8), 'M', 8, 'M', 8, 'M'), N, 16, input_size=64),
        64,
    ),
    'googlenet': (googlenet.GoogLeNet(num_classes=N, auxiliary=False), 64),
    'resnet': (resnet.ResNet((1, 1, 1, 1), bottleneck=True, num_classes=N), 64),
    'resnet-A': (resnet.ResNet((1, 1, 1, 1), False, num_classes=N, shortcut='A'), 64),
    'resnet-v2': (resnet.ResNet((1, 1, 1, 1), True, num_classes=N, preactivation='keras'), 64),
    'densenet': (densenet.DenseNet((1, 2, 1, 1), 8, num_classes=N), 64),
    'xception': (
        xception.Xception(((16, 16, 'pool'), (16, 24, 'pool'), (24,) * 3), (24, 32), num_classes=N),
        64,
    ),
    'se_resnet': (senet.SENet(**SE, num_classes=N), 64),
    'se_max': (senet.SENet(**{**SE, 'squeeze': 'max'}, num_classes=N), 64),
    'se_none': (senet.SENet(**{**SE, 'squeeze': 'none'}, num_classes=N), 64),
    'senet154': (senet.SENet(**SENET154, num_classes=N), 64),
    'bn_inception': (bn_inception.BNInception(num_classes=N, reduction=4), 64),
}


SLOW = ('googlenet', 'bn_inception', 'senet154', 'resnet-A', 'resnet-v2', 'alexnet-67', 'se_max',
        'se_none')  # fmt: skip


@pytest.mark.parametrize(
    'family',
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAMILIES],
)
def test_families(family, monkeypatch):
    monkeypatch.setattr(googlenet, 'TABLE_1', NARROW_GOOGLENET)
    monkeypatch.setattr(bn_inception, 'FIGURE_5', NARROW_BN_INCEPTION)
    model, base = FAMILIES[family]
    model = dense.convolutional(model)
    variables = random_variables(model, base)
    # Of odd and even sizes, one of them the canvas' height and one its width.
    sizes = [(base + 31, base + 2), (base, base + 41), (base + 14, base + 21)]
    ours, alone, leaking = check(scores_of(model), variables, base, sizes)
    assert error(ours, alone) < 1e-5
    # The comparison sees what it is for.
    assert error(leaking, alone) > 1e-3


SIZES = [(20, 20), (49, 61), (48, 60), (33, 38), (22, 59), (21, 23)]
LAYERS = {
    'same 3/2': lambda x: nn.relu(nn.Conv(8, (3, 3), (2, 2), 'SAME')(x)),
    'same 5/2': lambda x: nn.relu(nn.Conv(8, (5, 5), (2, 2), 'SAME')(x)),
    'same 1/2': lambda x: nn.Conv(8, (1, 1), (2, 2), 'SAME')(x),
    'same 7/3': lambda x: nn.relu(nn.Conv(8, (7, 7), (3, 3), 'SAME')(x)),
    'same 11/4': lambda x: nn.relu(nn.Conv(8, (11, 11), (4, 4), 'SAME')(x)),
    'dilated': lambda x: nn.relu(nn.Conv(8, (3, 3), padding=2, kernel_dilation=2)(x)),
    'same pooling': lambda x: nn.max_pool(x, (3, 3), (2, 2), 'SAME'),
    'same average': lambda x: nn.avg_pool(x, (3, 3), (2, 2), 'SAME', count_include_pad=False),
    'ceil mode': functools.partial(layers.max_pool, window=3, stride=2, ceil_mode=True),
    'average': functools.partial(layers.avg_pool, window=3, stride=2, padding=1),
    'average without padding': functools.partial(
        layers.avg_pool, window=3, stride=1, padding=1, count_padding=False
    ),
    'jnp.pad': lambda x: jnp.pad(x, ((0, 0), (3, 2), (1, 4), (0, 0)), constant_values=7),
    'strided slice': lambda x: x[:, 1::2, ::3],
}


def network_of(*functions):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for function in functions:
                x = function(x)
            return layers.global_average_pool(x), {}

    return Network()


@pytest.mark.parametrize('name', LAYERS)
def test_layers_at_even_and_odd_sizes(name):
    """After a convolution, whose map is odd where the image is even and the reverse."""
    model = network_of(LAYERS['same 3/2'], LAYERS[name])
    variables = random_variables(model, 20)
    ours, alone, _ = check(scores_of(model), variables, 20, SIZES)
    assert error(ours, alone) < 3e-6


def test_everything_at_once():
    model = network_of(*(LAYERS[n] for n in ('same 3/2', 'same pooling', 'average without padding',
                                             'same 5/2', 'ceil mode', 'same 7/3')))  # fmt: skip
    variables = random_variables(model, 40)
    rng = np.random.default_rng(1)
    sizes = [(40, 40), (99, 131), *rng.integers((40, 40), (100, 132), (10, 2))]
    ours, alone, _ = check(scores_of(model), variables, 40, sizes)
    assert error(ours, alone) < 1e-5


def test_facts_of_all_sizes_from_a_few_traces():
    """Extents by periodicity are those of a trace at the size itself."""
    traced = []

    def function(variables, images):
        traced.append(images.shape[1:3])
        x = images.astype(jnp.float32)
        for window in (3, 5, 3):
            pads = [sum(xception.same_padding(size, window, 2)) for size in x.shape[1:3]]
            x = jnp.pad(x, ((0, 0), (pads[0] // 2, -(-pads[0] // 2)), (pads[1], 0), (0, 0)))
            x = layers.max_pool(x, window, 2)
        return layers.global_average_pool(x)

    ragged = RaggedFunction(function, {}, 1, jnp.uint8, base=20)
    sizes = np.asarray([(20 + n, 133 - n) for n in range(100)])
    facts = ragged.facts(sizes)
    assert ragged.period == 8
    assert len(set(traced)) < 25
    for row, size in enumerate(sizes):
        # The extent of the last map: rounded up three times, by the definition of "same".
        expected = [math.ceil(side / 8) for side in size]
        np.testing.assert_array_equal(facts[row, -1, :, 0], expected)


class TestRefused:
    def refuse(self, function, match):
        with pytest.raises(RaggedError, match=match):
            RaggedFunction(function, {}, 3, jnp.uint8, base=16)

    def test_mean_that_divides_by_a_number_of_its_own(self):
        self.refuse(lambda _, x: x.astype(float).mean((1, 2)), 'global_average_pool')

    def test_flattened_maps(self):
        self.refuse(lambda _, x: x.reshape(len(x), -1).astype(float).sum(1), 'evaluate densely')

    def test_maps_as_outputs(self):
        self.refuse(lambda _, x: x + 1, 'average it over the places')

    @pytest.mark.parametrize(
        ('function', 'name'),
        [
            (lambda x: jnp.cumsum(x, axis=1), 'cumsum'),
            (lambda x: jnp.sort(x, axis=2), 'sort'),
            (lambda x: jnp.flip(x, axis=2), 'rev'),
            (lambda x: jnp.concatenate([x[:, ::2], x[:, 1::2]], axis=1), 'concatenate'),
            (lambda x: jnp.concatenate([x, x], axis=1), 'grows by 1920 places'),
            (lambda x: x[:, ::-1], 'rev'),
            (lambda x: x[:, -4:], 'slice'),
            (lambda x: x - x.mean(axis=0, keepdims=True), 'first axis'),
            (lambda x: jnp.einsum('nhwc,nhvc->nwvc', x, x), 'dot_general'),
            (
                lambda x: jax.image.resize(x, (len(x), 9, 9, 3), 'linear'),
                'depends on the image size',
            ),
        ],
    )
    def test_operations_that_would_mix_places(self, function, name):
        self.refuse(lambda _, x: layers.global_average_pool(function(x.astype(jnp.float32))), name)
