"""Receptive fields by arithmetic, against pixels that are NaN: all that sees one becomes NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import commands, configuration, models
from cnn_arch.deconvnet.network import NO_DECONVNET, Network, check_method, choose_layers
from cnn_arch.errors import UserError
from tests.evaluation.common import mesh_of, random_variables


def network_of(name, keys=()):
    file, _, variant = name.partition(':')
    config = configuration.load(f'configs/{file}.py:{variant}')
    commands.apply_overrides(config, [tuple(key.split('=')) for key in keys])
    return Network.create(config, mesh_of(1)), config


def spread(network, variables, axis):
    """{layer: bool [places along the axis, pixels]}: which of them a row of NaN reaches."""
    shape = network.abstract_pixels.shape
    layers = jax.jit(network.layers)
    seen = {}
    for pixel in range(network.size):
        image = jnp.ones(shape).at[(0, pixel) if axis == 1 else (0, slice(None), pixel)].set(np.nan)
        for name, x in layers(variables, image).items():
            reached = np.isnan(x[0]).any(axis=(1, 2) if axis == 1 else (0, 2))
            seen.setdefault(name, []).append(reached)
    return {name: np.stack(columns, axis=1) for name, columns in seen.items()}


def check(name, keys=()):
    network, config = network_of(name, keys)
    variables = random_variables(network.model, network.size, config.data.channels)
    fields = network.fields(variables)
    for axis in (1, 2):
        for layer, reached in spread(network, variables, axis).items():
            extent = fields[layer].rows if axis == 1 else fields[layer].columns
            first = reached.argmax(axis=1)
            last = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
            np.testing.assert_array_equal(extent, np.stack([first, last], axis=1), layer)


@pytest.mark.parametrize('name', ['lenet:lenet1', 'demo:vgg_fixed'])
def test_are_what_a_broken_pixel_reaches(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['googlenet:googlenet', 'resnet:18'])
def test_are_what_a_broken_pixel_reaches_through_branches_and_shortcuts(name):
    check(name, ['data.augment.size=64'])


def test_the_published_ones():
    """AlexNet (one tower) by the usual recurrence; ZFNet's first layer is 7x7."""
    network, _ = network_of('alexnet:one_tower')
    fields = network.fields(network.abstract_variables)
    sides = {name: fields[name].shape for name in fields}
    assert [sides[f'conv{k}'][0] for k in range(1, 6)] == [11, 51, 99, 131, 163]
    assert sides['fc6'] == sides['logits'] == (224, 224)
    assert fields['conv1'].maps == 64
    assert fields['conv1'].corner(0) == (-2, -2)  # padded by 2
    assert fields['conv1'].corner(1) == (-2, 2)
    assert fields['conv1'].corner(55) == (2, -2)
    zfnet, _ = network_of('zfnet:a')
    assert zfnet.fields(zfnet.abstract_variables)['conv1'].shape == (7, 7)


def test_layers_of_convolutions_are_shown_unless_others_are_named():
    network, _ = network_of('alexnet:two_tower')
    variables = network.abstract_variables
    assert list(choose_layers(network, variables, ())) == [f'conv{k}' for k in range(1, 6)]
    assert list(choose_layers(network, variables, ['fc6', 'norm1'])) == ['fc6', 'norm1']
    lenet, _ = network_of('lenet:lenet1')
    assert list(choose_layers(lenet, lenet.abstract_variables, ())) == ['H1', 'H2', 'H3', 'H4']


def test_layers_whose_weights_are_missing_are_not_there():
    network, _ = network_of('alexnet:one_tower')
    params = dict(network.abstract_variables['params'])
    del params['conv4']
    assert list(network.fields({'params': params})) == ['conv1', 'pool1', 'conv2', 'pool2', 'conv3']


def test_a_deconvnet_is_refused_with_a_reason_where_it_has_no_meaning():
    have = {'alexnet', 'zfnet', 'vgg', 'googlenet'}
    assert have == models.MODELS.keys() - NO_DECONVNET.keys()
    network, _ = network_of('resnet:18')
    check_method(network, 'gradient')
    for method in ('deconvnet', 'guided'):
        with pytest.raises(UserError, match=r'no meaning in resnet: its shortcuts .*=gradient'):
            check_method(network, method)
