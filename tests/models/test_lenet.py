"""LeNet-1 and LeNet-5 against what their papers print and against slow loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, summary
from cnn_arch.errors import UserError
from cnn_arch.models import lenet1, lenet5
from tests import oracles

# The loops: one unit, one connection at a time, as the papers describe them. They count as they go.


def squash(a):
    return 1.7159 * np.tanh(2 / 3 * a)


class Loops:
    """Layers on maps [H, W, C] of one image; `connections` of each layer, biases included."""

    def __init__(self, params):
        self.params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
        self.connections = {}
        self.outputs = {}

    def keep(self, name, x, connections):
        self.connections[name] = connections
        self.outputs[name] = x
        return x

    def convolution(self, name, x, sources):
        """5x5; `sources[m]` lists the maps below that map m sees. Kernel [5, 5, below, here]."""
        kernel, bias = self.params[name]['kernel'], self.params[name]['bias']
        side = x.shape[0] - 4
        y = np.zeros((side, side, len(sources)))
        connections = taken = 0
        for m, below in enumerate(sources):
            for i in range(side):
                for j in range(side):
                    total = bias[m]
                    for place, c in enumerate(below):
                        # A table's kernel is stored connection by connection.
                        weights = (
                            kernel[:, :, taken + place] if kernel.ndim == 3 else kernel[:, :, c, m]
                        )
                        total += (x[i : i + 5, j : j + 5, c] * weights).sum()
                        connections += 25
                    connections += 1
                    y[i, j, m] = squash(total)
            taken += len(below)
        if kernel.ndim == 3:
            assert taken == kernel.shape[2]
        return self.keep(name, y, connections)

    def subsampling(self, name, x):
        coefficient, bias = self.params[name]['coefficient'], self.params[name]['bias']
        y = np.zeros((x.shape[0] // 2, x.shape[1] // 2, x.shape[2]))
        for i, j, c in np.ndindex(y.shape):
            four = x[2 * i, 2 * j, c], x[2 * i, 2 * j + 1, c], x[2 * i + 1, 2 * j, c]
            total = sum(four) + x[2 * i + 1, 2 * j + 1, c]
            y[i, j, c] = squash(coefficient[c] * total + bias[c])
        return self.keep(name, y, y.size * 5)

    def fully_connected(self, name, x):
        kernel, bias = self.params[name]['kernel'], self.params[name]['bias']
        inputs = [x[place] for place in np.ndindex(x.shape)]
        y = np.array(
            [
                squash(bias[u] + sum(value * kernel[k, u] for k, value in enumerate(inputs)))
                for u in range(kernel.shape[1])
            ]
        )
        return self.keep(name, y, kernel.size + bias.size)


# Table 1 of the 1990 paper: H2's map -> the maps of H3 it feeds, counted from 1.
H3_FED_BY_H2 = {
    1: [1, 2, 3, 5, 6],
    2: [2, 3, 4, 5, 6],
    3: [7, 8, 9, 11, 12],
    4: [8, 9, 10, 11, 12],
}
# Table I of the 1998 paper: C3's map -> the maps of S2 it sees, counted from 0.
C3_SEES_S2 = {
    0: [0, 1, 2], 1: [1, 2, 3], 2: [2, 3, 4], 3: [3, 4, 5], 4: [0, 4, 5], 5: [0, 1, 5],
    6: [0, 1, 2, 3], 7: [1, 2, 3, 4], 8: [2, 3, 4, 5], 9: [0, 3, 4, 5], 10: [0, 1, 4, 5],
    11: [0, 1, 2, 5], 12: [0, 1, 3, 4], 13: [1, 2, 4, 5], 14: [0, 2, 3, 5],
    15: [0, 1, 2, 3, 4, 5],
}  # fmt: skip


def lenet1_by_loops(params, image):
    net = Loops(params)
    h3 = [[r - 1 for r in range(1, 5) if m in H3_FED_BY_H2[r]] for m in range(1, 13)]
    x = net.convolution('H1', image, [[0]] * 4)
    x = net.subsampling('H2', x)
    x = net.convolution('H3', x, h3)
    x = net.subsampling('H4', x)
    net.fully_connected('output', x)
    return net


def lenet5_by_loops(params, image, penalty_targets):
    net = Loops(params)
    x = net.convolution('C1', image, [[0]] * 6)
    x = net.subsampling('S2', x)
    x = net.convolution('C3', x, [C3_SEES_S2[m] for m in range(16)])
    x = net.subsampling('S4', x)
    x = net.fully_connected('C5', x)
    x = net.fully_connected('F6', x)
    penalties = [sum((v - t) ** 2 for v, t in zip(x, target, strict=True))
                 for target in penalty_targets]  # fmt: skip
    net.keep('output', np.array(penalties), len(penalties) * len(x))
    return net


def random_variables(model, seed=0):
    """Initialised variables, made larger so that squashing bends and every weight counts."""
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 28, 28, 1)))
    return jax.tree.map(lambda p: 2 * p, variables)


def parameters(variables):
    return {
        name: sum(p.size for p in layer.values()) for name, layer in variables['params'].items()
    }


def test_lenet1_against_loops():
    model = lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1'], reduce=False)
    variables = random_variables(model)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 28, 28, 1)).astype(np.float32)
    logits, endpoints = oracles.in_float64(model)(variables, images)
    for n, image in enumerate(images):
        net = lenet1_by_loops(variables['params'], image.astype(np.float64))
        for name, want in net.outputs.items():
            oracles.assert_close(endpoints[name][n], want)
        oracles.assert_close(logits[n], net.outputs['output'])

    # 784 inputs, 3,840 hidden units, 10 outputs and the bias: 4,635 units are printed.
    assert 784 + sum(y.size for y in net.outputs.values()) + 1 == 4635
    assert sum(net.connections.values()) == 98_442
    assert parameters(variables) == {'H1': 104, 'H2': 8, 'H3': 512, 'H4': 24, 'output': 1930}
    assert sum(parameters(variables).values()) == 2578
    assert len(variables['params']['H3']['kernel'][0, 0]) == 20


def test_lenet5_against_loops():
    model = lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'])
    variables = random_variables(model)
    images = np.random.default_rng(1).uniform(-0.1, 1.175, (2, 28, 28, 1)).astype(np.float32)
    logits, endpoints = oracles.in_float64(model)(variables, images)
    targets = [figure_3(digit) for digit in range(10)]
    for n, image in enumerate(images):
        field = np.full((32, 32, 1), -0.1)
        field[2:30, 2:30] = image
        net = lenet5_by_loops(variables['params'], field, targets)
        for name, want in net.outputs.items():
            oracles.assert_close(endpoints[name][n], want)
        oracles.assert_close(logits[n], -net.outputs['output'])

    assert parameters(variables) == {
        'C1': 156, 'S2': 12, 'C3': 1516, 'S4': 32, 'C5': 48120, 'F6': 10164,
    }  # fmt: skip
    assert sum(parameters(variables).values()) == 60_000
    # The proceedings print 156,000 for C3 and 345,308 in all; 1,516 x 100 is the preprint's.
    assert net.connections == {
        'C1': 122_304, 'S2': 5880, 'C3': 151_600, 'S4': 2000, 'C5': 48_120, 'F6': 10_164,
        'output': 840,
    }  # fmt: skip
    assert sum(net.connections.values()) == 340_908


def test_summary_counts_only_what_the_tables_connect():
    """The printed connections are a layer's multiply-adds and one bias for each unit."""
    config = configuration.load(f'{configuration.CONFIGS}/lenet.py:lenet5')
    layers = {layer.name: layer for layer in summary.summarise('LeNet-5', config).layers}
    for name, units, printed in (
        ('C1', 28 * 28 * 6, 122_304),
        ('C3', 10 * 10 * 16, 151_600),
        ('C5', 120, 48_120),
        ('F6', 84, 10_164),
    ):
        assert layers[name].multiply_adds + units == printed
    config = configuration.load(f'{configuration.CONFIGS}/lenet.py:lenet1')
    layers = {layer.name: layer for layer in summary.summarise('LeNet-1', config).layers}
    assert layers['H3'].multiply_adds + 8 * 8 * 12 == 32_768


