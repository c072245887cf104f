"""DenseNet against Keras Applications, torchvision and a plain reading of the paper in PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, models, summary
from cnn_arch.errors import UserError
from cnn_arch.models import densenet
from cnn_arch.models.densenet import VARIANTS, DenseNet
from cnn_arch.models.layers import BatchNormSettings
from cnn_arch.papers import architectures
from tests import oracles

IMAGENET = {
    '121': 7_978_856,
    '169': 14_149_480,
    '201': 20_013_928,
    '264': 33_337_704,
    '161': 28_681_000,
}
CIFAR = [label for label in VARIANTS if label not in IMAGENET]
# One small network of each kind: with the stem and BC, and for CIFAR without.
SMALL = {
    'BC': {'blocks': [1, 1], 'growth_rate': 8},
    'plain': {**VARIANTS['plain-L40-k12'], 'blocks': [2, 1]},
}


def imagenet(label, **fields):
    return DenseNet(**VARIANTS[label], **fields)


@pytest.mark.parametrize(('label', 'count'), IMAGENET.items())
def test_parameters_and_depth_of_table_1(label, count):
    assert oracles.count_parameters(imagenet(label)) == count
    # The first convolution, two for each layer, the transitions, the classifier. The paper's
    # DenseNet-264 has 265 by this count, which is right for all others.
    depth = 1 + 2 * sum(densenet.TABLE_1[label]) + 3 + 1
    assert depth == (265 if label == '264' else int(label))


@pytest.mark.parametrize(
    ('label', 'connections'), [('121', 2.834), ('169', 3.360), ('201', 4.291), ('161', 7.728)]
)
def test_multiply_adds_are_those_that_torchvision_publishes(label, connections):
    found = summary.summarise(label, configuration.load(f'configs/densenet.py:{label}'))
    assert round(found.multiply_adds / 1e9, 3) == connections


@pytest.mark.parametrize('label', CIFAR)
def test_parameters_of_table_2(label):
    printed = architectures.PRINTED[f'densenet:{label}'].parameters
    count = oracles.count_parameters(DenseNet(**VARIANTS[label], num_classes=10), 32)
    assert architectures.agrees(count, printed), count


def test_map_sizes_of_table_1():
    shapes = oracles.abstract_endpoints(imagenet('121'))
    assert {name: value.shape[1:] for name, value in shapes.items()} == {
        'pool1': (56, 56, 64),
        'block1': (56, 56, 256),
        'transition1': (28, 28, 128),
        'block2': (28, 28, 512),
        'transition2': (14, 14, 256),
        'block3': (14, 14, 1024),
        'transition3': (7, 7, 512),
        'block4': (7, 7, 1024),
        'features': (7, 7, 1024),
        'global_pool': (1024,),
        'logits': (1000,),
    }


def fill_in_order(layers, variables, blocks, fill):
    """Our layers in the order of the computation, into the other network's layers."""
    paths = ['conv1', 'conv1_bn']
    for block, count in enumerate(blocks, 1):
        for layer in range(1, count + 1):
            paths += [f'block{block}_layer{layer}/{x}' for x in ('bn1', 'conv1', 'bn2', 'conv2')]
        if block < len(blocks):
            paths += [f'transition{block}_bn', f'transition{block}_conv']
    paths += ['bn', 'classifier']
    assert len(layers) == len(paths)
    for layer, path in zip(layers, paths, strict=True):
        fill(layer, variables, path)


def assert_logits_of_keras(blocks, model, build, sizes):
    variables = oracles.random_variables(model, 32)
    for size in sizes:
        peer = oracles.unfilled_keras(build, size)
        layers = [layer for layer in peer.layers if layer.weights]
        fill_in_order(layers, variables, blocks, oracles.fill_keras)
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        oracles.assert_close(ours, oracles.run_keras(peer, images))


KERAS = BatchNormSettings(epsilon=1.001e-5)


