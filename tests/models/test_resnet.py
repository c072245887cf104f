"""ResNet against Keras Applications, torchvision and timm, and against the prints of the papers."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch

from cnn_arch import configuration, summary
from cnn_arch.errors import UserError
from cnn_arch.models import resnet
from cnn_arch.models.layers import BatchNormSettings
from cnn_arch.models.resnet import VARIANTS, ResNet
from cnn_arch.papers import architectures
from cnn_arch.training import schedules
from tests import oracles

SIZES = [(224, 224), (75, 98)]
PARAMETERS = {
    'plain18': 11_515_688,
    'plain34': 21_623_848,
    '18': 11_689_512,
    '34': 21_797_672,
    '50': 25_557_032,
    '101': 44_549_160,
    '152': 60_192_808,
    '18-A': 11_515_688,  # as many as the plain network: section 4.1
    '18-B': 11_689_512,
    '18-C': 12_043_816,
    '34-A': 21_623_848,
    '34-B': 21_797_672,
    '34-C': 22_716_840,
    '50-v1_5': 25_557_032,
    '101-v1_5': 44_549_160,
    '152-v1_5': 60_192_808,
    '50-v2': 25_549_352,
    '101-v2': 44_541_480,
    '152-v2': 60_185_128,
    '200-v2': 64_666_152,
    '50-v2-keras': 25_568_360,
    '101-v2-keras': 44_577_896,
    '152-v2-keras': 60_236_904,
}


IMAGENET = [label for label in VARIANTS if not label.startswith('cifar')]


def build(label, **fields):
    return ResNet(**{**VARIANTS[label], **fields})


def slow_but(labels, fast):
    """All of `labels` as parameters of a test; those not in `fast` are slow."""
    return [
        label if label in fast else pytest.param(label, marks=pytest.mark.slow) for label in labels
    ]


def compare(model, run_peer, variables, size):
    images = oracles.random_images(2, *size, 3)
    oracles.assert_close(oracles.in_float64(model)(variables, images)[0], run_peer(images))


# The papers' tables.


def test_every_variant_is_counted():
    assert PARAMETERS.keys() == set(IMAGENET)


@pytest.mark.parametrize('label', IMAGENET)
def test_parameters(label):
    assert oracles.count_parameters(build(label)) == PARAMETERS[label]


def test_pre_activation_moves_the_normalisations():
    """The counts of v2 from those of v1: what figure 1(b) and the appendix of 2016b change."""
    for depth in (50, 101, 152):
        blocks = resnet.TABLE_1[depth]['blocks']
        after = sum(
            2 * count * 4 * width for count, width in zip(blocks, resnet.WIDTHS, strict=True)
        )
        projections = 2 * 4 * sum(resnet.WIDTHS)
        inputs = [
            4 * w for count, w in zip(blocks, resnet.WIDTHS, strict=True) for _ in range(count)
        ]
        before = sum(2 * maps for maps in inputs[:-1])  # each block but the first reads its input
        last = 2 * 2048
        change = before + last - after - projections
        assert PARAMETERS[f'{depth}-v2'] - PARAMETERS[f'{depth}'] == change


@pytest.mark.parametrize(
    ('label', 'printed'),
    [('18-A', '1.8 G'), ('34-A', '3.6 G'), ('50', '3.86 G'), ('101', '7.6 G'), ('152', '11.3 G')],
)
def test_multiply_adds_of_table_1(label, printed):
    """Rounded as printed, but for 50: 3.858 x 10^9, where table 1 has 3.8 (SENet's has 3.86).

    18 and 34 agree with the print under option A, which table 2 uses (34-B has 3.664).
    """
    found = summary.summarise(label, configuration.load(f'configs/resnet.py:{label}'))
    assert architectures.agrees(found.multiply_adds, printed), found.multiply_adds
    assert found.depth == int(label.split('-')[0])


@pytest.mark.parametrize(
    ('label', 'published'), [('50-v1_5', 4.089), ('101-v1_5', 7.801), ('152-v1_5', 11.514)]
)
def test_multiply_adds_of_v1_5_are_those_that_torchvision_publishes(label, published):
    """The stride in the 3x3 costs 0.23 x 10^9 more than the paper's, in the first 1x1."""
    found = summary.summarise(label, configuration.load(f'configs/resnet.py:{label}'))
    assert round(found.multiply_adds / 1e9, 3) == published


@pytest.mark.parametrize(
    ('label', 'depth'), [('plain34', 34), ('50-v2-keras', 50), ('200-v2', 200)]
)
def test_depth(label, depth):
    found = summary.summarise(label, configuration.load(f'configs/resnet.py:{label}'))
    assert found.depth == depth


@pytest.mark.parametrize('label', ['18', '34-A', '50', '50-v1_5', '101-v2'])
def test_map_sizes_of_table_1(label):
    shapes = oracles.abstract_endpoints(build(label))
    last = {}
    for name, value in shapes.items():
        last[name.split('_')[0]] = value.shape[1:]
    wide = 4 if VARIANTS[label]['bottleneck'] else 1
    assert last == {
        'conv1': (112, 112, 64),
        'pool1': (56, 56, 64),
        'conv2': (56, 56, 64 * wide),
        'conv3': (28, 28, 128 * wide),
        'conv4': (14, 14, 256 * wide),
        'conv5': (7, 7, 512 * wide),
        'pool5': (512 * wide,),
        'logits': (1000,),
    }


# Independent implementations with the same random weights.


def torch_blocks(peer, stages):
    """(peer's block, our path) of a network whose stages are lists of blocks."""
    for stage, blocks in enumerate(stages, 2):
        for index, block in enumerate(blocks, 1):
            yield block, f'conv{stage}_{index}'


def fill_torchvision(peer, variables):
    fill = functools.partial(oracles.fill_torch, variables=variables)
    fill(peer.conv1, path='conv1')
    fill(peer.bn1, path='bn1')
    fill(peer.fc, path='fc')
    stages = (peer.layer1, peer.layer2, peer.layer3, peer.layer4)
    for block, path in torch_blocks(peer, stages):
        for name in ('conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3'):
            if hasattr(block, name):
                fill(getattr(block, name), path=f'{path}/{name}')
        if isinstance(block.downsample, torch.nn.Sequential):
            fill(block.downsample[0], path=f'{path}/projection')
            fill(block.downsample[1], path=f'{path}/projection_bn')


class NoShortcut(torch.nn.Module):
    """Adds nothing: a plain network."""

    def forward(self, x):
        return torch.zeros(())


class ZeroPaddedShortcut(torch.nn.Module):
    """Option A: every second row and column, and as many maps of zeros as there were maps."""

    def forward(self, x):
        return torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x)[:, :, ::2, ::2]], dim=1)