def figure_3(digit):
    """The bitmap of a digit as its strokes, in {-1, 1}, row by row (figure 3 of the paper).

    Written as runs of ink per row (first column, last column), to be independent of the literal.
    """
    strokes = {
        0: ['1-5', '', '2-4', '1-2 4-5', '0-1 5-6', '0-1 5-6', '0-1 5-6', '0-1 5-6', '1-2 4-5',
            '2-4'],
        1: ['3-4', '2-4', '1-4', '3-4', '3-4', '3-4', '3-4', '3-4', '3-4', '1-6'],
        2: ['1-5', '', '1-5', '0-1 5-6', '0-0 5-6', '4-5', '2-4', '1-2', '0-1', '0-6'],
        3: ['0-6', '5-6', '4-5', '3-4', '2-5', '5-6', '5-6', '5-6', '0-1 5-6', '1-5'],
        4: ['1-5', '', '', '1-2 5-6', '1-2 5-6', '0-2 5-6', '0-1 5-6', '0-1 5-6', '0-1 4-6',
            '1-6', '5-6', '5-6'],
        5: ['1-5', '', '0-6', '0-1', '0-1', '1-4', '2-5', '5-6', '0-1 5-6', '1-5'],
        6: ['2-5', '1-2', '0-1', '0-1', '0-5', '0-2 5-6', '0-1 5-6', '0-1 5-6', '0-2 5-6', '1-5'],
        7: ['0-6', '5-6', '5-6', '4-5', '3-4', '3-4', '2-3', '2-3', '2-3', '2-3'],
        8: ['1-5', '0-1 5-6', '0-1 5-6', '0-1 5-6', '1-5', '0-1 5-6', '0-1 5-6', '0-1 5-6',
            '0-1 5-6', '1-5'],
        9: ['1-5', '0-1 4-6', '0-1 5-6', '0-1 5-6', '0-1 4-6', '1-6', '5-6', '5-6', '4-5', '1-4'],
    }  # fmt: skip
    picture = np.full((12, 7), -1)
    for row, runs in enumerate(strokes[digit]):
        for run in runs.split():
            first, last = map(int, run.split('-'))
            picture[row, first : last + 1] = 1
    return picture.ravel()


