"""Layouts over devices: what lies where, and that it changes no result."""

import dataclasses
import functools
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.errors import UserError
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.models.alexnet import OVERHANG
from cnn_arch.training import checkpoint
from cnn_arch.training import step as steps
from configs import base
from tests.evaluation.common import Pictures, random_variables, small_config

UNITS = 32  # of fc6 and fc7
# The papers' layers, kernels and strides with few maps.
NARROW: dict[str, tuple[str, int, dict[str, Any]]] = {
    'alexnet': ('two_tower', 224, {'layers': [
        (4, 11, 4, OVERHANG, 1, 'norm pool'), (8, 5, 1, 2, 2, 'norm pool'), (8, 3, 1, 1, 1, ''),
        (8, 3, 1, 1, 2, ''), (4, 3, 1, 1, 2, 'pool')]}),
    'zfnet': ('a', 224, {'layers': [
        (4, 7, 2, 1, 'pool norm'), (8, 5, 2, 0, 'pool norm'), (8, 3, 1, 1, ''), (8, 3, 1, 1, ''),
        (4, 3, 1, 1, 'pool')]}),
    'vgg': ('A', 32, {'layers': (8, 'M', 8, 'M', 16, 'M'), 'input_size': 32}),
}  # fmt: skip
CLASSES = 10  # which four devices do not divide


def mesh_of(data: int, model: int) -> Mesh:
    return jax.make_mesh(
        (data, model), (meshes.DATA, meshes.MODEL), devices=jax.devices()[: data * model],
        axis_types=(AxisType.Auto, AxisType.Auto),
    )  # fmt: skip


def network(
    family: str, shard_optimiser: bool = False
) -> tuple[nn.Module, ml_collections.ConfigDict]:
    variant, side, options = NARROW[family]
    config = base.get_config()
    config.model.name, config.model.variant, config.model.num_classes = family, variant, CLASSES
    config.model.options.update(options | {'fc_units': UNITS, 'dropout': 0.5})
    config.data.augment.size = side
    config.data.std = (50.0, 50.0, 50.0)
    config.optim.learning_rate, config.optim.weight_decay = 0.01, 5e-4
    config.optim.rule = 'alexnet' if family == 'alexnet' else 'momentum'
    config.optim.filter_rms = 0.1 if family == 'zfnet' else 0.0
    config.mesh.shard_optimiser = shard_optimiser
    return models.build(config.model), config


def batches(side: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            'image': rng.integers(0, 256, (8, side, side, 3)).astype(np.uint8),
            'label': rng.integers(0, CLASSES, 8).astype(np.int32),
        }
        for _ in range(3)
    ]


@functools.cache
def fresh(family: str) -> steps.TrainState:
    """The first state on one device; made once, for its compilation takes seconds."""
    return jax.device_get(steps.create_state(*network(family), mesh_of(1, 1)))


@functools.cache
def trained(family: str, mesh: Mesh, shard_optimiser: bool = False) -> tuple[Any, list[float]]:
    """The state after three steps, and their losses."""
    model, config = network(family, shard_optimiser)
    layout = meshes.shardings(steps.abstract_state(model, config, mesh))
    state = jax.device_put(fresh(family), layout)
    train_step = steps.compile_train_step(model, config, mesh, 10.0)
    losses = []
    for batch in batches(config.data.augment.size):
        state, metrics = train_step(state, meshes.to_devices(mesh, batch, 8))
        losses.append(float(metrics['loss']))
    return state, losses


