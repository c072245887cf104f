"""Evaluation multiplies in float32 whatever the platform, the training or JAX's settings say.

A CPU multiplies float32 as float32 anyway, so what is asked of the platform is read off the traced
programs: what accelerators shorten are convolutions and matrix products.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, models
from cnn_arch import mesh as meshes
from cnn_arch.deconvnet import network as inspected
from cnn_arch.deconvnet import projection
from cnn_arch.errors import UserError
from cnn_arch.evaluation import dense, protocols
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.precision import PRODUCTS
from cnn_arch.evaluation.store import Store
from cnn_arch.models import lenet1, lenet5
from cnn_arch.models.backward import RULES
from launch import ahead
from tests.evaluation import test_ragged
from tests.evaluation.common import CLASSES, Pictures, mesh_of, random_variables, small_config

HIGHEST, DEFAULT = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
SLOW = pytest.mark.slow  # dozens of traces of a deep network
PRODUCT_NAMES = ('conv_general_dilated', 'dot_general')
# Every family with the side of its images; those of test_ragged.py also see whole images.
LENETS = {
    'lenet1': (lenet1.LeNet1(**lenet1.VARIANTS['LeNet-1'], num_classes=10), 28),
    'lenet5': (lenet5.LeNet5(**lenet5.VARIANTS['LeNet-5']), 28),
}
FAMILIES = {**test_ragged.FAMILIES, **LENETS}


def equations(traced: Any) -> Iterator[Any]:
    """Those of a program and of all that it calls."""
    if isinstance(traced, jax.extend.core.ClosedJaxpr):
        traced = traced.jaxpr
    for equation in traced.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
        ):
            if hasattr(value, 'eqns'):
                yield from equations(value)


def products(traced: Any) -> list[Any]:
    found = [e for e in equations(traced) if e.primitive.name in PRODUCT_NAMES]
    assert found
    return found


def network_of(family: str, dtype: Any, precision: str) -> tuple[networks.Network, Any, Any]:
    """The network on one device, its variables' shapes and those of images."""
    model, side = FAMILIES[family]
    channels = 1 if family in LENETS else 3
    config = small_config('dense')
    with config.unlocked():
        config.data.augment.size, config.data.channels = side, channels
        config.data.mean = config.data.std = (100.0,) * channels
        config.eval.precision = precision
    model = model.clone(dtype=dtype)
    variables = dense.abstract_variables(model, side, channels)
    plan = protocols.resolve(config)
    network = networks.Network.create(model, config, plan, mesh_of(1))
    return network, variables, jax.ShapeDtypeStruct((2, side, side, channels), jnp.uint8)


def program(family: str, dtype: Any, precision: str, whole: bool = False) -> Any:
    """The family's evaluation of windows, or of whole images of any size."""
    network, variables, images = network_of(family, dtype, precision)
    total = jax.ShapeDtypeStruct((2, network.model.num_classes), jnp.float32)
    arguments = (total, np.float32(1), variables, images)
    if not whole:
        return networks.add_windows.trace(*arguments, network=network).jaxpr
    facts = network.ragged().facts(np.asarray([images.shape[1:3]] * 2))
    return networks.add_whole.trace(*arguments, facts, network=network).jaxpr


@pytest.mark.parametrize(
    ('family', 'whole'),
    [
        *((family, False) for family in FAMILIES),
        *(
            pytest.param(family, True, marks=() if family in ('vgg', 'se_resnet') else SLOW)
            for family in test_ragged.FAMILIES
        ),
    ],
)
def test_every_product_of_every_family_is_float32(family, whole):
    # What JAX_DEFAULT_MATMUL_PRECISION sets: it has no say.
    with jax.default_matmul_precision('bfloat16'):
        for product in products(program(family, jnp.bfloat16, 'float32', whole)):
            assert set(product.params['precision']) == {HIGHEST}, product
            assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.float32)}, product


def test_fast_is_what_the_platform_does():
    with jax.default_matmul_precision('highest'):
        for whole in (False, True):
            *hidden, classifier = products(program('vgg', jnp.bfloat16, 'fast', whole))
            assert {v.aval.dtype for p in hidden for v in p.invars} == {jnp.dtype(jnp.bfloat16)}
            assert {v.aval.dtype for v in classifier.invars} == {jnp.dtype(jnp.float32)}
            for product in (*hidden, classifier):
                assert set(product.params['precision']) == {DEFAULT}


