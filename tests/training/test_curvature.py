"""Second derivatives against back-propagation written out connection by connection, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, models
from cnn_arch.errors import UserError
from cnn_arch.models.lenet1 import H2_H3
from cnn_arch.training import curvature


def slope(a):
    """Of 1.7159 tanh(2 a / 3)."""
    return 1.7159 * 2 / 3 * (1 - np.tanh(2 / 3 * a) ** 2)


def squash(a):
    return 1.7159 * np.tanh(2 / 3 * a)


class Convolution:
    """5x5; `sources[m]` lists the maps below that map m sees, `kernel(c, m)` its 5x5 weights."""

    def __init__(self, sources, kernel, bias):
        self.sources, self.kernel, self.bias = sources, kernel, bias

    def forward(self, x):
        self.x = x
        side = x.shape[0] - 4
        self.a = np.zeros((side, side, len(self.sources)))
        for i, j, m in np.ndindex(self.a.shape):
            self.a[i, j, m] = self.bias[m] + sum(
                (x[i : i + 5, j : j + 5, c] * self.kernel(c, m)).sum() for c in self.sources[m]
            )
        return squash(self.a)

    def backward(self, of_output):
        of_sum = of_output * slope(self.a) ** 2
        of_x = np.zeros_like(self.x)
        of_kernel = {
            (c, m): np.zeros((5, 5)) for m, all_c in enumerate(self.sources) for c in all_c
        }
        for i, j, m in np.ndindex(of_sum.shape):
            for c in self.sources[m]:
                window = self.x[i : i + 5, j : j + 5, c]
                of_kernel[c, m] += of_sum[i, j, m] * window**2
                of_x[i : i + 5, j : j + 5, c] += of_sum[i, j, m] * self.kernel(c, m) ** 2
        return of_x, of_kernel, of_sum.sum(axis=(0, 1))


class Subsampling:
    def __init__(self, coefficient, bias):
        self.coefficient, self.bias = coefficient, bias

    def forward(self, x):
        self.x = x
        self.sums = np.zeros((x.shape[0] // 2, x.shape[1] // 2, x.shape[2]))
        for i, j, c in np.ndindex(self.sums.shape):
            self.sums[i, j, c] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].sum()
        self.a = self.coefficient * self.sums + self.bias
        return squash(self.a)

    def backward(self, of_output):
        of_sum = of_output * slope(self.a) ** 2
        of_x = np.zeros_like(self.x)
        for i, j, c in np.ndindex(of_sum.shape):
            of_x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c] = (
                of_sum[i, j, c] * self.coefficient[c] ** 2
            )
        return of_x, (of_sum * self.sums**2).sum(axis=(0, 1)), of_sum.sum(axis=(0, 1))


def by_loops(params, image):
    """h of one image [28, 28, 1] as LeNet-1 sees it, a tree like params."""
    h1, h2, h3, h4, output = (params[name] for name in ('H1', 'H2', 'H3', 'H4', 'output'))
    below = [[c for c, row in enumerate(H2_H3) if row[m] == 'X'] for m in range(12)]
    place = {pair: n for n, pair in enumerate((c, m) for m in range(12) for c in below[m])}
    layers = [
        Convolution([[0]] * 4, lambda c, m: h1['kernel'][:, :, c, m], h1['bias']),
        Subsampling(h2['coefficient'], h2['bias']),
        Convolution(below, lambda c, m: h3['kernel'][:, :, place[c, m]], h3['bias']),
        Subsampling(h4['coefficient'], h4['bias']),
    ]
    x = image
    for layer in layers:
        x = layer.forward(x)
    kernel = output['kernel']  # [192, 10]
    a = x.reshape(-1) @ kernel + output['bias']
    of_sum = 2 / 10 * slope(a) ** 2  # the loss is the mean of ten squares
    h = {'output': {'kernel': np.outer(x.reshape(-1) ** 2, of_sum), 'bias': of_sum}}
    of_x = (kernel**2 @ of_sum).reshape(x.shape)
    of_x, coefficient, bias = layers[3].backward(of_x)
    h['H4'] = {'coefficient': coefficient, 'bias': bias}
    of_x, kernels, bias = layers[2].backward(of_x)
    h['H3'] = {'kernel': np.stack([kernels[pair] for pair in place], axis=-1), 'bias': bias}
    of_x, coefficient, bias = layers[1].backward(of_x)
    h['H2'] = {'coefficient': coefficient, 'bias': bias}
    _, kernels, bias = layers[0].backward(of_x)
    h['H1'] = {
        'kernel': np.stack([kernels[0, m] for m in range(4)], axis=-1)[:, :, None],
        'bias': bias,
    }
    return h


def test_lenet1_against_loops():
    config = configuration.load('configs/lenet.py:lenet1')
    model = models.build(config.model)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 28, 28, 1)).astype(np.float32)
    labels = jnp.asarray([3, 8])
    params = model.init(jax.random.key(0), images)['params']
    ours = jax.jit(curvature.diagonal(model, config))(params, images, labels)

    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    seen = np.asarray(model.apply({'params': params}, images)[1]['input'], np.float64)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *(by_loops(wide, image) for image in seen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours, expected)


def test_of_a_layer_whose_outputs_meet_no_more_it_is_the_gauss_newton_diagonal():
    """The last layer's: no mixed terms to drop, so J^T H J of all its parameters has it."""
    config = configuration.load('configs/lenet.py:lenet1')
    model = models.build(config.model)
    images = jax.random.uniform(jax.random.key(1), (1, 28, 28, 1), minval=-1.0)
    params = model.init(jax.random.key(0), images)['params']
    ours = curvature.diagonal(model, config)(params, images, jnp.asarray([3]))

    def logits(output):
        return model.apply({'params': {**params, 'output': output}}, images)[0][0]

    jacobian = jax.jacrev(logits)(params['output'])  # [10, ...]
    expected = jax.tree.map(lambda j: (2 / 10 * j**2).sum(axis=0), jacobian)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours['output'], expected)


def test_other_networks_are_refused():
    config = configuration.load('configs/lenet.py:lenet5')
    assert not curvature.wanted(config)
    config.optim.rule = 'levenberg_marquardt'
    with pytest.raises(UserError, match='lenet1 alone, not through lenet5'):
        curvature.wanted(config)