@pytest.mark.parametrize(
    ('family', 'data', 'model', 'shard_optimiser'),
    [
        ('vgg', 4, 2, False),
        ('vgg', 2, 4, True),
        pytest.param('vgg', 4, 2, True, marks=pytest.mark.slow),
        pytest.param('vgg', 2, 4, False, marks=pytest.mark.slow),
        pytest.param('alexnet', 4, 2, False, marks=pytest.mark.slow),
        pytest.param('alexnet', 2, 4, True, marks=pytest.mark.slow),
        pytest.param('zfnet', 2, 4, False, marks=pytest.mark.slow),
        pytest.param('zfnet', 4, 2, True, marks=pytest.mark.slow),
    ],
)
def test_a_layout_changes_no_result(
    family: str, data: int, model: int, shard_optimiser: bool
) -> None:
    """Losses, parameters and momentum within 1e-5 of one device's, with dropout."""
    expected, losses = trained(family, mesh_of(1, 1))
    state, sharded_losses = trained(family, mesh_of(data, model), shard_optimiser)
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-5)
    for one, many in zip(
        jax.tree.leaves(expected.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
    for one, many in zip(
        jax.tree.leaves(expected.optimiser), jax.tree.leaves(state.optimiser), strict=True
    ):
        scale = np.abs(one).max()
        assert scale > 0, 'a parameter that did not move'
        np.testing.assert_allclose(many / scale, one / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('family', NARROW)
def test_a_layout_does_not_change_the_first_state(family: str) -> None:
    state = steps.create_state(*network(family, shard_optimiser=True), mesh_of(2, 4))
    for one, many in zip(jax.tree.leaves(fresh(family)), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(many, one)


def local_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    assert leaf.sharding is not None
    return leaf.sharding.shard_shape(leaf.shape)


def test_each_device_holds_its_part() -> None:
    state = steps.abstract_state(*network('vgg', shard_optimiser=True), mesh_of(4, 2))
    params, momentum = state.params, state.optimiser[1].trace
    inputs = 4 * 4 * 16
    assert local_shape(params['fc6']['kernel']) == (inputs, UNITS // 2)
    assert local_shape(params['fc6']['bias']) == (UNITS // 2,)
    assert local_shape(params['fc7']['kernel']) == (UNITS, UNITS // 2)
    assert local_shape(params['fc8']['kernel']) == (UNITS // 2, CLASSES)
    assert local_shape(params['fc8']['bias']) == (CLASSES,)
    assert local_shape(params['conv1_1']['kernel']) == (3, 3, 3, 8)
    assert local_shape(momentum['fc6']['kernel']) == (inputs // 4, UNITS // 2)
    assert local_shape(momentum['fc8']['kernel']) == (UNITS // 2, CLASSES)  # 10 classes stay whole
    assert local_shape(momentum['conv1_1']['kernel']) == (3, 3, 3, 2)


def test_weights_of_fully_connected_layers_do_not_travel() -> None:
    """XLA finds Krizhevsky's scheme: maps and units are gathered, kernels never are."""
    model, config = network('vgg')
    mesh = mesh_of(2, 4)
    state = steps.abstract_state(model, config, mesh)
    batch = meshes.to_devices(mesh, batches(32)[0], 8)
    compiled = steps.compile_train_step(model, config, mesh, 10.0).lower(state, batch).compile()
    gathered = re.findall(r'= \w+\[([\d,]*)\]\S* all-gather', compiled.as_text())
    inputs = 4 * 4 * 16
    assert f'4,{inputs}' in gathered or '4,4,4,16' in gathered, gathered  # half of the batch's maps
    for shape in (f'{inputs},{UNITS}', f'{UNITS},{UNITS}', f'{UNITS},{CLASSES}'):
        assert shape not in gathered
    # The images of one device go through the convolutions there, whatever the mesh.
    assert re.search(r'f32\[1,32,32,8\]', compiled.as_text())
    assert not re.search(r'f32\[[248],32,32,8\]', compiled.as_text())


def test_a_checkpoint_goes_on_in_any_layout(tmp_path: pathlib.Path) -> None:
    state, _ = trained('vgg', mesh_of(2, 4), shard_optimiser=True)
    config = base.get_config().checkpoint
    with checkpoint.opened(tmp_path, config) as checkpoints:
        checkpoints.save(3, state.model(), state.training(), wait=True)
    for mesh, shard_optimiser in ((mesh_of(1, 1), False), (mesh_of(4, 2), False)):
        model, config = network('vgg', shard_optimiser)
        abstract = steps.abstract_state(model, config, mesh)
        with checkpoint.opened(tmp_path, config.checkpoint) as checkpoints:
            restored = steps.restore_state(checkpoints, abstract, mesh)
        for field in dataclasses.fields(state):
            ours, theirs = (
                jax.tree.leaves(getattr(tree, field.name)) for tree in (state, restored)
            )
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
        laid = jax.tree.map(lambda leaf: leaf.sharding, restored)
        assert laid == meshes.shardings(abstract)


@pytest.mark.parametrize('protocol', ['center', 'dense'])
def test_evaluation_in_any_layout(protocol: str) -> None:
    config, source = small_config(protocol), Pictures()
    model = models.build(config.model)
    variables = random_variables(model, 32)
    one = evaluate(model, variables, source, config, mesh_of(1, 1))
    mesh = mesh_of(2, 4)
    rules = models.sharding_rules(config.model)
    layout = meshes.shardings(meshes.abstract(mesh, variables, rules))
    many = evaluate(model, jax.device_put(variables, layout), source, config, mesh)
    np.testing.assert_array_equal(one.classes, many.classes)
    np.testing.assert_allclose(one.probabilities, many.probabilities, rtol=1e-5)
    assert one.counted.all()


def test_impossible_splits_are_named() -> None:
    _, config = network('vgg')
    config.model.options.fc_units = 30
    model = models.build(config.model)
    with pytest.raises(UserError, match=r'mesh\.model = 4 does not divide .*fc6/bias \[30\]'):
        steps.abstract_state(model, config, mesh_of(2, 4))


def test_rules_name_parameters_of_their_model() -> None:
    for family, rules in models.SHARDING.items():
        state = steps.abstract_state(*network(family), mesh_of(1, 1))
        paths = [
            '/'.join(key.key for key in path)
            for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
        ]
        assert set(rules) <= set(paths), family