def torchvision_network(label):
    """torchvision's network (option B, stride in the 3x3), turned into the one of our label."""
    models = oracles.torchvision().models
    depth = label.removeprefix('plain').split('-')[0]
    peer = getattr(models, f'resnet{depth}')(weights=None)
    for block in [
        b for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4) for b in layer
    ]:
        maps = block.bn1.num_features
        if label.startswith('plain'):
            block.downsample = NoShortcut()
        elif label.endswith('-A') and block.downsample is not None:
            block.downsample = ZeroPaddedShortcut()
        elif label.endswith('-C') and block.downsample is None:
            conv = torch.nn.Conv2d(maps, maps, 1, bias=False)
            block.downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(maps))
        elif 'v1_5' not in label and hasattr(block, 'conv3'):  # the paper's stride
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return peer


@pytest.mark.parametrize(
    'label',
    slow_but(
        [label for label in IMAGENET if 'v2' not in label],
        fast=('plain18', '18', '18-A', '50-v1_5'),
    ),
)
def test_logits_equal_torchvisions(label):
    model = build(label)
    variables = oracles.random_variables(model)
    peer = oracles.unfilled_torch(functools.partial(torchvision_network, label))
    fill_torchvision(peer, variables)
    for size in SIZES:
        compare(model, functools.partial(oracles.run_torch, peer), variables, size)


