"""Parameters that do not train, and those with rates of their own."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_arch import commands, configuration, mesh, models
from cnn_arch.errors import UserError
from cnn_arch.training import optimisers, parameters
from cnn_arch.training import step as steps
from tests.training import test_optimisers as by_hand

FREEZE, RATES = ('conv1/*', 'fc/bias'), (('*/bias', 2.0), ('bn1/*', 0.5), ('fc/kernel', 0.0))
FACTORS = {('bn1', 'scale'): 0.5, ('bn1', 'bias'): 0.5, ('fc', 'kernel'): 0.0}


@pytest.mark.parametrize(
    'rule', [by_hand.momentum, by_hand.nesterov, by_hand.alexnet, by_hand.rmsprop]
)
def test_three_updates(rule: Any) -> None:
    """Against float64: frozen ones as they were, the others at their own multiple of the rate."""
    params, *gradients = by_hand.problem()
    config = by_hand.settings(rule=rule.__name__, freeze=FREEZE, rates=RATES)
    trained, frozen = parameters.split(params, FREEZE)
    assert sorted(frozen) == ['conv1', 'fc']
    assert sorted(trained['fc']) == ['kernel']
    history = by_hand.run(
        config, trained, [parameters.split(gradient, FREEZE)[0] for gradient in gradients]
    )
    for (group, name), factor in FACTORS.items():
        w = np.asarray(params[group][name], np.float64)
        v, s = np.zeros_like(w), np.ones_like(w)
        for gradient, rate, ours in zip(gradients, by_hand.RATES, history, strict=True):
            g = np.asarray(gradient[group][name], np.float64) + by_hand.DECAY * w
            w, v, s = rule(w, v, s, g, rate * factor)
            np.testing.assert_allclose(ours[group][name], w, rtol=1e-5, atol=1e-6)
    whole = parameters.merged(history[-1], frozen)
    jax.tree.map(np.testing.assert_array_equal, whole['conv1'], params['conv1'])
    assert jax.tree.structure(whole) == jax.tree.structure(params)


def test_without_patterns_nothing_is_taken_away() -> None:
    params = by_hand.problem()[0]
    trained, frozen = parameters.split(params, ())
    assert frozen == {}
    assert jax.tree.structure(trained) == jax.tree.structure(params)


def small(**keys: Any) -> Any:
    """The demo's VGG with two convolutions, on pictures of noise."""
    config = configuration.load('configs/demo.py:vgg_fixed').copy_and_resolve_references()
    with config.unlocked():
        config.model.options.layers = (4, 'M', 6, 'M')
        config.model.options.fc_units = 8
        config.model.options.input_size = config.data.augment.size = 16
        config.train.batch_size = 8
        config.optim.update(keys)
    return config


def trained(config: Any, count: int = 3) -> tuple[steps.TrainState, steps.TrainState]:
    """The state before and after so many steps; checked by hand, so that they must be finite."""
    model, devices = models.build(config.model), mesh.create_mesh(config.mesh)
    before = steps.create_state(model, config, devices)
    state, step = before, jax.jit(steps.make_train_step(model, config, 100.0))
    rng = np.random.default_rng(0)
    for _ in range(count):
        state, metrics = step(state, {
            'image': jnp.asarray(rng.integers(0, 256, (8, 16, 16, 3)), jnp.uint8),
            'label': jnp.asarray(rng.integers(0, 10, 8), jnp.int32),
        })  # fmt: skip
        assert int(metrics['bad_updates']) == 0
    return before, state


