"""ZFNet against the paper's figure 3 and PyTorch assembled from its own layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cnn_arch import configuration, models
from cnn_arch.errors import UserError
from cnn_arch.evaluation import dense
from cnn_arch.models import zfnet
from cnn_arch.models.layers import max_pool_with_switches
from cnn_arch.models.zfnet import POOL, VARIANTS, ZFNet
from cnn_arch.training import optimisers
from tests import oracles

LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
MAPS = {'a': (384, 384, 256), 'b': (512, 1024, 512)}  # of layers 3, 4 and 5
PARAMETERS = {'a': 62_357_608, 'b': 107_627_624}


def build(variant, **options):
    return ZFNet(**VARIANTS[variant], **options)


def images(batch, height=224, width=224):
    # Grey levels minus the mean are of this size; at 1 the contrast normalisation would not show.
    return 60 * oracles.random_images(batch, height, width, 3)


def in_torch(variant, variables, fc_units, classes=1000, sliding=False):
    """Figure 3 by hand: pooling first, then normalisation; layers 3 to 5 without groups.

    With `sliding`, the last three layers are convolutions.
    """
    three, four, five = MAPS[variant]
    norm = functools.partial(torch.nn.LocalResponseNorm, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    pool = functools.partial(torch.nn.MaxPool2d, 3, 2, ceil_mode=True)
    relu = torch.nn.ReLU()

    def full(inputs, outputs, window=1):
        if sliding:
            return torch.nn.Conv2d(inputs, outputs, window)
        return torch.nn.Linear(window**2 * inputs, outputs)

    peer = oracles.unfilled_torch(
        lambda: torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 96, 7, 2, padding=1), relu, pool(), norm()),
            *(torch.nn.Conv2d(96, 256, 5, 2), relu, pool(), norm()),
            *(torch.nn.Conv2d(256, three, 3, padding=1), relu),
            *(torch.nn.Conv2d(three, four, 3, padding=1), relu),
            *(torch.nn.Conv2d(four, five, 3, padding=1), relu, pool()),
            *([] if sliding else [torch.nn.Flatten()]),
            *(full(five, fc_units, 6), relu),
            *(full(fc_units, fc_units), relu),
            full(fc_units, classes),
        )
    )
    layers = [layer for layer in peer if hasattr(layer, 'weight')]
    for name, layer in zip(LAYERS, layers, strict=True):
        oracles.fill_torch(
            layer, variables, name, (6, 6) if name == 'fc6' and not sliding else None
        )
    return peer


@pytest.mark.parametrize('variant', VARIANTS)
def test_parameters(variant):
    assert oracles.count_parameters(build(variant)) == PARAMETERS[variant]


@pytest.mark.parametrize('variant', VARIANTS)
def test_map_sizes_of_figure_3(variant):
    shapes = {name: x.shape[1:] for name, x in oracles.abstract_endpoints(build(variant)).items()}
    three, four, five = MAPS[variant]
    assert shapes['conv1'] == (110, 110, 96)
    assert shapes['pool1'] == shapes['norm1'] == (55, 55, 96)
    assert shapes['conv2'] == (26, 26, 256)
    assert shapes['pool2'] == shapes['norm2'] == (13, 13, 256)
    assert [shapes[f'conv{i}'] for i in (3, 4, 5)] == [(13, 13, n) for n in (three, four, five)]
    assert shapes['pool5'] == (6, 6, five)
    assert shapes['fc6'] == shapes['fc7'] == (4096,)


@pytest.mark.parametrize('size', [224, 231])
@pytest.mark.parametrize('variant', VARIANTS)
def test_equals_pytorch(variant, size):
    model = build(variant, fc_units=256)
    variables = oracles.random_variables(model)
    x = images(2, size, size)
    logits, _ = oracles.in_float64(model)(variables, x)
    oracles.assert_close(logits, oracles.run_torch(in_torch(variant, variables, 256), x))


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
def test_the_whole_network_equals_pytorch(variant):
    model = build(variant)
    variables = oracles.random_variables(model)
    peer = in_torch(variant, variables, 4096)
    for size in ((224, 224), (231, 238)):
        x = images(2, *size)
        logits, _ = oracles.in_float64(model)(variables, x)
        oracles.assert_close(logits, oracles.run_torch(peer, x))


def test_what_is_compared_depends_on_the_normalisation():
    """Without this, weak inputs could hide a wrong constant."""
    model = build('a', fc_units=64)
    variables = oracles.random_variables(model)
    x = images(2)
    paper = np.asarray(oracles.jit(model.apply)(variables, x)[0])
    caffe = oracles.jit(model.clone(lrn_alpha=2e-5).apply)(variables, x)[0]
    assert np.abs(paper - caffe).max() > 1e-2 * np.abs(paper).max()


def test_dense_slides_over_larger_images():
    model = build('a', fc_units=64, num_classes=10)
    variables = oracles.random_variables(model)
    sliding, converted = dense.to_convolutional(model, variables, 224)
    x = images(2)
    logits, _ = oracles.in_float64(model)(variables, x)
    scores, _ = oracles.in_float64(sliding)(converted, x)
    assert scores.shape == (2, 1, 1, 10)
    oracles.assert_close(scores[:, 0, 0], logits)
    larger = images(1, 300, 349)
    scores, _ = oracles.in_float64(sliding)(converted, larger)
    assert scores.shape == (1, 3, 5, 10)
    theirs = oracles.run_torch(in_torch('a', converted, 64, 10, sliding=True), larger)
    oracles.assert_close(scores.reshape(-1, 10), theirs.reshape(-1, 10))


def test_switches_say_where_the_maxima_came_from():
    model = build('a', fc_units=64)
    variables = oracles.random_variables(model)
    _, endpoints = oracles.jit(model.apply)(variables, images(2))
    for index in (1, 2, 5):
        before = endpoints[f'conv{index}']
        pooled, switches = oracles.jit(functools.partial(max_pool_with_switches, **POOL))(before)
        np.testing.assert_array_equal(pooled, endpoints[f'pool{index}'])
        places = np.asarray(before).reshape(2, -1, before.shape[-1])
        flat = np.asarray(switches).reshape(2, -1, before.shape[-1])
        found = np.take_along_axis(places, flat, axis=1).reshape(pooled.shape)
        np.testing.assert_array_equal(found, pooled)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_step_changes_every_parameter(dtype):
    # Narrow fully connected layers: the same arrays, a tenth of the work.
    loss, changed = oracles.step_changes(build('a', dtype=dtype, fc_units=64), images(2))
    assert np.isfinite(loss)
    assert len(changed) == 16
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_step_of_the_whole_network_changes_every_parameter(variant, dtype):
    loss, changed = oracles.step_changes(build(variant, dtype=dtype), images(2))
    assert np.isfinite(loss)
    assert len(changed) == 16
    assert all(share > 0 for share in changed.values()), changed


def test_half_of_fc6_and_of_fc7_is_dropped_in_training_only():
    model = build('a', fc_units=512, num_classes=512)
    shapes = oracles.abstract_variables(model)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    # fc6 is all ones from its bias, fc7 and fc8 hand it on: the logits show the masks of fc6 and
    # fc7 and the factor 2 of each; at test time there is neither, and no random key is needed.
    variables['params']['fc6']['bias'] += 1
    for name in ('fc7', 'fc8'):
        variables['params'][name]['kernel'] += np.eye(512, dtype=np.float32)
    train = oracles.jit(functools.partial(model.apply, train=True))
    logits, _ = train(variables, images(4), rngs={'dropout': oracles.random_key(0)})
    assert set(np.unique(logits)) == {0.0, 4.0}
    assert abs(np.mean(np.asarray(logits) == 4) - 0.25) < 4 * 0.5 / np.sqrt(logits.size)
    logits, _ = oracles.in_float64(model)(variables, images(1))
    assert (np.asarray(logits) == 1).all()


def test_initialisation_of_section_3():
    """Weights of size 0.01, biases 0."""
    model = build('a', fc_units=128)
    params = oracles.jit(model.init)(oracles.random_key(0), jnp.zeros((1, 224, 224, 3)))['params']
    assert set(params) == set(LAYERS)
    for name, layer in params.items():
        kernel = np.asarray(layer['kernel'], np.float64)
        assert abs(kernel.mean()) < 5 * 0.01 / np.sqrt(kernel.size), name
        assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size), name
        assert abs(np.mean((kernel / 0.01) ** 4) - 3) < 5 * np.sqrt(96 / kernel.size), name
        assert (np.asarray(layer['bias']) == 0).all(), name


@pytest.mark.parametrize('variant', VARIANTS)
def test_smallest_size(variant, monkeypatch):
    model = build(variant)
    smallest = zfnet.MINIMUM
    assert oracles.abstract_endpoints(model, smallest)['logits'].shape == (1, 1000)
    with pytest.raises(UserError, match=f'this network takes {smallest}x{smallest} pixels or more'):
        oracles.abstract_endpoints(model, (smallest + 30, smallest - 1))
    # The bound is the network's, not only the check's: one pixel less leaves fc6 a smaller map.
    monkeypatch.setattr(zfnet, 'MINIMUM', 1)
    with pytest.raises(UserError, match='fc6: a map of 5x6 where the fully connected layer takes'):
        oracles.abstract_endpoints(model, (smallest - 1, smallest))


@pytest.mark.parametrize('variant', VARIANTS)
def test_recipe(variant):
    """Section 3: what the paper prints, in the config and in the network it builds."""
    config = configuration.load(f'{configuration.CONFIGS}/zfnet.py:{variant}')
    configuration.validate(config)
    assert models.build(config.model) == build(variant)
    assert (config.train.batch_size, config.train.epochs) == (128, 70)
    optim = config.optim
    assert (optim.rule, optim.momentum, optim.learning_rate) == ('momentum', 0.9, 0.01)
    assert optim.filter_rms == 0.1
    assert (config.schedule.kind, config.model.options.dropout) == ('plateau', 0.5)
    assert config.eval.protocol == 'ten_crop'


def test_filters_are_scaled_back_to_their_rms():
    """Section 3: filters of the convolutions whose RMS exceeds 0.1 are scaled back to 0.1."""
    variables = oracles.random_variables(build('a', fc_units=64))
    params = jax.tree.map(lambda leaf: leaf * 2, variables['params'])
    after = optimisers.renormalise_filters(params, 0.1)
    for name, layer in params.items():

        def rms(kernel):  # of each output map
            return np.sqrt(np.square(kernel).reshape(-1, kernel.shape[-1]).mean(axis=0))

        before = rms(layer['kernel'])
        expected = np.minimum(before, 0.1) if name.startswith('conv') else before
        np.testing.assert_allclose(rms(np.asarray(after[name]['kernel'])), expected, rtol=1e-5)
    assert np.sqrt(np.mean(np.square(params['conv1']['kernel']))) > 0.1  # something to scale back
