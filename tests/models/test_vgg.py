"""VGG against the paper's tables 1 and 2, Keras' VGG-16 and VGG-19, and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch

from cnn_arch import configuration, models, summary
from cnn_arch.errors import UserError
from cnn_arch.evaluation import dense
from cnn_arch.models import vgg
from cnn_arch.models.vgg import CONFIGURATIONS, VARIANTS, VGG
from tests import oracles

PARAMETERS = {
    'A': 132_863_336,
    'A-LRN': 132_863_336,
    'B': 133_047_848,
    'C': 133_638_952,
    'D': 138_357_544,
    'E': 143_667_240,
}
TABLE_2 = {'A': 133, 'A-LRN': 133, 'B': 133, 'C': 134, 'D': 138, 'E': 144}  # millions
WEIGHT_LAYERS = {'A': 11, 'A-LRN': 11, 'B': 13, 'C': 16, 'D': 16, 'E': 19}  # table 1
FULLY_CONNECTED = ('fc6', 'fc7', 'fc8')


def build(variant, **options):
    return VGG(**VARIANTS[variant], **options)


def images(batch, height, width=None):
    # Grey levels minus the mean are of this size; at 1 the response normalisation would not show.
    return 60 * oracles.random_images(batch, height, width or height, 3)


@pytest.mark.parametrize('variant', VARIANTS)
def test_parameters(variant):
    model = build(variant)
    assert oracles.count_parameters(model) == PARAMETERS[variant]
    assert round(PARAMETERS[variant] / 1e6) == TABLE_2[variant]
    assert len(oracles.abstract_variables(model)['params']) == WEIGHT_LAYERS[variant]


@pytest.mark.parametrize(
    ('variant', 'published'), [('A', 7.609), ('B', 11.308), ('D', 15.470), ('E', 19.632)]
)
def test_multiply_adds_are_those_that_torchvision_publishes(variant, published):
    found = summary.summarise(variant, configuration.load(f'configs/vgg.py:{variant}'))
    assert round(found.multiply_adds / 1e9, 3) == published


@pytest.mark.parametrize('variant', VARIANTS)
def test_maps_of_table_1(variant):
    shapes = {k: x.shape[1:] for k, x in oracles.abstract_endpoints(build(variant)).items()}
    pools = [shapes[f'pool{stage}'] for stage in range(1, 6)]
    assert pools == [(112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)]
    assert ('norm1' in shapes) == (variant == 'A-LRN')
    assert shapes['fc6'] == shapes['fc7'] == (4096,)


def test_where_configuration_c_has_its_1x1_convolutions():
    params = oracles.abstract_variables(build('C'))['params']
    small = [name for name, layer in params.items() if layer['kernel'].shape[:2] == (1, 1)]
    assert small == ['conv3_3', 'conv4_3', 'conv5_3']


def in_keras(variant, variables, size):
    build = {'D': keras.applications.VGG16, 'E': keras.applications.VGG19}[variant]
    peer = oracles.unfilled_keras(build, size)
    theirs = {'fc1': 'fc6', 'fc2': 'fc7', 'predictions': 'fc8'}
    for layer in peer.layers:
        if layer.weights:
            ours = theirs.get(layer.name) or layer.name.replace('block', 'conv').replace(
                '_conv', '_'
            )
            oracles.fill_keras(layer, variables, ours)
    return functools.partial(oracles.run_keras, peer)


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('variant', ['D', 'E'])
def test_equals_keras(variant, size):
    model = build(variant, input_size=size)
    variables = oracles.random_variables(model, size)
    x = oracles.random_images(2, size, size, 3)
    logits, _ = oracles.in_float64(model)(variables, x)
    oracles.assert_close(logits, in_keras(variant, variables, (size, size))(x))


FULL_SIZES = [(224, 224), (233, 250)]  # fc6 takes a map of 7x7 from both


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['D', 'E'])
def test_the_whole_network_equals_keras(variant):
    model = build(variant)
    variables = oracles.random_variables(model)
    for size in FULL_SIZES:
        x = oracles.random_images(2, *size, 3)
        logits, _ = oracles.in_float64(model)(variables, x)
        oracles.assert_close(logits, in_keras(variant, variables, size)(x))


def in_torch(variant, variables, side, fc_units, classes, sliding=False):
    """torchvision's convolutions where it has them; C and A-LRN by hand; the rest by hand."""
    module = oracles.torchvision().models.vgg
    relu = torch.nn.ReLU()
    stage_2_and_3 = [128, 128, 'M', 256, 256]

    def features():
        if variant == 'A-LRN':
            layers = list(module.make_layers(module.cfgs['A']))
            layers.insert(2, torch.nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
            return layers
        if variant == 'C':
            layers, inputs = [], 3
            for maps in [64, 64, 'M', *stage_2_and_3, -256, 'M', *(512, 512, -512, 'M') * 2]:
                if maps == 'M':
                    layers.append(torch.nn.MaxPool2d(2))
                    continue
                window = 1 if maps < 0 else 3  # minus marks the 1x1 convolutions
                layers += [torch.nn.Conv2d(inputs, abs(maps), window, padding=window // 2), relu]
                inputs = abs(maps)
            return layers
        return list(module.make_layers(module.cfgs[variant]))

    def full(inputs, outputs, window=1):
        if sliding:
            return torch.nn.Conv2d(inputs, outputs, window)
        return torch.nn.Linear(window**2 * inputs, outputs)

    peer = oracles.unfilled_torch(
        lambda: torch.nn.Sequential(
            *features(),
            *([] if sliding else [torch.nn.Flatten()]),
            *(full(512, fc_units, side), relu, full(fc_units, fc_units), relu),
            full(fc_units, classes),
        )
    )
    layers = [layer for layer in peer if hasattr(layer, 'weight')]
    convolutions = sorted(name for name in variables['params'] if name.startswith('conv'))
    for name, layer in zip((*convolutions, *FULLY_CONNECTED), layers, strict=True):
        window = (side, side) if name == 'fc6' and not sliding else None
        oracles.fill_torch(layer, variables, name, window)
    return peer


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('variant', ['A', 'A-LRN', 'B', 'C'])
def test_equals_pytorch(variant, size):
    model = build(variant, input_size=size, fc_units=256, num_classes=100)
    variables = oracles.random_variables(model, size)
    x = images(2, size)
    logits, _ = oracles.in_float64(model)(variables, x)
    peer = in_torch(variant, variables, size // 32, 256, 100)
    oracles.assert_close(logits, oracles.run_torch(peer, x))


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['A', 'A-LRN', 'B', 'C'])
def test_the_whole_network_equals_pytorch(variant):
    model = build(variant)
    variables = oracles.random_variables(model)
    peer = in_torch(variant, variables, 7, 4096, 1000)
    for size in FULL_SIZES:
        x = images(2, *size)
        logits, _ = oracles.in_float64(model)(variables, x)
        oracles.assert_close(logits, oracles.run_torch(peer, x))


def test_what_is_compared_depends_on_the_normalisation():
    """A-LRN without its LRN is A: on the same weights they differ by far more than the bound."""
    model = build('A-LRN', input_size=32, fc_units=64)
    variables = oracles.random_variables(model, 32)
    x = images(2, 32)
    with_lrn = np.asarray(oracles.jit(model.apply)(variables, x)[0])
    without = oracles.jit(model.clone(layers=CONFIGURATIONS['A']).apply)(variables, x)[0]
    assert np.abs(with_lrn - without).max() > 1e-2 * np.abs(with_lrn).max()


def test_dense_slides_over_larger_images():
    model = build('A', input_size=64, fc_units=64, num_classes=10)
    variables = oracles.random_variables(model, 64)
    sliding, converted = dense.to_convolutional(model, variables, 64)
    larger = images(1, 101, 140)
    scores, _ = oracles.in_float64(sliding)(converted, larger)
    assert scores.shape == (1, 2, 3, 10)
    theirs = oracles.run_torch(in_torch('A', converted, 2, 64, 10, sliding=True), larger)
    oracles.assert_close(scores.reshape(-1, 10), theirs.reshape(-1, 10))


def step(variant, dtype, size, **options):
    model = build(variant, dtype=dtype, input_size=size, **options)
    # A starts from so small weights that what reaches the image is lost in rounding at usual rates.
    loss, changed = oracles.step_changes(model, images(2, size), learning_rate=1e3)
    assert np.isfinite(loss)
    assert len(changed) == 2 * WEIGHT_LAYERS[variant]
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_step_changes_every_parameter(dtype):
    step('C', dtype, 32, fc_units=64)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_step_of_each_column_changes_every_parameter(variant, dtype):
    step(variant, dtype, 64)


def test_half_of_fc6_and_of_fc7_is_dropped_in_training_only():
    model = build('A', input_size=32, fc_units=512, num_classes=512)
    shapes = oracles.abstract_variables(model, 32)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    # fc6 is all ones from its bias, fc7 and fc8 hand it on: the logits show the masks of fc6 and
    # fc7 and the factor 2 of each; at test time there is neither, and no random key is needed.
    variables['params']['fc6']['bias'] += 1
    for name in ('fc7', 'fc8'):
        variables['params'][name]['kernel'] += np.eye(512, dtype=np.float32)
    train = oracles.jit(functools.partial(model.apply, train=True))
    logits, _ = train(variables, images(4, 32), rngs={'dropout': oracles.random_key(0)})
    assert set(np.unique(logits)) == {0.0, 4.0}
    assert abs(np.mean(np.asarray(logits) == 4) - 0.25) < 4 * 0.5 / np.sqrt(logits.size)
    logits, _ = oracles.in_float64(model)(variables, images(1, 32))
    assert (np.asarray(logits) == 1).all()


@pytest.mark.parametrize('variant', ['A', 'B'])
def test_initialisation(variant):
    """Section 3.1: A from a normal distribution, deeper ones from Glorot's.

    The print gives A's *variance* as 10^-2; that is read as the deviation, as in the authors' code.
    """
    model = build(variant, input_size=32, fc_units=128)
    params = oracles.jit(model.init)(oracles.random_key(0), jnp.zeros((1, 32, 32, 3)))['params']
    assert len(params) == WEIGHT_LAYERS[variant]
    for name, layer in params.items():
        kernel = np.asarray(layer['kernel'], np.float64)
        *window, inputs, outputs = kernel.shape
        fans = np.prod(window, dtype=int) * (inputs + outputs)
        deviation = 0.01 if variant == 'A' else np.sqrt(2 / fans)
        assert abs(kernel.mean()) < 5 * deviation / np.sqrt(kernel.size), name
        assert abs(kernel.std() / deviation - 1) < 5 / np.sqrt(2 * kernel.size), name
        if variant == 'B':  # uniform
            assert np.abs(kernel).max() <= deviation * np.sqrt(3) * (1 + 1e-6), name
        assert (np.asarray(layer['bias']) == 0).all(), name


def test_smallest_size(monkeypatch):
    model = build('A')
    assert oracles.abstract_endpoints(model, 224)['logits'].shape == (1, 1000)
    with pytest.raises(UserError, match='this network takes 224x224 pixels or more'):
        oracles.abstract_endpoints(model, (223, 300))
    with pytest.raises(UserError, match='this network takes 64x64 pixels or more'):
        oracles.abstract_endpoints(build('A', input_size=80), 63)
    # The bound is the network's, not only the check's: one pixel less leaves fc6 a smaller map.
    monkeypatch.setattr(vgg, 'check_size', lambda images, minimum: None)
    with pytest.raises(UserError, match='fc6: a map of 6x7 where the fully connected layer takes'):
        oracles.abstract_endpoints(model, (223, 224))


@pytest.mark.parametrize('variant', VARIANTS)
def test_recipe(variant):
    """Section 3.1: what the paper prints, in the config and in the network it builds."""
    config = configuration.load(f'{configuration.CONFIGS}/vgg.py:{variant}')
    configuration.validate(config)
    assert models.build(config.model) == build(variant)
    assert config.train.batch_size == 256
    assert config.train.epochs == 74
    optim = config.optim
    assert (optim.rule, optim.momentum, optim.weight_decay) == ('momentum', 0.9, 5e-4)
    assert optim.learning_rate == 0.01
    schedule = config.schedule
    assert (schedule.kind, schedule.factor, schedule.drops) == ('plateau', 0.1, 3)
    assert config.model.options.dropout == 0.5
    augment = config.data.augment
    assert (augment.crop, augment.size) == ('isotropic', 224)
    assert (augment.scale_min, augment.scale_max) == (256, 256)
    assert (augment.mirror, augment.pca_colour) == (True, 0.1)
    assert (config.eval.protocol, config.eval.scale) == ('dense', 256)


def test_iterations_of_section_3_1():
    """Training "was stopped after 370K iterations (74 epochs)" of 1.28 million images."""
    assert round(74 * 1_281_167 / 256, -4) == 370_000
