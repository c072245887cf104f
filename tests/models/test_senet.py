"""SENet, ResNeXt and BN-Inception against timm, torchvision and the print of the papers."""

import functools
import importlib.util
import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cnn_arch import configuration, models, summary
from cnn_arch.errors import UserError
from cnn_arch.models import bn_inception, senet
from cnn_arch.models.bn_inception import BNInception
from cnn_arch.models.layers import BatchNormSettings, SqueezeExcitation
from cnn_arch.models.resnet import ResNet
from cnn_arch.models.senet import SENet
from cnn_arch.training import schedules
from tests import oracles
from tests.models.test_resnet import check_he_normal, compare, slow_but, torch_blocks

SIZES = [(224, 224), (75, 98)]
VARIANTS = {**senet.VARIANTS, **bn_inception.VARIANTS}
PARAMETERS = {
    'resnet50': 25_557_032,
    'resnet101': 44_549_160,
    'resnet152': 60_192_808,
    'se_resnet50': 28_088_024,
    'se_resnet101': 49_326_872,
    'se_resnet152': 66_821_848,
    'resnext50': 25_028_904,
    'resnext101': 44_177_704,
    'se_resnext50': 27_559_896,
    'se_resnext101': 48_955_416,
    'senet154': 115_088_984,
    'bn_inception': 11_285_224,
    'se_bn_inception': 11_931_622,
}
STAGES = {2: (3, 256), 3: (4, 512), 4: (6, 1024), 5: (3, 2048)}  # blocks and maps, ResNet-50


