"""AlexNet against the paper's figures, PyTorch assembled from its own layers, and torchvision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cnn_arch import configuration, mesh, models, summary
from cnn_arch.deconvnet.network import Network, check_method
from cnn_arch.errors import UserError
from cnn_arch.evaluation import dense
from cnn_arch.models.alexnet import VARIANTS, AlexNet
from tests import oracles

CONVOLUTIONS = [f'conv{index}' for index in range(1, 6)]
WHOLE = ('two_tower', 'one_tower')
# Of two_tower: the convolutions 34,944 + 307,456 + 885,120 + 663,936 + 442,624. Without 3 and 4,
# conv5 reads conv2's 256 maps in two groups: 9 * 128 * 256 + 256 = 295,168. Without 7, fc8 reads
# fc6; without 6 and 7 it reads the 9,216 numbers of pool5.
FULLY_CONNECTED = 37_752_832 + 16_781_312 + 4_097_000
PARAMETERS = {
    'two_tower': 60_965_224,
    'one_tower': 61_100_840,
    'without_lrn': 60_965_224,
    'without_overlap': 60_965_224,
    'one_gpu': 17_472 + 153_728 + 221_376 + 331_968 + 442_624 + FULLY_CONNECTED,
    'tanh': 60_965_224,
    'without_3_4': 34_944 + 307_456 + 295_168 + FULLY_CONNECTED,
    'without_7': 60_965_224 - 16_781_312,
    'without_6_7': 34_944 + 307_456 + 885_120 + 663_936 + 442_624 + 9_217_000,
    'without_3_4_6_7': 34_944 + 307_456 + 295_168 + 9_217_000,
}


def build(variant, **options):
    return AlexNet(**VARIANTS[variant], **options)


def images(batch, height=224, width=224):
    # Grey levels minus the mean are of this size; at 1 the response normalisation would not show.
    return 60 * oracles.random_images(batch, height, width, 3)


@functools.cache
def weights(variant):
    """Random variables, drawn once: 61 million numbers."""
    return oracles.random_variables(build(variant))


def two_tower_in_torch(variables, order, padding):
    """Section 3.5 by hand; `padding` at the bottom and at the right of the image."""
    norm = functools.partial(torch.nn.LocalResponseNorm, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    pool = functools.partial(torch.nn.MaxPool2d, 3, 2)
    first, second = (norm, pool) if order == 'relu-lrn-pool' else (pool, norm)
    relu = torch.nn.ReLU()
    peer = oracles.unfilled_torch(
        lambda: torch.nn.Sequential(
            torch.nn.ZeroPad2d((0, padding, 0, padding)),
            *(torch.nn.Conv2d(3, 96, 11, 4), relu, first(), second()),
            *(torch.nn.Conv2d(96, 256, 5, padding=2, groups=2), relu, first(), second()),
            *(torch.nn.Conv2d(256, 384, 3, padding=1), relu),
            *(torch.nn.Conv2d(384, 384, 3, padding=1, groups=2), relu),
            *(torch.nn.Conv2d(384, 256, 3, padding=1, groups=2), relu, pool()),
            *(torch.nn.Flatten(), torch.nn.Linear(9216, 4096), relu),
            *(torch.nn.Linear(4096, 4096), relu),
            torch.nn.Linear(4096, 1000),
        )
    )
    layers = [layer for layer in peer if hasattr(layer, 'weight')]
    for name, layer in zip((*CONVOLUTIONS, 'fc6', 'fc7', 'fc8'), layers, strict=True):
        oracles.fill_torch(layer, variables, name, (6, 6) if name == 'fc6' else None)
    return peer


# Section 3 and Zeiler & Fergus' table 2 by hand. Of each convolution: inputs, maps, kernel, stride,
# padding, groups, normalised, pooled; of each fully connected layer its window and its inputs.
FIRST, SECOND = (3, 96, 11, 4, 0, 1, True, True), (96, 256, 5, 1, 2, 2, True, True)
FIFTH = (384, 256, 3, 1, 1, 2, False, True)
THIRD, FOURTH = (256, 384, 3, 1, 1, 1, False, False), (384, 384, 3, 1, 1, 2, False, False)
SHORT = (256, 256, 3, 1, 1, 2, False, True)
COMPARED = {
    'without_lrn': ({}, [(*FIRST[:6], False, True), (*SECOND[:6], False, True), THIRD, FOURTH,
                         FIFTH], 'conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8'),
    'without_overlap': ({'window': 2}, [FIRST, SECOND, THIRD, FOURTH, FIFTH],
                        'conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8'),
    'one_gpu': ({}, [(3, 48, *FIRST[2:]), (48, 128, 5, 1, 2, 1, True, True),
                     (128, 192, *THIRD[2:]), (192, 192, 3, 1, 1, 1, False, False),
                     (192, 256, 3, 1, 1, 1, False, True)],
                'conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8'),
    'tanh': ({'activation': torch.nn.Tanh}, [FIRST, SECOND, THIRD, FOURTH, FIFTH],
             'conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8'),
    'without_3_4': ({}, [FIRST, SECOND, SHORT], 'conv1 conv2 conv5 fc6 fc7 fc8'),
    'without_7': ({}, [FIRST, SECOND, THIRD, FOURTH, FIFTH],
                  'conv1 conv2 conv3 conv4 conv5 fc6 fc8'),
    'without_6_7': ({}, [FIRST, SECOND, THIRD, FOURTH, FIFTH],
                    'conv1 conv2 conv3 conv4 conv5 fc8'),
    'without_3_4_6_7': ({}, [FIRST, SECOND, SHORT], 'conv1 conv2 conv5 fc8'),
}  # fmt: skip


def compared_in_torch(variables, convolutions, names, units, window=3, activation=torch.nn.ReLU):
    """Layers in order; units of the fully connected layers but the last, which has 10."""
    layers = [torch.nn.ZeroPad2d((0, 3, 0, 3))]
    for inputs, maps, kernel, stride, padding, groups, normalised, pooled in convolutions:
        layers += [torch.nn.Conv2d(inputs, maps, kernel, stride, padding, groups=groups)]
        layers += [activation()]
        if normalised:
            layers += [torch.nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)]
        if pooled:
            layers += [torch.nn.MaxPool2d(window, 2)]
    layers += [torch.nn.Flatten()]
    names, inputs = names.split(), 9216
    for _ in names[len(convolutions) : -1]:
        layers += [torch.nn.Linear(inputs, units), activation()]
        inputs = units
    peer = oracles.unfilled_torch(lambda: torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 10)))
    first = names[len(convolutions)]  # the fully connected layer that reads the maps
    weighted = [layer for layer in peer if hasattr(layer, 'weight')]
    for name, layer in zip(names, weighted, strict=True):
        oracles.fill_torch(layer, variables, name, (6, 6) if name == first else None)
    return peer


@pytest.mark.parametrize('variant', COMPARED)
def test_what_the_papers_compare_equals_pytorch(variant):
    settings, convolutions, names = COMPARED[variant]
    model = build(variant, fc_units=32, num_classes=10)
    variables = oracles.random_variables(model)
    assert set(variables['params']) == set(names.split())
    x = images(2)
    if variant == 'tanh':
        x = x / 60  # does not saturate
    logits, _ = oracles.jit(model.apply)(variables, x)
    peer = compared_in_torch(variables, convolutions, names, 32, **settings)
    oracles.assert_close(logits, oracles.run_torch(peer, x))


def test_pooling_without_overlap_gives_maps_of_the_same_size():
    """Section 3.4: "which produces output of equivalent dimensions"."""
    names = ('pool1', 'pool2', 'pool5')
    found = [oracles.abstract_endpoints(build(v)) for v in ('two_tower', 'without_overlap')]
    assert all(found[0][name].shape == found[1][name].shape for name in names)


def test_dense_without_fully_connected_layers():
    """The classifier is then a convolution of 6x6 places."""
    model = build('without_6_7', num_classes=10)
    variables = oracles.random_variables(model)
    x = images(1)
    wide, converted = dense.to_convolutional(model, variables, 224)
    scores, _ = oracles.jit(wide.apply)(converted, x)
    assert scores.shape == (1, 1, 1, 10)
    oracles.assert_close(scores[:, 0, 0], oracles.jit(model.apply)(variables, x)[0])
    shape = jax.eval_shape(wide.apply, converted, images(1, 224, 288))[0].shape
    assert shape == (1, 1, 3, 10)


def test_tanh_has_no_deconvnet():
    config = configuration.load('configs/alexnet.py:tanh')
    network = Network.create(config, mesh.create_mesh(config.mesh))
    check_method(network, 'gradient')
    with pytest.raises(UserError, match='no meaning in a network of tanh'):
        check_method(network, 'deconvnet')


def torchvision_alexnet(variables):
    peer = oracles.unfilled_torch(oracles.torchvision().models.alexnet)
    for name, index in zip(CONVOLUTIONS, (0, 3, 6, 8, 10), strict=True):
        oracles.fill_torch(peer.features[index], variables, name)
    oracles.fill_torch(peer.classifier[1], variables, 'fc6', (6, 6))
    oracles.fill_torch(peer.classifier[4], variables, 'fc7')
    oracles.fill_torch(peer.classifier[6], variables, 'fc8')
    return peer


@pytest.mark.parametrize('variant', VARIANTS)
def test_parameters(variant):
    assert oracles.count_parameters(build(variant)) == PARAMETERS[variant]


def test_multiply_adds_of_one_tower_are_those_that_torchvision_publishes():
    found = summary.summarise('', configuration.load('configs/alexnet.py:one_tower'))
    assert round(found.multiply_adds / 1e9, 3) == 0.714


def test_the_paper_says_sixty_million():
    # Section 1: "60 million parameters", which is the exact 60.97 million cut off, not rounded.
    assert PARAMETERS['two_tower'] // 10**6 == 60


def test_kernels_of_section_3_5():
    params = oracles.abstract_variables(build('two_tower'))['params']
    assert [params[name]['kernel'].shape for name in CONVOLUTIONS] == [
        (11, 11, 3, 96),
        (5, 5, 48, 256),
        (3, 3, 256, 384),
        (3, 3, 192, 384),
        (3, 3, 192, 256),
    ]
    assert params['fc6']['kernel'].shape == (6 * 6 * 256, 4096)


def test_neurons_of_figure_2():
    shapes = oracles.abstract_endpoints(build('two_tower'))
    neurons = [int(np.prod(shapes[name].shape)) for name in (*CONVOLUTIONS, 'fc6', 'fc7', 'logits')]
    # The caption prints 253,440 = 55 * 48 * 96 for the first layer; its drawing shows 55x55 maps of
    # 48 per tower, and 96 maps of 55x55 are 290,400.
    printed = [253_440, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert neurons == [290_400, *printed[1:]]
    assert 224 * 224 * 3 == 150_528
    assert shapes['conv1'].shape == (1, 55, 55, 96)
    # Section 1 speaks of 650,000 neurons, which neither sum rounds to.
    assert sum(neurons) == 659_272
    assert sum(printed) == 622_312


@pytest.mark.parametrize('order', ['relu-lrn-pool', 'relu-pool-lrn'])
@pytest.mark.parametrize('size', [224, 227])
def test_two_tower_equals_pytorch(size, order):
    variables = weights('two_tower')
    x = images(2, size, size)
    logits, _ = oracles.in_float64(build('two_tower', order=order))(variables, x)
    # At 227 the peer is Caffe's network: no padding.
    peer = two_tower_in_torch(variables, order, padding={224: 3, 227: 0}[size])
    oracles.assert_close(logits, oracles.run_torch(peer, x))


def test_what_is_compared_depends_on_normalisation_and_its_place():
    """Without this, weak inputs could hide a wrong constant or a wrong order."""
    model = build('two_tower', fc_units=64)
    variables = oracles.random_variables(model)
    x = images(2)

    def logits(**options):
        return np.asarray(oracles.jit(model.clone(**options).apply)(variables, x)[0])

    paper = logits()
    for other in ({'lrn_k': 1.0}, {'lrn_alpha': 2e-5}, {'order': 'relu-pool-lrn'}):
        assert np.abs(paper - logits(**other)).max() > 1e-2 * np.abs(paper).max(), other


@pytest.mark.parametrize('size', [224, 239])
def test_one_tower_equals_torchvision(size):
    variables = weights('one_tower')
    x = oracles.random_images(2, size, size, 3)
    logits, _ = oracles.in_float64(build('one_tower'))(variables, x)
    oracles.assert_close(logits, oracles.run_torch(torchvision_alexnet(variables), x))


def test_dense_equals_torchvision_as_convolutions():
    variables = weights('one_tower')
    peer = torchvision_alexnet(variables)
    layers = []
    for layer in peer.classifier:
        if isinstance(layer, torch.nn.Linear):
            window = 6 if layer.in_features == 9216 else 1
            conv = oracles.unfilled_torch(
                lambda new=(layer.in_features // window**2, layer.out_features, window): (
                    torch.nn.Conv2d(*new)
                )
            )
            conv.weight.data = layer.weight.data.reshape(conv.weight.shape)
            conv.bias.data = layer.bias.data
            layers.append(conv)
        elif isinstance(layer, torch.nn.ReLU):
            layers.append(layer)
    x = oracles.random_images(1, 287, 323, 3)
    model, converted = dense.to_convolutional(build('one_tower'), variables, 224)
    scores, _ = oracles.in_float64(model)(converted, x)
    assert scores.shape == (1, 3, 4, 1000)
    theirs = oracles.run_torch(torch.nn.Sequential(*peer.features, *layers), x)
    oracles.assert_close(scores[0].reshape(-1, 1000), theirs[0].reshape(-1, 1000))


def test_dense_of_two_towers_is_the_network_at_its_own_size():
    variables = weights('two_tower')
    x = images(1)
    logits, _ = oracles.in_float64(build('two_tower'))(variables, x)
    model, converted = dense.to_convolutional(build('two_tower'), variables, 224)
    scores, _ = oracles.in_float64(model)(converted, x)
    assert scores.shape == (1, 1, 1, 1000)
    oracles.assert_close(scores[:, 0, 0], logits)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_step_changes_every_parameter(dtype):
    # Narrow fully connected layers: the same arrays, a tenth of the work.
    loss, changed = oracles.step_changes(build('two_tower', dtype=dtype, fc_units=64), images(2))
    assert np.isfinite(loss)
    assert len(changed) == 16
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('variant', WHOLE)
def test_a_step_of_the_whole_network_changes_every_parameter(variant, dtype):
    loss, changed = oracles.step_changes(build(variant, dtype=dtype), images(2))
    assert np.isfinite(loss)
    assert len(changed) == 16
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.parametrize('variant', WHOLE)
def test_half_of_fc6_and_of_fc7_is_dropped_in_training_only(variant):
    model = build(variant, fc_units=512, num_classes=512)
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


@pytest.mark.parametrize('variant', [*WHOLE, 'without_3_4'])
def test_initialisation_of_section_5(variant):
    """Normal with mean 0 and deviation 0.01; biases 1 in layers 2, 4, 5, 6, 7, else 0."""
    model = build(variant, fc_units=128)
    params = oracles.jit(model.init)(oracles.random_key(0), jnp.zeros((1, 224, 224, 3)))['params']
    for name, layer in params.items():
        kernel = np.asarray(layer['kernel'], np.float64)
        assert abs(kernel.mean()) < 5 * 0.01 / np.sqrt(kernel.size), name
        assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size), name
        # Not uniform, not cut off: a normal distribution's fourth moment is three.
        assert abs(np.mean((kernel / 0.01) ** 4) - 3) < 5 * np.sqrt(96 / kernel.size), name
        expected = 1 if name in ('conv2', 'conv4', 'conv5', 'fc6', 'fc7') else 0
        assert (np.asarray(layer['bias']) == expected).all(), name


@pytest.mark.parametrize('variant', VARIANTS)
def test_smallest_size(variant):
    model = build(variant)
    smallest = VARIANTS[variant]['minimum']
    assert oracles.abstract_endpoints(model, smallest)['logits'].shape == (1, 1000)
    with pytest.raises(UserError, match=f'this network takes {smallest}x{smallest} pixels or more'):
        oracles.abstract_endpoints(model, (smallest + 30, smallest - 1))
    # The bound is the network's, not only the check's: one pixel less leaves fc6 a smaller map.
    unchecked = model.clone(minimum=1)
    first = 'fc8' if '6' in variant else 'fc6'
    message = f'{first}: a map of 5x6 where the fully connected layer takes'
    with pytest.raises(UserError, match=message):
        oracles.abstract_endpoints(unchecked, (smallest - 1, smallest))


def test_an_unknown_order_is_refused():
    with pytest.raises(UserError, match="order = 'lrn-relu-pool': choose one of relu-lrn-pool, re"):
        oracles.abstract_variables(build('two_tower', order='lrn-relu-pool'))


@pytest.mark.parametrize('variant', VARIANTS)
def test_recipe(variant):
    """Section 5: what the paper prints, in the config and in the network it builds."""
    config = configuration.load(f'{configuration.CONFIGS}/alexnet.py:{variant}')
    configuration.validate(config)
    assert models.build(config.model) == build(variant)
    assert (config.train.batch_size, config.train.epochs) == (128, 90)
    optim = config.optim
    assert (optim.rule, optim.momentum, optim.weight_decay) == ('alexnet', 0.9, 5e-4)
    assert optim.learning_rate == 0.01
    augment = config.data.augment
    assert (augment.crop, augment.size, augment.scale_min) == ('central_square', 224, 256)
    assert (augment.mirror, augment.pca_colour) == (True, 0.1)
    assert config.eval.protocol == 'ten_crop'
    if variant != 'one_tower':
        assert (config.schedule.kind, config.schedule.drops) == ('plateau', 3)
        assert config.schedule.factor == 0.1
    with config.unlocked():
        config.model.options.order = 'relu-pool-lrn'
    assert models.build(config.model) == build(variant, order='relu-pool-lrn')