def test_logits_with_caffes_pooling():
    model = build('18', ceil_mode_pool=True)
    variables = oracles.random_variables(model)
    peer = oracles.unfilled_torch(functools.partial(torchvision_network, '18'))
    fill_torchvision(peer, variables)
    peer.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    for size in ((75, 98), (64, 61)):
        compare(model, functools.partial(oracles.run_torch, peer), variables, size)


@pytest.mark.parametrize('label', slow_but(['50-v2', '101-v2', '152-v2', '200-v2'], fast=['50-v2']))
def test_logits_equal_timms_pre_activation_networks(label):
    """timm leaves the first activation to the first block; here it goes where 2016b has it."""
    model = build(label)
    variables = oracles.random_variables(model)
    timm = oracles.timm()
    resnetv2 = timm.models.resnetv2
    layers = timm.layers

    def assemble():
        peer = resnetv2.ResNetV2(
            list(model.blocks), conv_layer=layers.create_conv2d, norm_layer=layers.BatchNormAct2d
        )
        activation = layers.BatchNormAct2d(64)
        peer.stem = torch.nn.Sequential(peer.stem.conv, activation, peer.stem.pool)
        peer.stages[0].blocks[0].norm1 = torch.nn.Identity()
        return peer

    peer = oracles.unfilled_torch(assemble)

    fill = functools.partial(oracles.fill_torch, variables=variables)
    fill(peer.stem[0], path='conv1')
    fill(peer.stem[1], path='bn1')
    fill(peer.norm, path='bn5')
    fill(peer.head.fc, path='fc')
    for block, path in torch_blocks(peer, [stage.blocks for stage in peer.stages]):
        for place in (1, 2, 3):
            fill(getattr(block, f'conv{place}'), path=f'{path}/conv{place}')
            norm = getattr(block, f'norm{place}')
            if not isinstance(norm, torch.nn.Identity):
                fill(norm, path=f'{path}/bn{place}')
        if block.downsample is not None:
            fill(block.downsample.conv, path=f'{path}/projection')
    for size in SIZES:
        compare(model, functools.partial(oracles.run_torch, peer), variables, size)


def with_biases(variables):
    """Variables for Keras' v1, whose convolutions have biases; the running means balance them.

    In float64, as float32 would round the sums.
    """
    rng = np.random.default_rng(7)

    def shifted(params, stats):
        params, stats = dict(params), dict(stats)
        for name in list(params):
            partner = 'projection_bn' if name == 'projection' else name.replace('conv', 'bn')
            if 'kernel' in params[name] and partner in stats:
                bias = rng.normal(size=params[name]['kernel'].shape[-1])
                params[name] = {**params[name], 'bias': bias}
                stats[partner] = {**stats[partner], 'mean': stats[partner]['mean'] + bias}
            elif 'kernel' not in params[name] and name in stats and 'mean' not in stats[name]:
                params[name], stats[name] = shifted(params[name], stats[name])
        return params, stats

    params, stats = shifted(variables['params'], variables['batch_stats'])
    return {'params': params, 'batch_stats': stats}


@pytest.mark.parametrize('label', slow_but(['50', '101', '152'], fast=['50']))
def test_logits_equal_keras(label):
    model = build(label, batch_norm=BatchNormSettings(epsilon=1.001e-5))
    variables = oracles.random_variables(model)
    fill = functools.partial(oracles.fill_keras, variables=with_biases(variables))
    for size in SIZES:
        peer = oracles.unfilled_keras(getattr(keras.applications, f'ResNet{label}'), size)
        fill(peer.get_layer('conv1_conv'), path='conv1')
        fill(peer.get_layer('conv1_bn'), path='bn1')
        fill(peer.get_layer('predictions'), path='fc')
        for path in (
            path for path in variables['params'] if path.startswith('conv') and '_' in path
        ):
            block = path.replace('_', '_block')
            for place, name in ((0, 'projection'), (1, 'conv1'), (2, 'conv2'), (3, 'conv3')):
                if name in variables['params'][path]:
                    norm = 'projection_bn' if place == 0 else f'bn{place}'
                    fill(peer.get_layer(f'{block}_{place}_conv'), path=f'{path}/{name}')
                    fill(peer.get_layer(f'{block}_{place}_bn'), path=f'{path}/{norm}')
        compare(model, functools.partial(oracles.run_keras, peer), variables, size)


