"""The step: updates one after another within it, and second derivatives before each pass."""

import pathlib
import shutil
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from cnn_arch import configuration, mesh, models
from cnn_arch.data import sources
from cnn_arch.data.loader import TrainingBatches
from cnn_arch.errors import UserError
from cnn_arch.training import step as steps
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
