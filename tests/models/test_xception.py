"""Xception against Keras Applications, the author's code, and its options against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, models
from cnn_arch.errors import UserError
from cnn_arch.models import xception
from cnn_arch.models.layers import BatchNormSettings
from cnn_arch.models.xception import VARIANTS, Xception
from tests import oracles

TRAINABLE = 22_855_952  # table 3
SMALL = functools.partial(Xception, blocks=[(8, 6, 'pool'), (6, 6)], last=(7, 9), num_classes=4)


@pytest.mark.parametrize('label', ['xception', 'relu', 'elu'])
def test_parameters_of_table_3(label):
    assert oracles.count_parameters(Xception(**VARIANTS[label]), 299) == TRAINABLE


def test_parameters_with_fully_connected_layers():
    added = (2048 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000 - (2048 + 1) * 1000
    assert oracles.count_parameters(Xception(**VARIANTS['fc']), 299) == TRAINABLE + added


def test_figure_5():
    shapes = oracles.abstract_endpoints(Xception(), 299)
    assert shapes['block4'].shape[1:] == (19, 19, 728)  # "19x19x728 feature maps"
    assert all(shapes[f'block{block}'].shape == shapes['block4'].shape for block in range(5, 13))
    assert shapes['block14'].shape[1:] == (10, 10, 2048)
    assert shapes['global_pool'].shape[1:] == (2048,)  # "2048-dimensional vectors"
    convolutions = [maps for block in Xception().blocks for maps in block if maps != 'pool']
    assert 2 + len(convolutions) + len(xception.LAST) == 36  # section 3
    # Two normalisation statistics per map: what Keras counts beyond the trainable parameters.
    stats = oracles.abstract_variables(Xception(), 299)['batch_stats']
    extra = sum(leaf.size for leaf in jax.tree.leaves(stats))
    assert (extra, TRAINABLE + extra) == (54_528, 22_910_480)


def fill_keras_xception(peer, variables):
    """By the author's layer names; the four shortcuts have none there and come in order."""
    shortcuts = iter([f'block{block}_shortcut{suffix}' for block in (2, 3, 4, 13)
                      for suffix in ('', '_bn')])  # fmt: skip
    filled = []
    for layer in peer.layers:
        if not layer.weights:
            continue
        if 'sepconv' in layer.name and not layer.name.endswith('_bn'):
            params = variables['params'][layer.name]
            depthwise = params['depthwise']['kernel'].swapaxes(2, 3)  # [3, 3, 1, C] -> [3, 3, C, 1]
            with oracles.float64():
                layer.set_weights([depthwise, params['pointwise']['kernel']])
            filled.append(layer.name)
            continue
        own = 'classifier' if layer.name == 'predictions' else layer.name
        path = own if own in variables['params'] else next(shortcuts)
        oracles.fill_keras(layer, variables, path)
        filled.append(path)
    assert sorted(filled) == sorted(variables['params'])


@pytest.mark.slow
@pytest.mark.parametrize('size', [(128, 128), (99, 139)])
def test_logits_are_those_of_keras_applications(size):
    import keras

    model = Xception()
    variables = oracles.random_variables(model, 71)
    peer = oracles.unfilled_keras(keras.applications.Xception, size)
    fill_keras_xception(peer, variables)
    images = oracles.random_images(2, *size, 3)
    ours = oracles.in_float64(model)(variables, images)[0]
    oracles.assert_close(ours, oracles.run_keras(peer, images))


def by_figure_5(variables, images, blocks, last, intermediate, fc_units):
    """Figure 5 line by line in PyTorch in float64, with TensorFlow's "same" padding."""
    import torch
    import torch.nn.functional as F

    def layer(path):
        own: dict = {}
        for tree in variables.values():
            for key in path.split('/'):
                tree = tree.get(key, {})
            own.update(tree)
        return {key: torch.tensor(value).double() for key, value in own.items()}

    def kernel(path):
        return layer(path)['kernel'].permute(3, 2, 0, 1)

    def norm(x, name):
        p = layer(f'{name}_bn')
        return F.batch_norm(x, p['mean'], p['var'], p['scale'], p['bias'], eps=1e-3)

    def separable(x, name):
        x = F.conv2d(x, kernel(f'{name}/depthwise'), padding=1, groups=x.shape[1])
        x = {'none': lambda x: x, 'relu': F.relu, 'elu': F.elu}[intermediate](x)
        return norm(F.conv2d(x, kernel(f'{name}/pointwise')), name)

    def halve(x):
        height, width = x.shape[2:]
        # An even side has its one padded row behind it, an odd one a row on both sides.
        pads = (width % 2, 1, height % 2, 1)
        return F.max_pool2d(F.pad(x, pads, value=-torch.inf), 3, 2)

    x = torch.tensor(images.transpose(0, 3, 1, 2)).double()
    x = F.relu(norm(F.conv2d(x, kernel('block1_conv1'), stride=2), 'block1_conv1'))
    x = F.relu(norm(F.conv2d(x, kernel('block1_conv2')), 'block1_conv2'))
    for block, layers in enumerate(blocks, 2):
        before = x
        if layers[-1] == 'pool':
            name = f'block{block}_shortcut'
            before = norm(F.conv2d(x, kernel(name), stride=2), name)
        for index, maps in enumerate(layers, 1):
            if maps == 'pool':
                x = halve(x)
            else:
                active = x if (block, index) == (2, 1) else F.relu(x)
                x = separable(active, f'block{block}_sepconv{index}')
        x = x + before
    for index in range(1, len(last) + 1):
        x = F.relu(separable(x, f'block{len(blocks) + 2}_sepconv{index}'))
    x = x.mean(dim=(2, 3))
    for index in range(1, len(fc_units) + 1):
        p = layer(f'fc{index}')
        x = F.relu(x @ p['kernel'] + p['bias'])
    p = layer('classifier')
    return (x @ p['kernel'] + p['bias']).numpy()