@pytest.mark.parametrize(
    'label', slow_but(['50-v2-keras', '101-v2-keras', '152-v2-keras'], fast=['50-v2-keras'])
)
def test_logits_equal_keras_pre_activation_networks(label):
    model = build(label, batch_norm=BatchNormSettings(epsilon=1.001e-5))
    variables = oracles.random_variables(model)
    fill = functools.partial(oracles.fill_keras, variables=variables)
    for size in SIZES:
        name = f'ResNet{label.split("-")[0]}V2'
        peer = oracles.unfilled_keras(getattr(keras.applications, name), size)
        trained = sum(int(np.prod(weight.shape)) for weight in peer.trainable_weights)
        assert trained == PARAMETERS[label]
        fill(peer.get_layer('conv1_conv'), path='conv1')
        fill(peer.get_layer('post_bn'), path='bn5')
        fill(peer.get_layer('predictions'), path='fc')
        for path in (
            path for path in variables['params'] if path.startswith('conv') and '_' in path
        ):
            block = path.replace('_', '_block')
            fill(peer.get_layer(f'{block}_preact_bn'), path=f'{path}/bn1')
            for place in (1, 2, 3):
                fill(peer.get_layer(f'{block}_{place}_conv'), path=f'{path}/conv{place}')
            for place in (1, 2):
                fill(peer.get_layer(f'{block}_{place}_bn'), path=f'{path}/bn{place + 1}')
            if 'projection' in variables['params'][path]:
                fill(peer.get_layer(f'{block}_0_conv'), path=f'{path}/projection')
        compare(model, functools.partial(oracles.run_keras, peer), variables, size)


# Training.


def check_step(label, dtype, own_start=True, **fields):
    """From the model's own initialisation, or from oracles' random values (quicker to make)."""
    model = build(label, dtype=dtype, batch_norm=BatchNormSettings(group_size=4), **fields)
    variables = None if own_start else oracles.random_variables(model)
    images = oracles.random_images(4, 48, 48, 3)  # conv5's maps are 2x2: every weight is read
    loss, changed = oracles.step_changes(model, images, variables=variables)
    assert np.isfinite(loss)
    if model.preactivation == 'keras':
        # Batch normalisation takes these biases away again: rounding errors are their gradient.
        changed = {k: v for k, v in changed.items() if not k.endswith(('conv1/bias', 'conv3/bias'))}
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_step_changes_every_parameter(dtype):
    check_step('18', dtype, own_start=False, blocks=(1, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('label', IMAGENET)
def test_a_step_changes_every_parameter_of_every_variant(label, dtype):
    check_step(label, dtype)


@pytest.mark.parametrize('label', slow_but(['18', '50-v2'], fast=['18']))
def test_batch_statistics_are_off_at_test_time(label):
    model = build(label, blocks=(1, 1, 1, 1))
    variables, images = oracles.random_variables(model), oracles.random_images(4, 64, 64, 3)
    apply = oracles.jit(model.apply, static_argnames=('train', 'mutable'))
    (together, _), updated = apply(variables, images, train=False, mutable=('batch_stats',))
    jax.tree.map(np.testing.assert_array_equal, updated['batch_stats'], variables['batch_stats'])
    alone, _ = apply(variables, images[:1])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-4)
    (trained, _), updated = apply(variables, images, train=True, mutable=('batch_stats',))
    assert np.abs(trained - together).max() > 0.1
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), updated['batch_stats'], variables['batch_stats']
    )
    assert all(jax.tree.leaves(changed))