def test_bitmaps_are_those_of_figure_3():
    assert lenet5.RBF.shape == (10, 84)
    for digit in range(10):
        np.testing.assert_array_equal(lenet5.RBF[digit], figure_3(digit))


def test_bitmaps_are_constants():
    model = lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'])
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert list(variables) == ['params']
    assert 840 not in [p.size for p in jax.tree.leaves(variables)]


def test_c3_table_by_rows():
    """Table I read the other way: which of C3's maps each map of S2 feeds."""
    rows = [[m for m, mark in enumerate(row) if mark == 'X'] for row in lenet5.S2_C3]
    assert rows == [
        [0, 4, 5, 6, 9, 10, 11, 12, 14, 15],
        [0, 1, 5, 6, 7, 10, 11, 12, 13, 15],
        [0, 1, 2, 6, 7, 8, 11, 13, 14, 15],
        [1, 2, 3, 6, 7, 8, 9, 12, 14, 15],
        [2, 3, 4, 7, 8, 9, 10, 12, 13, 15],
        [3, 4, 5, 8, 9, 10, 11, 13, 14, 15],
    ]


def test_lenet5_takes_the_field_already_extended():
    model = lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'])
    variables = random_variables(model)
    images = np.random.default_rng(1).uniform(-0.1, 1.175, (3, 28, 28, 1)).astype(np.float32)
    field = np.full((3, 32, 32, 1), -0.1, np.float32)
    field[:, 2:30, 2:30] = images
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(variables, images)[0], apply(variables, field)[0])