@pytest.mark.slow
@pytest.mark.parametrize('label', ['121', '169', '201'])
def test_logits_are_those_of_keras_applications(label):
    import keras

    build = getattr(keras.applications, f'DenseNet{label}')
    model = imagenet(label, batch_norm=KERAS)
    sizes = [(224, 224), (75, 51)] if label == '121' else [(96, 96), (75, 51)]
    assert_logits_of_keras(densenet.TABLE_1[label], model, build, sizes)


def test_logits_of_few_layers_are_those_of_keras_applications():
    from keras.src.applications.densenet import DenseNet as KerasDenseNet

    blocks = [1, 2, 1, 1]
    model = DenseNet(blocks, growth_rate=32, num_classes=1000, batch_norm=KERAS)
    build = functools.partial(KerasDenseNet, blocks)
    assert_logits_of_keras(blocks, model, build, [(75, 51)])


@pytest.mark.slow
@pytest.mark.parametrize('label', ['161', '264'])
def test_logits_are_those_of_torchvision(label):
    fields = VARIANTS[label]
    k, blocks = fields['growth_rate'], fields['blocks']
    peer = oracles.unfilled_torch(lambda: oracles.torchvision().models.DenseNet(k, blocks, 2 * k))
    layers = [
        module
        for module in peer.modules()
        if type(module).__name__ in ('Conv2d', 'BatchNorm2d', 'Linear')
    ]
    model = imagenet(label)
    variables = oracles.random_variables(model, 64)
    fill_in_order(layers, variables, blocks, oracles.fill_torch)
    for size in ((64, 64), (75, 51)):
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        oracles.assert_close(ours, oracles.run_torch(peer, images))


def by_the_paper(variables, images, blocks, bottleneck, stem):
    """Sections 3 and 4 line by line in PyTorch, from our variables, in float64."""
    import torch
    import torch.nn.functional as F

    def layer(path):
        own: dict = {}
        for tree in variables.values():
            for key in path.split('/'):
                tree = tree.get(key, {})
            own.update(tree)
        return {key: torch.tensor(value).double() for key, value in own.items()}

    def bn_relu_conv(x, bn, conv, padding=0):
        p = layer(bn)
        x = F.relu(F.batch_norm(x, p['mean'], p['var'], p['scale'], p['bias'], eps=1e-5))
        return F.conv2d(x, layer(conv)['kernel'].permute(3, 2, 0, 1), padding=padding)

    x = torch.tensor(images.transpose(0, 3, 1, 2)).double()
    first = layer('conv1')['kernel'].permute(3, 2, 0, 1)
    if stem:
        p = layer('conv1_bn')
        x = F.conv2d(x, first, stride=2, padding=3)
        x = F.relu(F.batch_norm(x, p['mean'], p['var'], p['scale'], p['bias'], eps=1e-5))
        x = F.max_pool2d(x, 3, 2, padding=1)
    else:
        x = F.conv2d(x, first, padding=1)
    for block, count in enumerate(blocks, 1):
        maps = [x]
        for index in range(1, count + 1):
            at = f'block{block}_layer{index}'
            new = torch.cat(maps, dim=1)
            if bottleneck:
                new = bn_relu_conv(new, f'{at}/bn1', f'{at}/conv1')
                new = bn_relu_conv(new, f'{at}/bn2', f'{at}/conv2', padding=1)
            else:
                new = bn_relu_conv(new, f'{at}/bn1', f'{at}/conv1', padding=1)
            maps.append(new)
        x = torch.cat(maps, dim=1)
        if block < len(blocks):
            x = bn_relu_conv(x, f'transition{block}_bn', f'transition{block}_conv')
            x = F.avg_pool2d(x, 2)
    p = layer('bn')
    x = F.relu(F.batch_norm(x, p['mean'], p['var'], p['scale'], p['bias'], eps=1e-5))
    p = layer('classifier')
    return (x.mean(dim=(2, 3)) @ p['kernel'] + p['bias']).numpy()


