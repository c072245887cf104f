"""Every update rule against three updates computed by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_arch.errors import UserError
from cnn_arch.training import optimisers
from configs import base

# The rate drops before the third update: there AlexNet's rule and plain momentum part.
RATES = (0.1, 0.1, 0.01)
MOMENTUM, DECAY = 0.9, 0.05


def settings(**keys):
    config = base.get_config().optim
    config.update({'momentum': MOMENTUM, 'weight_decay': DECAY, **keys})
    return config


def problem():
    """Parameters of a small network and the gradients of three steps, all float32."""
    rng = np.random.default_rng(0)

    def draw():
        return {
            'conv1': {'kernel': rng.normal(size=(3, 3, 2, 4)), 'bias': rng.normal(size=4)},
            'bn1': {'scale': rng.normal(size=4), 'bias': rng.normal(size=4)},
            'fc': {'kernel': rng.normal(size=(5, 3)), 'bias': rng.normal(size=3)},
        }

    trees = [draw() for _ in range(4)]
    return [jax.tree.map(lambda x: np.asarray(x, np.float32), tree) for tree in trees]


def run(config, params, gradients):
    rule = optimisers.build(config)

    @jax.jit
    def step(params, state, gradient, rate):
        updates, state = rule.update(gradient, state, params, learning_rate=rate)
        return optax.apply_updates(params, updates), state

    state, history = rule.init(params), []
    for gradient, rate in zip(gradients, RATES, strict=True):
        params, state = step(params, state, gradient, jnp.float32(rate))
        history.append(params)
    return history


def momentum(w, v, s, g, rate):
    v = MOMENTUM * v + g
    return w - rate * v, v, s


def nesterov(w, v, s, g, rate):
    v = MOMENTUM * v + g
    return w - rate * (g + MOMENTUM * v), v, s


def alexnet(w, v, s, g, rate):
    v = MOMENTUM * v - rate * g
    return w + v, v, s


def rmsprop(w, v, s, g, rate):
    s = 0.9 * s + 0.1 * g**2
    v = MOMENTUM * v - rate * g / np.sqrt(s + 1e-10)
    return w + v, v, s


@pytest.mark.parametrize('decay_all', [True, False])
@pytest.mark.parametrize('by_hand', [momentum, nesterov, alexnet, rmsprop])
def test_three_updates(by_hand, decay_all):
    params, *gradients = problem()
    history = run(settings(rule=by_hand.__name__, decay_all=decay_all), params, gradients)

    for path, first in jax.tree_util.tree_leaves_with_path(params):
        w = np.asarray(first, np.float64)
        v, s = np.zeros_like(w), np.ones_like(w)
        decay = DECAY if decay_all or path[-1].key == 'kernel' else 0.0
        for gradient, rate, ours in zip(gradients, RATES, history, strict=True):
            group, name = (key.key for key in path)
            g = np.asarray(gradient[group][name], np.float64) + decay * w
            w, v, s = by_hand(w, v, s, g, rate)
            np.testing.assert_allclose(ours[group][name], w, rtol=1e-5, atol=1e-6)


def test_levenberg_marquardt_divides_by_the_curvature():
    params, *gradients = problem()
    rule = optimisers.build(settings(rule='levenberg_marquardt', momentum=0.0, weight_decay=0.0))
    state = rule.init(params)
    rng = np.random.default_rng(1)
    expected = params
    for gradient, rate in zip(gradients, RATES, strict=True):
        h = jax.tree.map(lambda p: np.float32(rng.uniform(0, 2, p.shape)), params)
        state = optimisers.with_curvature(state, h)
        updates, state = rule.update(gradient, state, params, learning_rate=rate)
        params = optax.apply_updates(params, updates)
        expected = jax.tree.map(
            lambda w, g, h, rate=rate: w - rate / (0.02 + np.float64(h)) * g, expected, gradient, h
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, expected
        )


def test_alexnet_is_momentum_until_the_rate_drops():
    """Section 5: v holds r (g + d w); after a drop the buffer still moves at the old rate."""
    params, *gradients = problem()
    plain = run(settings(rule='momentum'), params, gradients)
    paper = run(settings(rule='alexnet'), params, gradients)
    for step in (0, 1):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *(
            history[step] for history in (plain, paper)
        ))  # fmt: skip
    last = [history[2]['fc']['kernel'] for history in (plain, paper)]
    assert np.abs(last[0] - last[1]).max() > 0.05


def test_the_rate_is_traced():
    """One compilation serves all rates."""
    rule = optimisers.build(settings())
    params = {'kernel': jnp.ones((2, 2))}
    traces = []

    @jax.jit
    def step(state, rate):
        traces.append(rate)
        return rule.update(params, state, params, learning_rate=rate)[0]

    state = rule.init(params)
    first, second = (step(state, jnp.float32(rate))['kernel'] for rate in (0.1, 0.2))
    np.testing.assert_allclose(2 * first, second, rtol=1e-6)
    assert len(traces) == 1


def test_a_step_without_a_rate_is_refused():
    rule = optimisers.build(settings())
    params = {'kernel': jnp.ones((2, 2))}
    with pytest.raises(TypeError, match='learning_rate'):
        rule.update(params, rule.init(params), params)


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        ({'rule': 'adam'}, r"optim.rule = 'adam': choose one of momentum, nesterov, alexnet, rmsp"),
        ({'momentum': 1.0}, r'optim.momentum = 1.0: it must be at least 0 and below 1'),
        ({'momentum': float('nan')}, r'optim.momentum = nan'),
        ({'weight_decay': -1e-4}, r'optim.weight_decay = -0.0001: it must be 0 or a positive'),
        ({'polyak_decay': 1.5}, r'optim.polyak_decay = 1.5'),
        ({'learning_rate': float('inf')}, r'optim.learning_rate = inf'),
        ({'filter_rms': -0.1}, r'optim.filter_rms = -0.1'),
    ],
)
def test_impossible_settings(keys, message):
    with pytest.raises(UserError, match=message):
        optimisers.build(settings(**keys))


def test_filters_are_renormalised():
    """ZFNet, section 3: filters beyond an RMS of 0.1 go back to exactly it; the rest stays."""
    rng = np.random.default_rng(1)
    spread = np.array([0.01, 0.099, 0.2, 3.0, 0.0])
    kernel = rng.choice([-1.0, 1.0], size=(7, 7, 3, 5)) * spread
    params = {
        'conv1': {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.full(5, 9.0)},
        'fc6': {'kernel': jnp.full((8, 5), 9.0)},
    }
    result = jax.jit(lambda p: optimisers.renormalise_filters(p, 0.1))(params)
    rms = np.sqrt(np.mean(np.square(result['conv1']['kernel'], dtype=np.float64), axis=(0, 1, 2)))
    np.testing.assert_allclose(rms, [0.01, 0.099, 0.1, 0.1, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(result['conv1']['kernel'][..., [0, 1, 4]],
                                  params['conv1']['kernel'][..., [0, 1, 4]])  # fmt: skip
    directions = np.sign(result['conv1']['kernel'][..., :4])
    np.testing.assert_array_equal(directions, np.sign(kernel[..., :4]))
    for layer, name in (('conv1', 'bias'), ('fc6', 'kernel')):
        np.testing.assert_array_equal(result[layer][name], params[layer][name])


def test_average_of_parameters():
    trees = [{'w': jnp.full(3, value)} for value in (1.0, 2.0, -4.0)]
    average = trees[0]
    for tree in trees[1:]:
        average = optimisers.update_average(average, tree, 0.75, 1000)
    np.testing.assert_allclose(average['w'], 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * -4, rtol=1e-6)
    # TensorFlow's usual 0.9999: float32 must resolve the small step.
    trees = {'w': jnp.float32(1.0)}, {'w': jnp.float32(2.0)}
    close = optimisers.update_average(*trees, 0.9999, 10**6)
    np.testing.assert_allclose(close['w'], 1.0001, atol=2e-7)


def test_the_average_leaves_its_first_value_behind():
    """TensorFlow's num_updates rule, in float64: after 400 updates nothing of the start is left."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    update = jax.jit(optimisers.update_average, static_argnums=2)
    average, expected = {'w': jnp.float32(1e6)}, 1e6
    for n, value in enumerate(values, 1):
        average = update(average, {'w': jnp.float32(value)}, 0.9999, n)
        decay = min(0.9999, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(average['w'], expected, atol=1e-6)
    assert abs(expected) < 0.5  # about 45 of them, and 1e6 x 9! / 400^9 at the most of the start


def test_what_does_not_move_is_its_own_average():
    rng = np.random.default_rng(0)
    still = {'w': jnp.asarray(rng.normal(size=1000), jnp.float32)}
    average = still
    for n in range(1, 100):
        average = jax.jit(optimisers.update_average, static_argnums=2)(average, still, 0.99, n)
    np.testing.assert_array_equal(average['w'], still['w'])