def test_reduction_of_the_digits_by_four_fifths():
    """Each new pixel against the exact integral of the pixels it covers."""
    images = np.random.default_rng(2).uniform(-1, 1, (2, 28, 28, 1)).astype(np.float32)
    got = np.asarray(lenet1.reduce_digits(images))
    for n, i, j in [(0, 14, 14), (1, 13, 20), (0, 3, 3), (1, 24, 9), (0, 2, 14), (1, 0, 0)]:
        top, left = 14 + (i - 14) * 1.25, 14 + (j - 14) * 1.25
        total = 0.0
        for y in range(-5, 33):
            for x in range(-5, 33):
                height = max(0.0, min(top + 1.25, y + 1) - max(top, y))
                width = max(0.0, min(left + 1.25, x + 1) - max(left, x))
                inside = 0 <= y < 28 and 0 <= x < 28
                value = float(images[n, y, x, 0]) if inside else -1.0
                total += value * height * width
        np.testing.assert_allclose(got[n, i, j, 0], total / 1.25**2, atol=1e-6)


def test_reduction_makes_16x16_of_20x20():
    image = np.full((1, 28, 28, 1), -1.0, np.float32)
    image[:, 4:24, 4:24] = 1.0
    want = np.full((28, 28), -1.0)
    want[6:22, 6:22] = 1.0
    np.testing.assert_allclose(lenet1.reduce_digits(image)[0, ..., 0], want, atol=1e-6)
    model = lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1'])
    _, endpoints = jax.jit(model.apply)(random_variables(model), image)
    np.testing.assert_allclose(endpoints['input'][0, ..., 0], want, atol=1e-6)


@pytest.mark.parametrize(
    ('cls', 'variant', 'limits'),
    [
        (lenet1.LeNet1, lenet1.VARIANTS['LeNet-1'],
         {'H1': 25, 'H2': 4, 'H4': 4, 'output': 192}),
        (lenet5.LeNet5, lenet5.VARIANTS['LeNet-5'],
         {'C1': 25, 'S2': 4, 'S4': 4, 'C5': 400, 'F6': 120}),
    ],
)  # fmt: skip
def test_initialisation_is_uniform_over_the_fan_in(cls, variant, limits):
    params = jax.jit(cls(**variant).init)(jax.random.key(3), jnp.zeros((1, 28, 28, 1)))['params']
    for name, inputs in limits.items():
        values = np.concatenate([np.ravel(p) for p in params[name].values()])
        assert np.abs(values).max() <= 2.4 / inputs
        if values.size > 1000:  # the width of a uniform distribution, and no bias to one side
            assert np.abs(values).max() > 0.99 * 2.4 / inputs
            np.testing.assert_allclose(values.std(), 2.4 / inputs / np.sqrt(3), rtol=0.05)
            assert np.abs(values.mean()) < 0.05 * 2.4 / inputs


def test_initialisation_of_c3_follows_each_maps_own_fan_in():
    model = lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'])
    params = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 28, 28, 1)))['params']
    kernel = np.asarray(params['C3']['kernel'])
    taken = 0
    for below in C3_SEES_S2.values():
        mine = kernel[:, :, taken : taken + len(below)]
        limit = 2.4 / (25 * len(below))
        assert 0.9 * limit < np.abs(mine).max() <= limit
        taken += len(below)


def test_bfloat16_computes_and_returns_float32():
    for model in (
        lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1'], dtype=jnp.bfloat16),
        lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'], dtype=jnp.bfloat16),
    ):
        variables = random_variables(model)
        images = np.random.default_rng(0).uniform(-0.1, 1, (4, 28, 28, 1)).astype(np.float32)
        logits, endpoints = jax.jit(model.apply)(variables, images)
        exact, _ = jax.jit(model.clone(dtype=jnp.float32).apply)(variables, images)
        assert logits.dtype == jnp.float32
        hidden = 'H4' if 'H4' in endpoints else 'F6'
        assert endpoints[hidden].dtype == jnp.bfloat16
        np.testing.assert_allclose(logits, exact, rtol=0.1, atol=0.1)


def test_wrong_sizes_and_classes_are_told():
    key = jax.random.key(0)
    for model in (
        lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1']),
        lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5']),
    ):
        with pytest.raises(UserError, match=r'data\.augment\.size = 28'):
            model.init(key, jnp.zeros((1, 8, 8, 1)))
        with pytest.raises(UserError, match=r'data\.channels = 1'):
            model.init(key, jnp.zeros((1, 28, 28, 3)))
    model = lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5'], num_classes=1000)
    with pytest.raises(UserError, match='bitmaps for 10 digits'):
        model.init(key, jnp.zeros((1, 28, 28, 1)))