def test_frozen_layers_have_no_update_no_decay_no_momentum_and_no_limit() -> None:
    """As they began, to the last bit: also their average, whatever `filter_rms` says of filters."""
    before, after = trained(
        small(freeze=('conv*',), filter_rms=1e-3, polyak_decay=0.9, weight_decay=0.1)
    )
    for tree in (after.params, after.average['params']):
        for layer in tree:
            same = [
                np.array_equal(one, other)
                for one, other in zip(
                    jax.tree.leaves(tree[layer]), jax.tree.leaves(before.params[layer]), strict=True
                )
            ]
            assert all(same) if layer.startswith('conv') else not any(same), layer
    names = [str(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(after.optimiser)]
    assert names
    assert not any('conv' in name for name in names)


def test_frozen_layers_with_a_split_optimiser_go_through_a_checkpoint(tmp_path: Any) -> None:
    from cnn_arch.training import checkpoint

    config = small(freeze=('conv*',), polyak_decay=0.9)
    with config.unlocked():
        config.mesh.shard_optimiser = True
    devices, model = mesh.create_mesh(config.mesh), models.build(config.model)
    state = steps.create_state(model, config, devices)
    with checkpoint.opened(tmp_path, config.checkpoint) as checkpoints:
        checkpoints.save(0, state.model(), state.training(), wait=True)
        abstract = steps.abstract_state(model, config, devices)
        again = steps.restore_state(checkpoints, abstract, devices)
        other = small(polyak_decay=0.9)
        with pytest.raises(UserError, match=r'training/optimiser/\S+/conv\S+ is absent there'):
            steps.restore_state(checkpoints, steps.abstract_state(model, other, devices), devices)
    jax.tree.map(np.testing.assert_array_equal, state, again)


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        ({'freeze': ('conv1',)}, r"freeze: no parameter matches 'conv1'; there are e.g. conv1"),
        ({'freeze': ('zzz',)}, r"no parameter matches 'zzz'; there are e.g. \S+/\S+, "),
        ({'rates': (('fc*/biass', 2.0),)}, r"rates: no parameter matches 'fc\*/biass'; .*bias"),
        ({'freeze': ('*',)}, r"optim.freeze = \('\*',\) leaves no parameter to train"),
        ({'freeze': ('fc*',), 'rates': (('fc6/*', 2.0),)}, r"all that 'fc6/\*' matches is frozen"),
    ],
)  # fmt: skip
def test_patterns_that_mean_nothing(keys: dict[str, Any], message: str) -> None:
    config = small(**keys)
    with pytest.raises(UserError, match=message):
        steps.abstract_state(models.build(config.model), config, mesh.create_mesh(config.mesh))


@pytest.mark.parametrize(
    ('key', 'text', 'value'),
    [
        ('freeze', "('conv*',)", ('conv*',)),
        ('freeze', "['conv*', 'fc6/bias']", ('conv*', 'fc6/bias')),
        ('freeze', 'conv*', ('conv*',)),
        ('freeze', "'conv*'", ('conv*',)),
        ('freeze', 'conv*,fc6/bias', ('conv*', 'fc6/bias')),
        ('freeze', '', ()),
        ('freeze', '()', ()),
        ('rates', "(('*/bias',2),)", (('*/bias', 2),)),
    ],
)
def test_as_they_are_typed(key: str, text: str, value: Any) -> None:
    config = small()
    commands.apply_overrides(config, [(f'optim.{key}', text)])
    assert config.optim[key] == value
    configuration.validate(config)
    tree = {'fc6': {'bias': 0, 'kernel': 0}, 'conv1': {'bias': 0}}
    parameters.check_patterns(tree, config.optim)
    typed = commands.as_typed(value)
    commands.apply_overrides(config, [(f'optim.{key}', typed)])
    assert config.optim[key] == value


@pytest.mark.parametrize(
    ('key', 'text'),
    [
        ('freeze', '3'),
        ('freeze', "(('a',),)"),
        ('freeze', "('',)"),
        ('freeze', 'None'),
        ('rates', "('*/bias',2.0)"),
        ('rates', "(('*/bias',-1.0),)"),
        ('rates', "(('*/bias','2'),)"),
        ('rates', "(('*/bias',True),)"),
        ('rates', "(('*/bias',1e999),)"),
        ('rates', '((3,2.0),)'),
        ('rates', '2.0'),
        ('rates', 'bias'),
    ],
)
def test_what_is_none(key: str, text: str) -> None:
    def read() -> None:
        config = small()
        commands.apply_overrides(config, [(f'optim.{key}', text)])
        configuration.validate(config)

    with pytest.raises(UserError, match=rf'optim\.{key}') as error:
        read()
    assert '\n' not in str(error.value)
    assert re.search('expected|not a pair', str(error.value))


def test_weight_decay_is_the_gradient_of_half_the_squares() -> None:
    """d w, as Torch has it; Keras' regulariser of the same figure gives twice as much."""
    import torch
    from keras import regularizers

    w = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    config = by_hand.settings(momentum=0.0, weight_decay=1e-2)
    rule = optimisers.build(config)
    params = {'kernel': jnp.asarray(w)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = rule.update(zero, rule.init(params), params, learning_rate=1.0)
    ours = optax.apply_updates(params, updates)['kernel']

    theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
    theirs.grad = torch.zeros_like(theirs)
    torch.optim.SGD([theirs], lr=1.0, weight_decay=1e-2).step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-6)

    # The penalty is quadratic: a difference over steps of any size is its gradient.
    of = [float(regularizers.l2(1e-2)(jnp.asarray([x]))) for x in (2.0, 4.0)]
    np.testing.assert_allclose((of[1] - of[0]) / 2, 2 * 1e-2 * 3.0, rtol=1e-5)