def check_he_normal(params):
    """Kernels are normal with variance 2 / fan-in, biases 0, scales 1."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, values = path[-1].key, np.asarray(leaf)
        if name != 'kernel':
            np.testing.assert_array_equal(values, 1.0 if name == 'scale' else 0.0)
            continue
        std = np.sqrt(2 / np.prod(values.shape[:-1]))
        noise = 5 / np.sqrt(values.size)
        assert abs(values.mean()) < noise * std, path
        assert abs(values.std() / std - 1) < noise, path
        # A truncated normal has nothing beyond two of its standard deviations; a normal has 4.55 %.
        assert abs((np.abs(values) > 2 * std).mean() - 0.0455) < noise, path


@pytest.mark.parametrize('label', slow_but(['50', '18-C', '50-v2'], fast=['50']))
def test_initialisation_is_he_normal(label):
    init = oracles.jit(build(label, blocks=(1, 1, 1, 1)).init)
    check_he_normal(init(oracles.random_key(0), np.zeros((1, 32, 32, 3), np.float32))['params'])


def test_zero_initialised_last_scales_make_blocks_their_shortcuts():
    model = build('18', blocks=(1, 2, 1, 1), zero_init_last=True)
    images = oracles.random_images(2, 32, 32, 3)
    (_, endpoints), variables = oracles.jit(model.init_with_output)(oracles.random_key(0), images)
    for name in ('conv2_1', 'conv3_1', 'conv3_2', 'conv4_1', 'conv5_1'):
        block = variables['params'][name]
        assert not block['bn2']['scale'].any()
        np.testing.assert_array_equal(block['bn1']['scale'], 1.0)
    np.testing.assert_array_equal(endpoints['conv2_1'], endpoints['pool1'])
    np.testing.assert_array_equal(endpoints['conv3_2'], endpoints['conv3_1'])


@pytest.mark.parametrize('label', ['plain18', '50-v2'])
def test_networks_without_a_last_scale_refuse_to_zero_it(label):
    with pytest.raises(UserError, match='zero_init_last'):
        oracles.count_parameters(build(label, zero_init_last=True))


# Sizes.


def test_the_smallest_images():
    """One pixel is enough for all paddings; torchvision agrees."""
    model = build('18', blocks=(1, 1, 1, 1))
    variables = oracles.random_variables(model)
    resnet = oracles.torchvision().models.resnet
    peer = oracles.unfilled_torch(lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]))
    fill_torchvision(peer, variables)
    for size in ((1, 1), (2, 7)):
        compare(model, functools.partial(oracles.run_torch, peer), variables, size)


@pytest.mark.parametrize(('fields', 'smallest'), [({}, 1), ({'ceil_mode_pool': True}, 5)])
def test_images_that_are_too_small(fields, smallest):
    model = build('18', **fields)
    shapes = oracles.abstract_endpoints(model, (smallest, smallest + 3))
    assert shapes['logits'].shape == (1, 1000)
    with pytest.raises(UserError, match=rf'takes {smallest}x{smallest} pixels or more'):
        oracles.abstract_endpoints(model, (smallest + 3, smallest - 1))


def test_bfloat16_computes_near_float32_and_keeps_float32_logits():
    model = build('18', blocks=(1, 1, 1, 1))
    variables, images = oracles.random_variables(model), oracles.random_images(2, 64, 64, 3)
    exact, _ = oracles.jit(model.apply)(variables, images)
    rounded, endpoints = oracles.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert rounded.dtype == jnp.float32
    assert {value.dtype for value in endpoints.values()} == {jnp.dtype(jnp.bfloat16)}
    oracles.assert_close(rounded, exact, relative=0.05)


# Recipes.


@pytest.mark.parametrize('label', IMAGENET)
def test_the_recipe_is_the_papers(label):
    config = configuration.load(f'configs/resnet.py:{label}')
    configuration.validate(config)
    rate = schedules.learning_rate(config, steps_per_epoch=10)
    if 'v' in label:  # 2016b and torchvision: a tenth at epochs 30 and 60 of 90
        rates, expected = [rate(epoch * 10) for epoch in (0, 29, 30, 60, 89)], [0, 0, 1, 2, 2]
        assert config.train.epochs == 90
    else:  # section 3.4: a tenth where the error plateaus, at most 60 x 10^4 iterations
        states = [
            schedules.initial_feedback()._replace(drops=jnp.asarray(drops)) for drops in (0, 1, 2)
        ]
        rates, expected = [rate(0, state) for state in states], [0, 1, 2]
        assert round(config.train.epochs * 1_281_167 / 256, -4) == 600_000
    np.testing.assert_allclose(np.asarray(rates), 0.1 ** (1 + np.asarray(expected)), rtol=1e-6)