@pytest.mark.parametrize('bottleneck', [True, False])
@pytest.mark.parametrize('compression', [1.0, 0.5])
def test_with_and_without_b_and_c(bottleneck, compression):
    blocks = [2, 1]
    for stem, size in ((True, (33, 38)), (False, (8, 11))):
        model = DenseNet(
            blocks, 5, bottleneck, compression, None if stem else 16, stem, num_classes=7
        )
        variables = oracles.random_variables(model, 32)
        kept = variables['params']['transition1_conv']['kernel'].shape
        assert kept[3] == int(kept[2] * compression)
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        oracles.assert_close(ours, by_the_paper(variables, images, blocks, bottleneck, stem))


@pytest.mark.slow
@pytest.mark.parametrize('label', CIFAR)
def test_logits_of_the_networks_of_table_2(label):
    model = DenseNet(**VARIANTS[label], num_classes=10)
    variables = oracles.random_variables(model, 32)
    for size in ((32, 32), (17, 22)):
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        theirs = by_the_paper(variables, images, model.blocks, model.bottleneck, stem=False)
        oracles.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(('bottleneck', 'compression'), [(False, 1.0), (False, 0.5), (True, 1.0)])
def test_121_without_b_and_c(bottleneck, compression):
    model = imagenet('121', bottleneck=bottleneck, compression=compression)
    variables = oracles.random_variables(model, 64)
    for size in ((64, 64), (75, 51)):
        images = oracles.random_images(2, *size, 3)
        ours = oracles.in_float64(model)(variables, images)[0]
        theirs = by_the_paper(variables, images, model.blocks, bottleneck, stem=True)
        oracles.assert_close(ours, theirs)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('kind', SMALL)
def test_one_step_changes_every_parameter(kind, dtype):
    model = DenseNet(**SMALL[kind], num_classes=4, dropout=0.2, dtype=dtype)
    loss, changed = oracles.step_changes(model, oracles.random_images(4, 16, 16, 3))
    assert np.isfinite(loss)
    assert min(changed.values()) > 0, changed


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('label', VARIANTS)
def test_one_step_changes_every_parameter_of_every_variant(label, dtype):
    size = 48 if label in IMAGENET else 8  # the last maps are 2x2: every weight is read
    model = DenseNet(**VARIANTS[label], num_classes=10, dtype=dtype)
    variables = None if label == '121' else oracles.random_variables(model, size)
    images = oracles.random_images(4, size, size, 3)
    loss, changed = oracles.step_changes(model, images, variables=variables)
    assert np.isfinite(loss)
    assert min(changed.values()) > 0, changed


def test_at_test_time_an_image_does_not_depend_on_its_batch_nor_on_chance():
    model = DenseNet([1, 1], 8, num_classes=4, dropout=0.5)
    variables = oracles.random_variables(model, 32)
    images = oracles.random_images(4, 32, 32, 3)
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


@pytest.mark.parametrize('fan', ['fan_out', 'fan_in'])
def test_initialisation_is_that_of_the_authors_code(fan):
    """Convolutions normal with variance 2 / n, n = kW * kH * nOutputPlane (or nInputPlane); the
    classifier as Torch's nn.Linear, even within 1 / sqrt(inputs), its biases zero."""
    model = DenseNet([1, 1], 32, num_classes=500, initialisation=fan)
    images = jnp.zeros((1, 32, 32, 3))
    variables = oracles.jit(model.init)(oracles.random_key(3), images)
    flat = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
    for path, value in flat:
        name = path[-1].key
        if name == 'kernel':
            inputs = np.prod(value.shape[:-1])
            if path[0].key == 'classifier':
                expected = np.sqrt(1 / (3 * inputs))
                assert np.abs(value).max() == pytest.approx(1 / np.sqrt(inputs), rel=1e-3)
                assert np.abs(value).max() <= 1 / np.sqrt(inputs)
            else:
                outputs = np.prod(value.shape[:2]) * value.shape[-1]
                expected = np.sqrt(2 / (inputs if fan == 'fan_in' else outputs))
                assert inputs != outputs
                # Normal, not even nor cut off: the fourth moment is three.
                fourth = np.mean((value / value.std()) ** 4)
                assert abs(fourth - 3) < 5 * np.sqrt(96 / value.size)
            error = 1 / np.sqrt(value.size)  # standard error of the mean, in units of the spread
            assert abs(value.mean()) < 5 * error * expected
            assert value.std() == pytest.approx(expected, rel=4 * error)
        else:
            assert name in ('scale', 'bias')
            np.testing.assert_array_equal(value, float(name == 'scale'))


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(UserError, match="initialisation = 'xavier': choose one of fan_out, fan_in"):
        oracles.abstract_variables(imagenet('121', initialisation='xavier'))