@pytest.mark.parametrize(
    ('intermediate', 'fc_units', 'size'),
    [
        ('none', (), (31, 31)),
        ('none', (11, 5), (33, 40)),
        ('relu', (), (34, 29)),  # maps of even and odd sides in the pooling
        ('elu', (6,), (32, 35)),
    ],
)
def test_the_options_against_figure_5(intermediate, fc_units, size):
    model = SMALL(intermediate=intermediate, fc_units=fc_units)
    variables = oracles.random_variables(model, size)
    images = oracles.random_images(2, *size, 3)
    ours = oracles.in_float64(model)(variables, images)[0]
    theirs = by_figure_5(variables, images, model.blocks, model.last, intermediate, fc_units)
    oracles.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize('label', ['fc', 'relu', 'elu'])
def test_variants_against_figure_5(label):
    model = Xception(**VARIANTS[label])
    variables = oracles.random_variables(model, 71)
    for size in ((71, 71), (80, 74)):
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        theirs = by_figure_5(
            variables, images, model.blocks, model.last, model.intermediate, model.fc_units
        )
        oracles.assert_close(ours, theirs)


@pytest.mark.parametrize('size', range(1, 12))
@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (3, 1), (2, 2), (5, 3), (1, 2)])
def test_same_padding_is_that_of_lax(size, window, stride):
    assert [xception.same_padding(size, window, stride)] == jax.lax.padtype_to_pads(
        (size,), (window,), (stride,), 'SAME'
    )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_one_step_changes_every_parameter(dtype):
    model = SMALL(intermediate='elu', fc_units=(16,), dtype=dtype)
    loss, changed = oracles.step_changes(model, oracles.random_images(8, 31, 31, 3))
    assert np.isfinite(loss)
    assert min(changed.values()) > 0, changed


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('label', VARIANTS)
def test_one_step_changes_every_parameter_of_every_variant(label, dtype):
    model = Xception(**VARIANTS[label], dtype=dtype)
    loss, changed = oracles.step_changes(model, oracles.random_images(4, 71, 71, 3))
    assert np.isfinite(loss)
    assert min(changed.values()) > 0, changed


def test_at_test_time_an_image_does_not_depend_on_its_batch_nor_on_chance():
    model = SMALL()
    variables = oracles.random_variables(model, 31)
    images = oracles.random_images(4, 31, 31, 3)
    apply = oracles.jit(model.apply)
    together, alone = apply(variables, images)[0], apply(variables, images[1:2])[0]
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-5)

    @oracles.jit
    def train(key):
        outputs, changes = model.apply(
            variables, images, train=True, rngs={'dropout': key},
            mutable=['batch_stats'],
        )  # fmt: skip
        return outputs[0], changes['batch_stats']

    (first, stats), (second, _) = (train(oracles.random_key(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)
    for new, old in zip(
        jax.tree.leaves(stats), jax.tree.leaves(variables['batch_stats']), strict=True
    ):
        assert not np.allclose(new, old)


def test_initialisation_is_glorots():
    model = Xception(blocks=[(64, 128, 'pool')], last=(256,), num_classes=500)
    variables = oracles.jit(model.init)(oracles.random_key(3), jnp.zeros((1, 15, 15, 3)))
    for path, value in jax.tree_util.tree_flatten_with_path(variables['params'])[0]:
        if path[-1].key == 'kernel':
            # Depthwise kernels [3, 3, 1, C]: fan-in 9, fan-out 9 C.
            place = np.prod(value.shape[:-2])
            limit = np.sqrt(6 / (place * (value.shape[-2] + value.shape[-1])))
            assert 0.98 * limit < abs(value).max() <= limit
            assert abs(value.mean()) < 5 * limit / np.sqrt(3 * value.size)
            assert value.std() == pytest.approx(limit / np.sqrt(3), rel=3 / np.sqrt(value.size))
        else:
            np.testing.assert_array_equal(value, float(path[-1].key == 'scale'))


def test_smallest_image():
    assert oracles.abstract_endpoints(Xception(), 7)['block14'].shape[1:3] == (1, 1)
    with pytest.raises(UserError, match='images of 6x64: this network takes 7x7 pixels or more'):
        oracles.abstract_endpoints(Xception(), (6, 64))


def test_unknown_intermediate_activation():
    with pytest.raises(UserError, match="intermediate = 'tanh': choose one of none, relu, elu"):
        oracles.abstract_endpoints(Xception(intermediate='tanh'), 71)


def test_default_normalisation_is_the_authors():
    assert Xception().batch_norm == BatchNormSettings(momentum=0.99, epsilon=1e-3)


@pytest.mark.parametrize('label', VARIANTS)
def test_recipe(label):
    """Sections 4.2 and 4.3: what the paper prints, in the config and in the network it builds."""
    config = configuration.load(f'{configuration.CONFIGS}/xception.py:{label}')
    configuration.validate(config)
    assert models.build(config.model) == Xception(**VARIANTS[label])
    optim, schedule = config.optim, config.schedule
    assert (optim.rule, optim.momentum, optim.learning_rate) == ('momentum', 0.9, 0.045)
    assert (schedule.kind, schedule.factor, schedule.every) == ('exponential', 0.94, 2)
    assert optim.weight_decay == 1e-5
    assert 0 < optim.polyak_decay < 1
    assert (config.model.options.dropout, config.data.augment.size) == (0.5, 299)
