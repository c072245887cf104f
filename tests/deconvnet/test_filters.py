"""Frequencies of filters that are known waves, and the first layers of the two papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch.deconvnet import filters
from cnn_arch.deconvnet.filters import Filters
from cnn_arch.errors import UserError
from tests.deconvnet.test_receptive_field import network_of


def wave(frequency, size, angle=0.0):
    """A windowed cosine of so many cycles per pixel, [size, size, 3]."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    window = np.outer(np.hanning(size + 2)[1:-1], np.hanning(size + 2)[1:-1])
    return np.repeat((np.cos(2 * np.pi * frequency * along) * window)[..., None], 3, axis=-1)


def stack(*kernels):
    return np.stack(kernels, axis=-1)


def test_bands_and_dead_filters():
    size = 41  # long enough for a wave to be one frequency
    kernels = stack(*(wave(f, size, a) for f in (0.05, 0.15, 0.2, 0.4) for a in (0.0, 0.7)),
                    np.zeros((size, size, 3)), wave(0.2, size) * 1e-3)  # fmt: skip
    measures = Filters('waves', kernels, 4).measures()
    assert measures['dead filters'] == 20.0
    assert measures['filters of low frequency'] == 25.0
    assert measures['filters of middle frequency'] == 50.0
    assert measures['filters of high frequency'] == 25.0
    assert measures['power in the middle band'] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(('stride', 'folded'), [(1, 0), (2, 0), (4, 100)])
def test_a_stride_folds_what_is_beyond_half_a_cycle(stride, folded):
    """0.2 cycles per pixel are 0.4 per stride of 2, and 0.8 per stride of 4."""
    measures = Filters('wave', stack(wave(0.2, 41)), stride).measures()
    assert measures['power that the stride folds'] == pytest.approx(folded, abs=1)


def test_first_layers_are_found_with_their_strides():
    for name, shape, stride in (
        ('alexnet:one_tower', (11, 11, 3, 64), 4),
        ('zfnet:a', (7, 7, 3, 96), 2),
        ('lenet:lenet1', (5, 5, 1, 4), 1),
    ):
        network, _ = network_of(name)
        first = jax.tree.map(lambda x: x, network.abstract_variables)
        layer = next(k for k, v in first['params'].items() if v['kernel'].shape == shape)
        given = {'params': {layer: {'kernel': jnp.ones(shape), 'bias': jnp.zeros(shape[-1])}}}
        found = filters.of(network, given, name)
        assert (found.kernels.shape, found.stride) == (shape, stride)
        with pytest.raises(UserError, match=f'{name}: the filters of the first layer are missing'):
            filters.of(network, {'params': {}}, name)
