"""The summary command: counts against hand arithmetic, the papers' prints and the README."""

import json
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnn_arch import configuration, summary
from cnn_arch.errors import UserError
from cnn_arch.models import cpu, layers
from cnn_arch.papers import architectures

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def networks():
    return list(summary.all_networks())


def load(name):
    return configuration.load(str(ROOT / 'configs' / name))


class Gate(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(2, name='down')(x.mean(axis=(1, 2)))
        return x * nn.sigmoid(nn.Dense(8, name='up')(y))[:, None, None]


class Net(nn.Module):
    """Every case at once: strides, groups, depthwise, gate, residual, a platform's own forms."""

    @nn.compact
    def __call__(self, images, train=False):
        endpoints = {}
        x = nn.Conv(4, (3, 3), (2, 2), padding=1, name='strided')(images)  # [5, 6, 4]
        x = endpoints['strided'] = nn.relu(x)
        x = nn.Conv(8, (3, 3), feature_group_count=2, use_bias=False, name='grouped')(x)
        shortcut = nn.Conv(8, (1, 1), use_bias=False, name='shortcut')(x)
        x = nn.Conv(8, (5, 5), feature_group_count=8, use_bias=False, name='depthwise')(x)
        x = nn.Conv(8, (1, 1), name='pointwise')(x)
        x = nn.Conv(8, (1, 1), name='expand')(x)
        x = Gate(name='gate')(x) + shortcut
        x = endpoints['pool'] = layers.max_pool(x, 2, 2, ((0, 1), (0, 0)))
        x = nn.Conv(
            8, (3, 3), padding=1, feature_group_count=4, use_bias=False, name='merged',
            conv_general_dilated=cpu.convolution,
        )(x)  # fmt: skip
        x = jax.jit(lambda x: x.mean(axis=(1, 2)))(x)
        return nn.Dense(3, name='classifier')(x), endpoints


def test_counts_by_hand():
    found = summary.of_model('net', Net(), (9, 11, 3))
    assert [(row.name, row.shape, row.parameters, row.multiply_adds) for row in found.layers] == [
        ('strided', (5, 6, 4), 3 * 3 * 3 * 4 + 4, 30 * 4 * 27),
        ('grouped', (5, 6, 8), 3 * 3 * 2 * 8, 30 * 8 * 18),
        ('shortcut', (5, 6, 8), 8 * 8, 30 * 8 * 8),
        ('depthwise', (5, 6, 8), 5 * 5 * 8, 30 * 8 * 25),
        ('pointwise', (5, 6, 8), 8 * 8 + 8, 30 * 8 * 8),
        ('expand', (5, 6, 8), 8 * 8 + 8, 30 * 8 * 8),
        ('gate/down', (2,), 8 * 2 + 2, 16),
        ('gate/up', (8,), 2 * 8 + 8, 16),
        ('pool', (3, 3, 8), 0, 0),
        ('merged', (3, 3, 8), 3 * 3 * 2 * 8, 9 * 8 * 18),
        ('classifier', (3,), 8 * 3 + 3, 24),
    ]
    # strided, grouped, pointwise with depthwise, expand, merged, classifier: no shortcut, no gate.
    assert found.depth == 6
    variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 9, 11, 3)))
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_vgg_d():
    found = summary.summarise('vgg:D', load('vgg.py:D'))
    assert found.parameters == 138_357_544
    assert found.multiply_adds == 15_470_264_320
    assert [row.name for row in found.layers][:4] == ['conv1_1', 'conv1_2', 'pool1', 'conv2_1']
    assert found.layers[-3:] == [
        summary.Layer('fc6', (4096,), 102_764_544, 102_760_448),
        summary.Layer('fc7', (4096,), 16_781_312, 16_777_216),
        summary.Layer('fc8', (1000,), 4_097_000, 4_096_000),
    ]


def test_a_larger_input_is_summarised_densely():
    found = summary.summarise('vgg:D', load('vgg.py:D'), (384, 512))
    assert found.layers[-1] == summary.Layer('fc8', (6, 10, 1000), 4_097_000, 60 * 4_096_000)
    assert found.parameters == 138_357_544


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'cnn_arch.summary', *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_json():
    done = run('configs/vgg.py:D', '--input=384x512', '--json')
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert list(content) == ['name', 'input', 'parameters', 'multiply_adds', 'layers']
    assert content['input'] == [384, 512, 3]
    for row in content['layers']:
        assert list(row) == ['name', 'shape', 'parameters', 'multiply_adds']
    for key in ('parameters', 'multiply_adds'):
        assert content[key] == sum(row[key] for row in content['layers'])


def test_lenet5_prints_its_arithmetic():
    text = summary.as_text(summary.summarise('lenet:lenet5', load('lenet.py:lenet5')))
    assert text.endswith('parameters: 156 + 12 + 1516 + 32 + 48120 + 10164 = 60000')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['configs/vgg.py:F'], "configs/vgg.py has no variant 'F': choose one of A, A-LRN, B"),
        (['configs/vgg19.py:E'], 'no configuration file configs/vgg19.py'),
        (['configs'], 'no configuration file configs'),
        (['setup.cfg', 'configs/vgg.py'], 'unrecognized arguments: configs/vgg.py'),
        ([], 'name one configuration'),
        (['--all', 'configs/vgg.py'], 'name one configuration'),
        (['--all', '--json'], 'takes only --markdown'),
        (['configs/vgg.py:D', '--input=384'], '--input=384: give height x width'),
        (['configs/vgg.py:D', '--input=100x100'], 'takes 224x224'),
        (['configs/vgg.py:D', '--config.model.nam=x'], 'model.name'),
        (['pyproject.toml'], 'pyproject.toml is not a Python file'),
        (['tests/oracles.py'], 'it is not a configuration'),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        summary.main(arguments)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_exit_code_of_a_mistake():
    done = run('configs/vgg.py:F')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.count('\n') == 1


def test_every_network_has_the_figures_its_paper_prints(networks):
    names = [network.name for network in networks]
    assert len(set(names)) == len(names)
    assert set(architectures.PRINTED) <= set(names)
    for network in networks:
        printed = architectures.PRINTED.get(network.name, architectures.Printed())
        ours = {
            'depth': network.depth,
            'parameters': network.parameters,
            'multiply_adds': network.multiply_adds,
        }
        agreeing = [
            architectures.agrees(value, getattr(printed, key))
            for key, value in ours.items()
            if getattr(printed, key)
        ]
        # A note stands where, and only where, the print needs one.
        assert all(agreeing) != bool(printed.note), (network.name, ours, printed)


@pytest.mark.parametrize(
    ('ours', 'printed', 'expected'),
    [
        (138_357_544, '138 M', True),
        (138_500_001, '138 M', False),
        (3_857_973_248, '3.86 G', True),
        (3_857_973_248, '3.8 G', False),
        (22_855_952, '22,855,952', True),
        (22_855_953, '22,855,952', False),
        (1_019_722, '1.0 M', True),
    ],
)
def test_rounding_as_printed(ours, printed, expected):
    assert architectures.agrees(ours, printed) == expected


def test_the_readme_carries_the_table(networks):
    text = (ROOT / 'README.md').read_text()
    begin, end = '<!-- summary:begin -->', '<!-- summary:end -->'
    assert text.count(begin) == text.count(end) == 1
    table = text.partition(begin)[2].partition(end)[0].strip()
    assert table == summary.table(iter(networks), markdown=True), (
        'README.md is stale: put the output of `python -m cnn_arch.summary --all --markdown` '
        f'between {begin} and {end}'
    )