@pytest.mark.parametrize(('kind', 'smallest'), [('BC', 5), ('plain', 2)])
def test_smallest_image(kind, smallest):
    model = DenseNet(**SMALL[kind], num_classes=3)
    assert oracles.abstract_endpoints(model, smallest)['features'].shape[1:3] == (1, 1)
    assert oracles.abstract_endpoints(imagenet('121'), 29)['features'].shape[1:3] == (1, 1)
    with pytest.raises(UserError, match=f'takes {smallest}x{smallest} pixels'):
        oracles.abstract_endpoints(model, (smallest - 1, 64))
    with pytest.raises(UserError, match='images of 28x64: this network takes 29x29 pixels or more'):
        oracles.abstract_endpoints(imagenet('121'), (28, 64))


@pytest.mark.parametrize('label', VARIANTS)
def test_recipe(label):
    """Section 4.2: what the paper prints, in the config and in the network it builds."""
    config = configuration.load(f'{configuration.CONFIGS}/densenet.py:{label}')
    configuration.validate(config)
    optim, schedule = config.optim, config.schedule
    assert optim.decay_all  # Torch's optim.sgd makes no exceptions
    assert (optim.rule, optim.momentum, optim.weight_decay) == ('nesterov', 0.9, 1e-4)
    assert (optim.learning_rate, schedule.kind, schedule.factor) == (0.1, 'steps', 0.1)
    train = config.train
    if label in densenet.TABLE_1:
        assert models.build(config.model) == imagenet(label)
        if label == '161':  # to fit its GPUs' memory, and what makes up for it
            assert (train.batch_size, train.epochs) == (128, 100)
            assert schedule.boundaries == (30, 60, 90)
        else:
            assert (train.batch_size, train.epochs) == (256, 90)
            assert schedule.boundaries == (30, 60)
        augment = config.data.augment  # fb.resnet.torch, datasets/imagenet.lua
        assert (augment.crop, augment.area_min, augment.area_max) == ('random_sized', 0.08, 1.0)
        assert (augment.aspect_min, augment.aspect_max) == (3 / 4, 4 / 3)
        assert (augment.colour_jitter, augment.pca_colour, augment.photometric) == (0.4, 0.1, False)
        assert augment.interpolation == config.eval.interpolation == 'bicubic'
        assert config.eval.scale == 256
        np.testing.assert_allclose(config.data.mean, 255 * np.array((0.485, 0.456, 0.406)))
        np.testing.assert_allclose(config.data.std, 255 * np.array((0.229, 0.224, 0.225)))
    else:  # 0.2 without augmentation, as here
        settings = BatchNormSettings(group_size=64)
        fields = {'num_classes': 10, 'dropout': 0.2, 'batch_norm': settings}
        assert models.build(config.model) == DenseNet(**VARIANTS[label], **fields)
        assert (train.batch_size, train.epochs) == (64, 300)
        assert schedule.boundaries == (0.5 * train.epochs, 0.75 * train.epochs)
        assert (config.data.augment.crop, config.data.augment.mirror) == ('none', False)
    with config.unlocked():
        config.model.options.bottleneck = False
        config.model.options.compression = 1.0
    without = models.build(config.model)
    assert (without.bottleneck, without.compression) == (False, 1.0)