def gates(ratio=16, stages=(2, 3, 4, 5), maps=lambda stage: STAGES[stage][1]):
    """Weights of ResNet-50's gates without biases: 2 / r * C^2 each."""
    return sum(STAGES[stage][0] * 2 * maps(stage) ** 2 // ratio for stage in stages)


# Before the unit, the first gate of a stage reads what the stage before gave: 64, 256, 512, 1024.
BEFORE = sum(
    2 * (first**2 + (count - 1) * maps**2) // 16
    for first, (count, maps) in zip((64, 256, 512, 1024), STAGES.values(), strict=True)
)
JOURNAL = {
    'resnet50': 0,
    'se_resnet50': gates(),
    **{f'r{ratio}': gates(ratio) for ratio in (2, 4, 8, 32)},
    **{label: gates() for label in ('max', 'relu', 'tanh', 'post', 'identity', 'no_squeeze')},
    **{f'stage{stage}': gates(stages=(stage,)) for stage in (2, 3, 4)},
    'pre': BEFORE,
    '3x3': gates(maps=lambda stage: STAGES[stage][1] // 4),
}
PARAMETERS |= {f'journal-{label}': 25_557_032 + count for label, count in JOURNAL.items()}
# Xie et al. 2017: 64 groups of 4 maps in conv2_x, twice as many maps each stage; torchvision's.
PARAMETERS['resnext101_64x4d'] = 83_455_272


def build(label, **fields):
    if label in bn_inception.VARIANTS:
        return BNInception(**{**bn_inception.VARIANTS[label], **fields})
    return SENet(**{**senet.VARIANTS[label], **fields})


def summarise(label):
    return summary.summarise(label, configuration.load(f'configs/senet.py:{label}'))


# The papers' tables.


@pytest.mark.parametrize('label', VARIANTS)
def test_parameters(label):
    assert oracles.count_parameters(build(label)) == PARAMETERS[label]


def test_gates_of_the_journal_version_have_no_biases():
    assert oracles.count_parameters(build('se_resnet50', gate_bias=False)) == 28_071_976


@pytest.mark.parametrize(('reduction', 'millions'), [(4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)])
def test_parameters_by_reduction_ratio_of_table_7(reduction, millions):
    """The print is rounded up: 35.64, 30.60, 28.09 and 26.83 million (and ResNet-50's 25.56)."""
    count = oracles.count_parameters(build('se_resnet50', reduction=reduction))
    assert math.ceil(count / 1e5) / 10 == millions


@pytest.mark.parametrize(
    ('label', 'millions'),
    [('r2', 45.7), ('r4', 35.7), ('r8', 30.7), ('se_resnet50', 28.1), ('r32', 26.9),
     ('resnet50', 25.6), ('stage2', 25.6), ('stage3', 25.7), ('stage4', 26.4), ('3x3', 25.8),
     ('no_squeeze', 28.1)],
)  # fmt: skip
def test_parameters_of_the_journals_tables_10_13_15_and_16(label, millions):
    """Rounded up as well, and with the biases that section 6 of the journal version drops: the
    prints of table 7. Without them r = 8 has 30.587 million."""
    count = oracles.count_parameters(build(f'journal-{label}', gate_bias=True))
    assert math.ceil(count / 1e5) / 10 == millions


@pytest.mark.parametrize('label', ['se_resnet50', 'senet154', 'resnext50'])
def test_additional_parameters_of_equation_5(label):
    """2 / r * sum over stages of N_s * C_s^2 for the gates, biases excluded."""
    blocks = senet.VARIANTS[label]['blocks']
    weights = 2 / 16 * sum(n * (256 * 2**s) ** 2 for s, n in enumerate(blocks))
    counts = [
        oracles.count_parameters(build(label, reduction=reduction, gate_bias=False))
        for reduction in (0, 16)
    ]
    assert counts[1] - counts[0] == weights


@pytest.mark.parametrize(
    ('label', 'printed'),
    [
        ('se_resnet50', 3.87),
        ('se_resnet101', 7.60),
        ('se_resnet152', 11.32),
        ('resnext50', 4.24),
        ('se_resnext50', 4.25),
        ('resnext101', 7.99),
        ('se_resnext101', 8.00),
        ('bn_inception', 2.03),
        ('se_bn_inception', 2.04),
        ('resnet50', 3.86),
        ('resnet101', 7.58),
        ('resnet152', 11.30),
        ('journal-stage4', 3.86),
        ('journal-3x3', 3.86),
        ('journal-no_squeeze', 4.27),
    ],
)
def test_multiply_adds_of_table_2(label, printed):
    """The print is 0 to 0.5 percent higher: it counts a little more than the layers' products.

    Its ResNets show the same: 3.86, 7.58 and 11.30 for 3.858, 7.570 and 11.282.
    """
    ours = summarise(label).multiply_adds / 1e9
    assert printed / 1.005 <= ours < printed + 0.005


@pytest.mark.parametrize(
    ('label', 'depth'), [('se_resnext50', 50), ('senet154', 154), ('se_bn_inception', 34)]
)
def test_depth(label, depth):
    """Gates do not count. BN-Inception: three, ten modules of three, the classifier."""
    assert summarise(label).depth == depth


def test_map_sizes_of_table_1():
    shapes = oracles.abstract_endpoints(build('se_resnext50'))
    last = {name.split('_')[0]: value.shape[1:] for name, value in shapes.items()}
    assert last == {
        'conv1': (112, 112, 64),
        'pool1': (56, 56, 64),
        'conv2': (56, 56, 256),
        'conv3': (28, 28, 512),
        'conv4': (14, 14, 1024),
        'conv5': (7, 7, 2048),
        'pool5': (2048,),
        'logits': (1000,),
    }


def test_units_of_the_gates_of_table_1():
    """ "fc, [16, 256]" and so on: the units of the two layers of each gate."""
    params = oracles.abstract_variables(build('se_resnet50'))['params']
    printed = {2: (16, 256), 3: (32, 512), 4: (64, 1024), 5: (128, 2048)}
    for stage, count in enumerate(senet.BLOCKS[50], 2):
        for index in range(1, count + 1):
            gate = params[f'conv{stage}_{index}']['se']
            units = tuple(gate[name]['kernel'].shape[1] for name in ('down', 'up'))
            assert units == printed[stage]


def test_map_sizes_of_figure_5():
    """As printed, but for the maps of 4c, 4d and 4e, which do not fit the branches beside them."""
    shapes = oracles.abstract_endpoints(build('bn_inception'))
    assert {name: value.shape[1:] for name, value in shapes.items()} == {
        'conv1': (112, 112, 64),
        'pool1': (56, 56, 64),
        'conv2': (56, 56, 192),
        'pool2': (28, 28, 192),
        'inception_3a': (28, 28, 256),
        'inception_3b': (28, 28, 320),
        'inception_3c': (14, 14, 576),
        'inception_4a': (14, 14, 576),
        'inception_4b': (14, 14, 576),
        'inception_4c': (14, 14, 608),
        'inception_4d': (14, 14, 608),
        'inception_4e': (7, 7, 1056),
        'inception_5a': (7, 7, 1024),
        'inception_5b': (7, 7, 1024),
        'pool5': (1024,),
        'logits': (1000,),
    }


# Independent implementations with the same random weights.


@pytest.mark.parametrize(('reduction', 'use_bias'), [(4, True), (16, True), (16, False)])
def test_squeeze_and_excitation_by_hand(reduction, use_bias):
    """Equations 2 to 4, in float64; the journal version has no biases."""
    layer = oracles.in_float64(SqueezeExcitation(reduction, use_bias))
    x = oracles.random_images(2, 5, 3, 32)
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(32, 32 // reduction)), rng.normal(size=(32 // reduction, 32))
    biases = [rng.normal(size=len(w.T)) * use_bias for w in (down, up)]
    squeezed = x.astype(np.float64).mean(axis=(1, 2))
    hidden = np.maximum(squeezed @ down + biases[0], 0)
    gate = 1 / (1 + np.exp(-(hidden @ up + biases[1])))
    params = {'down': {'kernel': down}, 'up': {'kernel': up}}
    if use_bias:
        params['down']['bias'], params['up']['bias'] = biases
    oracles.assert_close(layer({'params': params}, x), x * gate[:, None, None, :])


def random_variables(model):
    """Random values with which blocks add a little to their shortcuts, as trained ones do.

    With larger ones the gates' inputs grow to hundreds; rounding errors then flip gates, and
    PyTorch in float32 and in float64 differ by half a percent.
    """

    def shrink(path, leaf):
        last_scale = [key.key for key in path[-2:]] == ['bn3', 'scale']
        return leaf * np.float32(0.3) if last_scale else leaf

    return jax.tree_util.tree_map_with_path(shrink, oracles.random_variables(model))


@pytest.mark.parametrize(
    ('squeeze', 'excitation'),
    [('max', 'sigmoid'), ('mean', 'relu'), ('mean', 'tanh'), ('none', 'sigmoid')],
)
def test_other_squeezes_and_excitations_by_hand(squeeze, excitation):
    """Journal version, sections 6.2, 6.3 and 7.1, in float64."""
    layer = SqueezeExcitation(4, False, squeeze=squeeze, excitation=excitation)
    x = oracles.random_images(2, 5, 3, 16)
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(16, 4)), rng.normal(size=(4, 16))
    values = x.astype(np.float64)
    gate = np.empty_like(values)
    for n, h, w in np.ndindex(values.shape[:3]):
        squeezed = {
            'mean': values[n].mean(axis=(0, 1)),
            'max': values[n].max(axis=(0, 1)),
            'none': values[n, h, w],
        }[squeeze]
        last = np.maximum(squeezed @ down, 0) @ up
        gate[n, h, w] = {
            'sigmoid': 1 / (1 + np.exp(-last)),
            'relu': np.maximum(last, 0),
            'tanh': np.tanh(last),
        }[excitation]
    params = jax.tree.map(np.float32, {'down': {'kernel': down}, 'up': {'kernel': up}})
    oracles.assert_close(layer.apply({'params': params}, x), values * gate, 1e-5)


def block_by_hand(params, stats, x, place, stride):
    """A bottleneck with a gate in PyTorch, float64, from figure 5 of the journal version."""

    def conv(name, x, stride=1, padding=0):
        kernel = torch.tensor(np.asarray(params[name]['kernel'], np.float64).transpose(3, 2, 0, 1))
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding)

    def norm(name, x):
        values = [stats[name]['mean'], stats[name]['var'], params[name]['scale'],
                  params[name]['bias']]  # fmt: skip
        tensors = [torch.tensor(np.asarray(value, np.float64)) for value in values]
        return torch.nn.functional.batch_norm(x, *tensors, eps=1e-5)

    def gate(x):
        weights = [torch.tensor(np.asarray(params['se'][name]['kernel'], np.float64))
                   for name in ('down', 'up')]  # fmt: skip
        z = torch.sigmoid(torch.relu(x.mean((2, 3)) @ weights[0]) @ weights[1])
        return x * z[:, :, None, None]

    identity = x
    if place == 'pre':
        x = gate(x)
    x = torch.relu(norm('bn1', conv('conv1', x, stride)))
    x = torch.relu(norm('bn2', conv('conv2', x, padding=1)))
    if place == '3x3':
        x = gate(x)
    x = norm('bn3', conv('conv3', x))
    if place == 'residual':
        x = gate(x)
    if 'projection' in params:
        identity = norm('projection_bn', conv('projection', identity, stride))
    if place == 'identity':
        identity = gate(identity)
    x = torch.relu(x + identity)
    return gate(x) if place == 'post' else x


@pytest.mark.parametrize('place', ['residual', 'pre', 'post', 'identity', '3x3'])
def test_places_of_the_gate_by_hand(place):
    """The second and third block of a narrow network: one as it is, one that halves the map."""
    label = 'journal-' + {'residual': 'se_resnet50'}.get(place, place)
    model = build(label, blocks=(2, 1), width=16, reduction=8, num_classes=3)
    variables = random_variables(model)
    x = oracles.random_images(2, 32, 40, 3)
    _, endpoints = oracles.jit(model.apply)(variables, x)
    for before, name, stride in (('conv2_1', 'conv2_2', 1), ('conv2_2', 'conv3_1', 2)):
        entering = torch.tensor(np.asarray(endpoints[before], np.float64).transpose(0, 3, 1, 2))
        trees = variables['params'][name], variables['batch_stats'][name]
        expected = block_by_hand(*trees, entering, place, stride).numpy().transpose(0, 2, 3, 1)
        oracles.assert_close(endpoints[name], expected, 1e-5)


@pytest.mark.parametrize('reduction', [-16, 257])
def test_reductions_to_nothing(reduction):
    with pytest.raises(UserError, match=f'reduction = {reduction}: it must be at most 256'):
        oracles.count_parameters(build('se_resnet50', reduction=reduction))


def fill_gate(peer, variables, path):
    oracles.fill_torch(peer.fc1, variables, f'{path}/down')
    oracles.fill_torch(peer.fc2, variables, f'{path}/up')


def fill_residual(peer, stem, classifier, variables):
    """Copies all of our weights into a network of timm or torchvision."""
    fill = functools.partial(oracles.fill_torch, variables=variables)
    for module, path in stem.items():
        fill(peer.get_submodule(module), path=path)
    fill(classifier, path='fc')
    stages = (peer.layer1, peer.layer2, peer.layer3, peer.layer4)
    for block, path in torch_blocks(peer, stages):
        for name in ('conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3'):
            fill(getattr(block, name), path=f'{path}/{name}')
        if hasattr(block, 'se_module'):
            fill_gate(block.se_module, variables, f'{path}/se')
        if block.downsample is not None:
            fill(block.downsample[0], path=f'{path}/projection')
            fill(block.downsample[1], path=f'{path}/projection_bn')
    return functools.partial(oracles.run_torch, peer)


def compare_with_timms_port(label, sizes, blocks=None):
    """The network, or one of fewer blocks, against timm's port of the authors' network."""
    names = {'se_resnext50': 'seresnext50_32x4d', 'se_resnext101': 'seresnext101_32x4d'}
    name = names.get(label, label.replace('se_resnet', 'seresnet'))
    build_peer = getattr(oracles.timm().models.senet, f'legacy_{name}')
    model = build(label) if blocks is None else build(label, blocks=blocks)
    peer = oracles.unfilled_torch(functools.partial(build_peer, layers=list(model.blocks)))
    variables = random_variables(model)
    if label == 'senet154':
        stem = {f'layer0.{kind}{i}': f'{kind}1_{i}' for kind in ('conv', 'bn') for i in (1, 2, 3)}
    else:
        stem = {'layer0.conv1': 'conv1', 'layer0.bn1': 'bn1'}
    run = fill_residual(peer, stem, peer.last_linear, variables)
    for size in sizes:
        compare(model, run, variables, size)


@pytest.mark.parametrize(
    'label',
    slow_but(
        [label for label in senet.VARIANTS if label.startswith('se')],
        fast=['se_resnet50'],
    ),
)
def test_logits_equal_timms_ports_of_the_authors_networks(label):
    compare_with_timms_port(label, SIZES)


@pytest.mark.parametrize('label', ['se_resnext50', 'senet154'])
def test_logits_of_one_block_a_stage_equal_timms_ports(label):
    compare_with_timms_port(label, [(75, 98), (64, 61)], blocks=(1, 1, 1, 1))


def test_the_plain_networks_are_he_et_als():
    """The column "re-implementation": the authors' ResNet, whose pooling in Caffe rounds up."""
    fields = {'blocks': (1, 1, 1, 1), 'num_classes': 5}
    model = build('resnet50', **fields)
    theirs = ResNet(bottleneck=True, ceil_mode_pool=True, **fields)
    variables = random_variables(model)
    x = oracles.random_images(2, 50, 61, 3)
    logits = [oracles.jit(m.apply)(variables, x)[0] for m in (model, theirs)]
    oracles.assert_close(*logits, 1e-6)


def test_logits_of_one_block_a_stage_equal_torchvisions_64x4d():
    """resnext101_64x4d with one block a stage, from torchvision's own class."""
    resnet = oracles.torchvision().models.resnet
    peer = oracles.unfilled_torch(
        functools.partial(resnet.ResNet, resnet.Bottleneck, [1, 1, 1, 1], groups=64,
                          width_per_group=4)
    )  # fmt: skip
    model = build('resnext101_64x4d', blocks=(1, 1, 1, 1))
    variables = random_variables(model)
    run = fill_residual(peer, {'conv1': 'conv1', 'bn1': 'bn1'}, peer.fc, variables)
    compare(model, run, variables, (64, 75))


@pytest.mark.slow
@pytest.mark.parametrize('label', ['resnext50', 'resnext101'])
def test_logits_equal_torchvisions_and_timms_resnext(label):
    peer = oracles.unfilled_torch(
        oracles.torchvision().models.resnext50_32x4d
        if label == 'resnext50'
        else oracles.timm().models.resnet.resnext101_32x4d
    )
    model = build(label)
    variables = random_variables(model)
    run = fill_residual(peer, {'conv1': 'conv1', 'bn1': 'bn1'}, peer.fc, variables)
    for size in SIZES:
        compare(model, run, variables, size)


def bn_inception_module():
    """The file of `pretrainedmodels` that ports the Caffe network; the package imports too much."""
    package = importlib.util.find_spec('pretrainedmodels')
    if package is None:
        pytest.skip('pretrainedmodels is not installed: see requirements-dev.txt')
    path = pathlib.Path(package.submodule_search_locations[0]) / 'models' / 'bninception.py'
    spec = importlib.util.spec_from_file_location('bninception', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bn_inception_peer(variables, gated):
    """The Caffe network with our weights; its concatenations go through gates where `gated`."""
    module = bn_inception_module()
    peer = oracles.unfilled_torch(module.BNInception)
    peer.global_pool = torch.nn.AdaptiveAvgPool2d(1)  # for 7x7 there
    rng = np.random.default_rng(7)

    def fill(name, path):
        conv, norm = (getattr(peer, name + suffix) for suffix in ('', '_bn'))
        oracles.fill_torch(norm, variables, f'{path}/bn')
        kernel = variables['params'][path.split('/')[0]]
        for key in (*path.split('/')[1:], 'conv'):
            kernel = kernel[key]
        bias = rng.normal(size=kernel['kernel'].shape[-1]).astype(np.float32)
        with torch.no_grad():  # its biases, which the running means make up for
            conv.weight.copy_(torch.tensor(kernel['kernel'].transpose(3, 2, 0, 1)))
            conv.bias.copy_(torch.tensor(bias))
            norm.running_mean += torch.tensor(bias)

    names = {
        '1x1': '1x1',
        '3x3_reduce': '3x3_reduce',
        '3x3': '3x3',
        'double3x3_reduce': 'double_3x3_reduce',
        'double3x3a': 'double_3x3_1',
        'double3x3b': 'double_3x3_2',
        'pool_proj': 'pool_proj',
    }
    fill('conv1_7x7_s2', 'conv1')
    fill('conv2_3x3_reduce', 'conv2_reduce')
    fill('conv2_3x3', 'conv2')
    oracles.fill_torch(peer.last_linear, variables, 'fc')
    gates = []
    for label in bn_inception.FIGURE_5:
        for ours, theirs in names.items():
            if ours in variables['params'][f'inception_{label}']:
                fill(f'inception_{label}_{theirs}', f'inception_{label}/{ours}')
        if gated:
            path = f'inception_{label}_se'
            channels = variables['params'][path]['down']['kernel'].shape[0]
            gate = functools.partial(oracles.timm().models.senet.SEModule, channels, 16)
            gates.append(oracles.unfilled_torch(gate))
            fill_gate(gates[-1], variables, path)
    if gated:

        def cat(maps, axis):
            return remaining.pop(0)(torch.cat(maps, axis))

        module.torch = types.SimpleNamespace(cat=cat)  # all that its forward pass takes from torch

    def run(images):
        remaining[:] = gates
        output = oracles.run_torch(peer, images)
        assert not remaining
        return output

    remaining = []
    return peer, run


@pytest.mark.parametrize(
    'label', slow_but(['bn_inception', 'se_bn_inception'], fast=['se_bn_inception'])
)
def test_logits_equal_the_caffe_bn_inception(label):
    model = build(label)
    variables = oracles.random_variables(model)
    peer, run = bn_inception_peer(variables, gated=label.startswith('se'))
    compare(model, run, variables, (96, 160))
    # Odd maps at 3c, where the Caffe network does not fit together: "same" padding.
    peer.inception_3c_pool = torch.nn.MaxPool2d(3, 2, padding=1)
    compare(model, run, variables, (88, 88))


@pytest.mark.slow
@pytest.mark.parametrize('label', ['bn_inception', 'se_bn_inception'])
def test_logits_at_224_equal_the_caffe_bn_inception(label):
    model = build(label)
    variables = oracles.random_variables(model)
    _, run = bn_inception_peer(variables, gated=label.startswith('se'))
    compare(model, run, variables, (224, 224))


# Training.


def check_step(label, dtype, own_start=True, **fields):
    model = build(label, dtype=dtype, batch_norm=BatchNormSettings(group_size=4), **fields)
    variables = None if own_start else oracles.random_variables(model)
    images = oracles.random_images(4, 48, 48, 3)  # conv5's maps are 2x2: every weight is read
    loss, changed = oracles.step_changes(model, images, variables=variables)
    assert np.isfinite(loss)
    assert all(share > 0 for share in changed.values()), changed


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_step_changes_every_parameter(dtype):
    check_step('se_resnet50', dtype, own_start=False, blocks=(1, 1, 1, 1))


@pytest.mark.parametrize('label', ['journal-no_squeeze', 'journal-max'])
def test_a_step_changes_every_parameter_of_other_gates(label):
    check_step(label, jnp.float32, own_start=False, blocks=(1, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('label', [label for label in VARIANTS if 'journal' not in label])
def test_a_step_changes_every_parameter_of_every_variant(label, dtype):
    check_step(label, dtype)


def test_dropout_and_batch_statistics_are_off_at_test_time():
    model = build('senet154', blocks=(1, 1, 1, 1), width=32, groups=8, stem=(8, 8, 16))
    variables, images = oracles.random_variables(model), oracles.random_images(2, 64, 64, 3)
    apply = oracles.jit(model.apply, static_argnames='train')
    test, _ = apply(variables, images)  # without a key for dropout
    np.testing.assert_array_equal(test, apply(variables, images)[0])

    @oracles.jit
    def train(key):
        rngs = {'dropout': key}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=['batch_stats'])

    (a, one), updated = train(oracles.random_key(0))
    (b, other), _ = train(oracles.random_key(1))
    np.testing.assert_array_equal(one['pool5'], other['pool5'])  # no noise before the classifier
    assert np.abs(a - b).max() > 0
    assert np.abs(a - test).max() > 0.1
    changed = jax.tree.map(
        lambda x, y: bool((x != y).any()), updated['batch_stats'], variables['batch_stats']
    )
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize('label', slow_but(['se_resnext50', 'bn_inception'], fast=['se_resnext50']))
def test_initialisation_is_he_normal(label):
    fields = {} if label == 'bn_inception' else {'blocks': (1, 1, 1, 1)}
    init = oracles.jit(build(label, **fields).init)
    check_he_normal(init(oracles.random_key(0), np.zeros((1, 32, 32, 3), np.float32))['params'])


# Sizes.


@pytest.mark.parametrize(
    ('label', 'smallest'), [('senet154', 5), ('resnext50', 5), ('bn_inception', 11)]
)
def test_the_smallest_images(label, smallest):
    model = build(label)
    shapes = oracles.abstract_endpoints(model, (smallest, smallest + 3))
    assert shapes['logits'].shape == (1, 1000)
    with pytest.raises(UserError, match=f'takes {smallest}x{smallest} pixels or more'):
        oracles.abstract_endpoints(model, (smallest + 3, smallest - 1))


# Recipes.


@pytest.mark.parametrize('label', [label for label in VARIANTS if 'journal' not in label])
def test_the_recipe_is_the_papers(label):
    config = configuration.load(f'configs/senet.py:{label}')
    configuration.validate(config)
    big, xie = label == 'senet154', label == 'resnext101_64x4d'
    assert config.train.batch_size == (2048 if big else 256 if xie else 1024)
    assert config.train.epochs == 100
    rate = schedules.learning_rate(config, steps_per_epoch=10)
    rates = [float(rate(epoch * 10)) for epoch in (0, 29, 30, 60, 99)]
    first = 1.0 if big else 0.1 if xie else 0.6
    np.testing.assert_allclose(rates, [first, first, first / 10, first / 100, first / 1000])
    assert config.loss.label_smoothing == (0.1 if big else 0.0)
    assert config.optim.weight_decay == (2e-4 if 'inception' in label else 1e-4)
    assert config.optim.decay_all == xie  # Torch's optim.sgd decays all
    assert (config.optim.rule == 'nesterov') == xie
    assert config.data.augment.crop == ('random_sized' if xie else 'random_resized')


@pytest.mark.parametrize('label', [label for label in VARIANTS if 'journal' in label])
def test_the_recipe_of_the_journals_ablations(label):
    """Section 6: rate 0.1, a tenth at each plateau, smoothed labels, gates without biases."""
    config = configuration.load(f'configs/senet.py:{label}')
    configuration.validate(config)
    assert (config.optim.learning_rate, config.train.batch_size) == (0.1, 256)
    schedule = config.schedule
    assert (schedule.kind, schedule.factor, schedule.drops) == ('plateau', 0.1, 3)
    assert config.loss.label_smoothing == 0.1
    assert not models.build(config.model).gate_bias
    assert models.build(config.model) == build(label)
