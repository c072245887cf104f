"""The step: updates one after another within it, and second derivatives before each pass."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from cnn_arch import configuration, mesh, models
from cnn_arch.data import preprocess, sources
from cnn_arch.data.loader import TrainingBatches
from cnn_arch.errors import UserError
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.training import checkpoint, workdir
from cnn_arch.training import losses as losses_module
from cnn_arch.training import step as steps
from cnn_arch.weights import trained as trained_weights
from tests.test_train import final_state, losses, train


def lenet1(**train_keys: Any) -> ml_collections.ConfigDict:
    config = configuration.load('configs/lenet.py:lenet1').copy_and_resolve_references()
    config.update({'data': {'source': 'digits'}, 'train': train_keys})
    return config


def trained(config: ml_collections.ConfigDict, data: int, count: int) -> steps.TrainState:
    """After `count` steps on so many devices, second derivatives taken before the first."""
    devices = mesh.create_mesh(config.mesh, jax.devices()[:data])
    model = models.build(config.model)
    source = sources.open_for(config, 'train')
    state = steps.create_state(model, config, devices)
    before = TrainingBatches(source, config, devices, 0, 48 // config.train.batch_size)
    with_curvature = steps.compile_curvature(model, config, devices)
    assert with_curvature is not None
    state = with_curvature(state, before)
    step = steps.compile_train_step(model, config, devices, 1000.0)
    for batch in TrainingBatches(source, config, devices, 0, count):
        state, _ = step(state, batch)
    return state


def close(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


@pytest.mark.parametrize('devices', [1, 4])
def test_updates_one_after_another_are_smaller_steps(devices: int) -> None:
    """Two steps of eight images, four at a time, are four steps of four."""
    keys = {'update_size': 4, 'epochs': 1e6}  # at a rate that does not change
    within = trained(lenet1(batch_size=8, **keys), devices, 2)
    plain = trained(lenet1(batch_size=4, **keys | {'update_size': 0}), 1, 4)
    close(within.params, plain.params)
    close(within.optimiser, plain.optimiser)
    assert (int(within.step), int(plain.step)) == (2, 4)
    whole = trained(lenet1(batch_size=8, **keys | {'update_size': 0}), 1, 2)
    assert np.abs(whole.params['H1']['kernel'] - plain.params['H1']['kernel']).max() > 1e-3


def test_the_step_is_whole_updates() -> None:
    config = lenet1(batch_size=8, update_size=3)
    with pytest.raises(
        UserError, match=r'train.batch_size = 8 is not a multiple of train.update_s'
    ):
        configuration.validate(config)


def test_second_derivatives_are_those_of_each_pass_after_a_restart_too(
    tmp_path: pathlib.Path,
) -> None:
    flags = ['--config=configs/lenet.py:lenet1', '--config.data.source=digits',
             '--config.train.batch_size=479', '--config.train.update_size=479',
             '--config.train.epochs=4', '--config.checkpoint.every=4',
             '--config.train.log_every=1', f'--workdir={tmp_path}']  # fmt: skip
    train(*flags)  # three steps a pass: the checkpoint of step 8 lies within one
    state, curve = final_state(tmp_path, *flags[:-1]), losses(tmp_path)
    shutil.rmtree(tmp_path / 'checkpoints' / '12')
    (tmp_path / 'result.json').unlink()
    out, _ = train(*flags)
    assert 'going on from the checkpoint of step 8' in out
    for one, other in zip(state, final_state(tmp_path, *flags[:-1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses(tmp_path) == curve


def batch_of(config: ml_collections.ConfigDict, labels: list[int]) -> dict[str, jax.Array]:
    """Images of noise."""
    rng = np.random.default_rng(0)
    side, channels = config.data.augment.size, config.data.channels
    images = rng.integers(0, 256, (len(labels), side, side, channels), dtype=np.uint8)
    return {'image': jnp.asarray(images), 'label': jnp.asarray(labels, jnp.int32)}


@pytest.mark.parametrize('update_size', [0, 4])
def test_bad_updates_are_counted_as_updates(update_size: int) -> None:
    """A label that does not exist makes one loss not a number: of the whole step or of a part."""
    config = configuration.load('configs/demo.py:lenet5').copy_and_resolve_references()
    config.update({'train': {'update_size': update_size, 'on_nonfinite': 'skip'}})
    model, devices = models.build(config.model), mesh.create_mesh(config.mesh)
    state = steps.create_state(model, config, devices)
    step = jax.jit(steps.make_train_step(model, config, 100.0))
    after, metrics = step(state, batch_of(config, [1] * 5 + [99] + [3] * 10))
    assert int(metrics['bad_updates']) == 1
    assert int(after.updates) == (3 if update_size else 0)
    assert int(after.step) == 1
    moved = (after.params['C1']['kernel'] != state.params['C1']['kernel']).any()
    assert moved == bool(update_size)


def xception(**keys: Any) -> ml_collections.ConfigDict:
    """The first and the last block of Xception, for digits, at a rate at which it jumps about."""
    config = configuration.load('configs/xception.py:xception').copy_and_resolve_references()
    with config.unlocked():
        config.model.options.blocks = ()
        config.model.options.last = (16, 32)
        config.model.options.dropout = 0.0
        config.model.num_classes = 10
        config.data.update({'source': 'digits', 'channels': 1, 'mean': (127.5,), 'std': (127.5,)})
        config.data.augment.update({'crop': 'none', 'size': 28, 'mirror': False})
        config.eval.update({'scale': 28, 'batch_size': 360})
        config.train.batch_size = 32
        config.optim.learning_rate = 0.2
        config.update(keys)
    return config


def test_averaged_parameters_are_tested_with_statistics_of_their_own() -> None:
    """A hundred updates, which is as long as the running statistics lag, and from a start that an
    average with 0.9999 would not leave: the network that is tested is the average all the same.
    """
    config = xception()
    model, devices = models.build(config.model), mesh.create_mesh(config.mesh)
    train, test = (sources.open_for(config, split) for split in ('train', 'eval'))
    state = steps.create_state(model, config, devices)
    step = steps.compile_train_step(model, config, devices, 45.0)
    for batch in TrainingBatches(train, config, devices, 0, 100):
        state, _ = step(state, batch)

    def error(variables: dict[str, Any]) -> float:
        return evaluate(model, variables, test, config, devices).top1_error

    averaged = steps.variables(state.model())
    assert error(averaged) < 30
    assert error({**averaged, 'batch_stats': state.batch_stats}) > 60, 'too easy: shows nothing'
    again = TrainingBatches(train, config, devices, 100, 104)
    precise = steps.with_precise_statistics(state, model, config, devices, again)
    assert error(steps.variables(precise.model())) < 30
    jax.tree.map(np.testing.assert_array_equal, precise.batch_stats, state.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, precise.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, precise.average['params'], state.average['params'])


def test_frozen_statistics_serve_in_training_and_stay() -> None:
    """The loss of such a step is that of the network as it is tested."""
    config = xception(train={'freeze_statistics': 1.0, 'batch_size': 8})
    model, devices = models.build(config.model), mesh.create_mesh(config.mesh)
    plan = steps.plan(config, 32)
    assert [plan.frozen_at(step) for step in (0, 3, 4, 5)] == [False, False, True, True]
    state = steps.create_state(model, config, devices)
    # Statistics that are not those of the batch, nor neutral; no ReLU dies of them.
    state = dataclasses.replace(
        state, batch_stats=jax.tree.map(lambda x: x - 0.3, state.batch_stats)
    )
    step = jax.jit(steps.make_train_step(model, config, 4.0), static_argnames='frozen')
    batch = batch_of(config, list(range(8)))
    frozen, metrics = step(state, batch, frozen=True)
    jax.tree.map(np.testing.assert_array_equal, frozen.batch_stats, state.batch_stats)
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    logits, _ = jax.jit(model.apply)(variables, preprocess.normalise(batch, config.data))
    expected = losses_module.loss(logits, {}, batch['label'], config.loss).mean()
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    moved, metrics = step(state, batch)
    assert abs(float(metrics['loss']) - float(expected)) > 1e-3
    assert all(
        (one != other).any()
        for one, other in zip(
            jax.tree.leaves(moved.batch_stats), jax.tree.leaves(state.batch_stats), strict=True
        )
    )
    # Scales and biases of the normalisation go on.
    name = 'block1_conv1_bn'
    assert (frozen.params[name]['scale'] != state.params[name]['scale']).any()


def test_statistics_that_a_network_does_not_have_cannot_be_frozen() -> None:
    config = lenet1(freeze_statistics=2.0)
    with pytest.raises(
        UserError, match=r'train.freeze_statistics = 2: lenet1 LeNet-1 has no batch'
    ):
        steps.make_train_step(models.build(config.model), config, 10.0)


def test_checkpoints_of_an_earlier_version_are_one_line(tmp_path: pathlib.Path) -> None:
    """Averages of parameters alone, no count of updates: neither gone on from nor tested."""
    config = configuration.load('configs/lenet.py:lenet5')
    model, devices = models.build(config.model), mesh.create_mesh(config.mesh)
    state = steps.create_state(model, config, devices)
    workdir.write_config(tmp_path, config)
    item, rest = state.model(), state.training()
    del rest['updates']
    with checkpoint.opened(tmp_path, config.checkpoint) as checkpoints:
        checkpoints.save(1, item, rest, wait=True)
        abstract = steps.abstract_state(model, config, devices)
        with pytest.raises(
            UserError, match=r'step 1 does not fit: training/updates is absent ther'
        ):
            steps.restore_state(checkpoints, abstract, devices)
        # What evaluation reads is as today: such a run is tested.
        used = trained_weights.find(tmp_path).restore(config, devices)
        jax.tree.map(np.testing.assert_array_equal, used['params'], item['average']['params'])
        checkpoints.save(2, {**item, 'average': item['params']}, rest, wait=True)
    found = trained_weights.find(tmp_path)
    for action in (found.stored, lambda: found.restore(config, devices)):
        with pytest.raises(UserError, match='step 2 holds averages of the parameters alone'):
            action()