def test_pixels_are_resized_in_float32_in_any_case():
    images = jax.ShapeDtypeStruct((2, 40, 40, 3), jnp.uint8)
    with jax.default_matmul_precision('bfloat16'):
        for product in products(networks.resize.trace(images, size=32).jaxpr):
            assert HIGHEST in np.ravel(product.params['precision'])


def test_a_tpu_is_asked_for_it():
    """The program that XLA gets for another platform than this."""
    network, variables, images = network_of('senet154', jnp.bfloat16, 'float32')
    total = jax.ShapeDtypeStruct((2, CLASSES), jnp.float32)
    traced = networks.add_windows.trace(total, np.float32(1), variables, images, network=network)
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    lines = [
        line for line in text.splitlines() if '.convolution(' in line or '.dot_general' in line
    ]
    assert len(lines) > 10
    assert all('HIGHEST' in line and 'DEFAULT' not in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize('precision', PRODUCTS)
def test_a_tpus_compiler_keeps_it(precision):
    """Compiled for a pod that is not there; on it float32 is multiplied in bfloat16 otherwise."""
    devices = meshes.create_mesh(small_config().mesh, ahead.find_pod('v5e:2x2').devices)
    config = small_config()
    config.eval.precision = precision
    model = models.build(config.model)
    network = networks.Network.create(model, config, protocols.resolve(config), devices)

    def laid(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    shapes = dense.abstract_variables(model, 32, 3)
    variables = jax.tree.map(lambda leaf: laid(leaf, meshes.replicated(devices)), shapes)
    rows = meshes.batch_sharding(devices)
    total = laid(np.zeros((8, CLASSES), np.float32), rows)
    images = laid(np.zeros((8, 32, 32, 3), np.uint8), rows)
    lowered = networks.add_windows.lower(total, np.float32(1), variables, images, network)
    lines = [
        line
        for line in lowered.compile().as_text().splitlines()
        if re.search(r'\b(convolution|dot)\(', line)
    ]
    assert len(lines) == 6  # three convolutions, three fully connected layers
    asked = ['operand_precision={highest,highest}' in line for line in lines]
    assert asked == [precision == 'float32'] * 6


@pytest.mark.parametrize('method', RULES)
def test_what_the_deconvnet_shows_too(method):
    """Forwards and back."""
    config = small_config()
    config.model.dtype = 'bfloat16'
    network = inspected.Network.create(config, mesh_of(1))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    units = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    corners = jax.ShapeDtypeStruct((2, 3, 2), jnp.int32)
    with jax.default_matmul_precision('bfloat16'):
        traced = projection.project.trace(
            network.abstract_variables, images, units, units, corners, network, 'conv3_1', method,
            (16, 16),
        )  # fmt: skip
        for product in products(traced.jaxpr):
            assert set(product.params['precision']) == {HIGHEST}, product


@pytest.fixture(scope='module')
def variables():
    return random_variables(models.build(small_config().model), 32)


def posteriors(folder, variables, protocol, dtype, precision) -> np.ndarray:
    config, source = small_config(protocol), Pictures()
    config.model.dtype, config.eval.precision = dtype, precision
    store = Store(folder / f'{dtype}_{precision}', len(source), CLASSES)
    evaluate(models.build(config.model), variables, source, config, mesh_of(1), store=store)
    return store.posteriors


@pytest.mark.parametrize('protocol', ['center', 'dense'])
def test_a_network_trained_in_bfloat16_is_evaluated_in_float32(tmp_path, variables, protocol):
    exact, also, fast = (
        posteriors(tmp_path, variables, protocol, *how)
        for how in (('float32', 'float32'), ('bfloat16', 'float32'), ('bfloat16', 'fast'))
    )
    np.testing.assert_array_equal(exact, also)
    assert 1e-4 < np.abs(exact - fast).max() < 0.1


def test_networks_of_different_precision_share_nothing():
    made = [network_of('vgg', jnp.float32, precision)[0] for precision in PRODUCTS]
    assert made[0] != made[1]
    assert dataclasses.replace(made[0], precision='fast') == made[1]


def test_another_precision_is_refused():
    config = small_config()
    config.eval.precision = 'highest'
    with pytest.raises(UserError, match=r"eval.precision = 'highest': choose one of float32, fast"):
        configuration.validate(config)
