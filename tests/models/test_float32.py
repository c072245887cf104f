"""What float32 adds to each family's network: no more than rounding must.

The other tests compare in float64, where they show that the network is the right one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch.models import MODELS
from tests import oracles

# By family: a variant, the image's side and channels, fields that make it small.
SMALL = {
    'lenet1': ('LeNet-1', 28, 1, {}),
    'lenet5': ('LeNet-5', 28, 1, {}),
    'alexnet': ('two_tower', 224, 3, {'fc_units': 64}),
    'zfnet': ('a', 224, 3, {'fc_units': 64}),
    'vgg': ('A', 32, 3, {'input_size': 32, 'fc_units': 64}),
    'googlenet': ('googlenet', 64, 3, {'auxiliary': False}),
    'bn_inception': ('se_bn_inception', 64, 3, {}),
    'resnet': ('50', 64, 3, {'blocks': (1, 1, 1, 1)}),
    'senet': ('se_resnext50', 64, 3, {'blocks': (1, 1, 1, 1)}),
    'densenet': ('121', 64, 3, {'blocks': (2, 2, 2, 2)}),
    'xception': ('xception', 71, 3, {'blocks': ((128, 128, 'pool'), (128, 128))}),
}


def build(family):
    variant, size, channels, fields = SMALL[family]
    cls, variants = MODELS[family]
    model = cls(**{**variants[variant], **fields})
    variables = oracles.random_variables(model, size, channels)
    return model, variables, oracles.random_images(2, size, size, channels)


def test_every_family_has_its_check():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize('family', MODELS)
def test_float32_is_as_near_to_float64_as_its_rounding_allows(family):
    model, variables, images = build(family)
    exact, bound = oracles.float32_bound(model, variables, images)
    assert exact.dtype == np.float64
    ours, _ = oracles.jit(model.apply)(variables, images)
    assert ours.dtype == jnp.float32
    oracles.assert_close(ours, exact, bound)


@pytest.mark.parametrize('bits', [10, 7], ids=['TF32', 'bfloat16'])
def test_weights_of_fewer_bits_do_not_pass(bits):
    """Rounding the weights alone as the fast units of accelerators do is seen."""
    model, variables, images = build('vgg')
    exact, bound = oracles.float32_bound(model, variables, images)

    def rounded(leaf):
        mantissa, exponent = np.frexp(leaf)  # in [0.5, 1)
        return np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)

    coarse, _ = oracles.jit(model.apply)(jax.tree.map(rounded, variables), images)
    assert oracles.distance(coarse, exact) > 10 * bound
