"""Batch normalisation: a slow loop, PyTorch, and the same numbers on any number of devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_arch.errors import UserError
from cnn_arch.models.layers import BatchNorm, BatchNormSettings
from tests import oracles

CHANNELS = 5


def images(n=8, seed=0, dtype=np.float32):
    """[n, 3, 2, channels], every image and channel with its own mean and spread."""
    rng = np.random.default_rng(seed)
    spread, mean = rng.uniform(0.5, 3, (n, 1, 1, CHANNELS)), rng.normal(size=(n, 1, 1, CHANNELS))
    return (rng.normal(size=(n, 3, 2, CHANNELS)) * spread + 4 * mean).astype(dtype)


def random_variables(seed=1):
    rng = np.random.default_rng(seed)
    draw = {name: rng.normal(size=CHANNELS).astype(np.float32) for name in ('bias', 'mean')}
    draw |= {n: rng.uniform(0.5, 2, CHANNELS).astype(np.float32) for n in ('scale', 'var')}
    return {
        'params': {'scale': draw['scale'], 'bias': draw['bias']},
        'batch_stats': {'mean': draw['mean'], 'var': draw['var']},
    }


def train(settings, variables, x, dtype=jnp.float32):
    return BatchNorm(settings, dtype=dtype).apply(variables, x, train=True, mutable=['batch_stats'])


def train_in_float64(settings, variables, x):
    with oracles.float64():
        return train(settings, *oracles.as_float64((variables, x)), jnp.float64)


def slow(settings, variables, x):
    """Algorithm 1 of Ioffe & Szegedy per group and channel in float64; outputs, mean, variance."""
    x = x.astype(np.float64)
    output = np.empty_like(x)
    means, variances = [], []
    for start in range(0, len(x), settings.group_size):
        group = slice(start, start + settings.group_size)
        for c in range(x.shape[-1]):
            values = x[group, :, :, c].ravel()
            mean = sum(values) / len(values)
            squares = sum((value - mean) ** 2 for value in values)
            normal = (x[group, :, :, c] - mean) / np.sqrt(squares / len(values) + settings.epsilon)
            scale, bias = (variables['params'][name][c] for name in ('scale', 'bias'))
            output[group, :, :, c] = scale * normal + bias
            means.append(mean)
            variances.append(squares / (len(values) - 1))  # unbiased: algorithm 2
    shape = (-1, x.shape[-1])
    return output, np.reshape(means, shape).mean(axis=0), np.reshape(variances, shape).mean(axis=0)


@pytest.mark.parametrize('group_size', [2, 4, 8])
def test_groups_against_a_slow_loop(group_size):
    settings = BatchNormSettings(group_size, momentum=0.7, epsilon=1e-3)
    variables, x = random_variables(), images()
    ours, updated = train_in_float64(settings, variables, x)
    theirs, mean, var = slow(settings, oracles.as_float64(variables), x)
    oracles.assert_close(ours, theirs)
    for name, batch in (('mean', mean), ('var', var)):
        old = variables['batch_stats'][name].astype(np.float64)
        oracles.assert_close(updated['batch_stats'][name], 0.7 * old + 0.3 * batch)


def test_outputs_gradients_and_statistics_equal_pytorchs():
    settings = BatchNormSettings(group_size=8, momentum=0.9, epsilon=1e-5)
    variables, x, weights = oracles.as_float64((random_variables(), images(), images(seed=2)))
    peer = torch.nn.BatchNorm2d(CHANNELS, eps=1e-5, momentum=0.1).double()
    params, stats = variables['params'], variables['batch_stats']
    state = {
        'weight': params['scale'], 'bias': params['bias'],
        'running_mean': stats['mean'], 'running_var': stats['var'],
    }  # fmt: skip
    state = jax.tree.map(torch.tensor, state)
    peer.load_state_dict({**state, 'num_batches_tracked': torch.tensor(0)})
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    output = peer(torch_x)
    (output * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()

    def loss(params, x):
        y, updated = train(settings, {**variables, 'params': params}, x, jnp.float64)
        return (y * weights).sum(), (y, updated)

    with oracles.float64():
        (params, gradient), (ours, updated) = jax.grad(loss, (0, 1), has_aux=True)(
            variables['params'], x
        )
    close = oracles.assert_close
    close(ours, output.detach().numpy().transpose(0, 2, 3, 1))
    close(gradient, torch_x.grad.numpy().transpose(0, 2, 3, 1))
    close(params['scale'], peer.weight.grad)
    close(params['bias'], peer.bias.grad)
    close(updated['batch_stats']['mean'], peer.running_mean)
    close(updated['batch_stats']['var'], peer.running_var)


@jax.jit(static_argnames='group_size')
def gradients(variables, x, weights, group_size):
    """Gradients of parameters and images, outputs and new statistics of one training step."""

    def loss(params, x):
        y, updated = train(BatchNormSettings(group_size), {**variables, 'params': params}, x)
        return (y * weights).sum(), (y, updated)

    return jax.grad(loss, (0, 1), has_aux=True)(variables['params'], x)


def on_devices(devices, variables, *batches):
    oracles.need_devices(devices)
    mesh = jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,))
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    split = jax.device_put(batches, NamedSharding(mesh, PartitionSpec('data')))
    for x in split:
        assert {shard.data.shape[0] for shard in x.addressable_shards} == {len(x) // devices}
    return whole, *split


@pytest.mark.parametrize('group_size', [3, 8, 24])
def test_one_meaning_on_1_2_4_and_8_devices(group_size):
    """Groups smaller than, larger than and across what a device holds."""
    arguments = random_variables(), images(24), images(24, seed=2)
    results = [
        jax.device_get(gradients(*on_devices(devices, *arguments), group_size=group_size))
        for devices in (1, 2, 4, 8)
    ]
    assert np.abs(results[0][0][1]).max() > 1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for other in results[1:]:
        jax.tree.map(close, results[0], other)


@pytest.mark.parametrize('group_size', [3, 8, 24])
def test_no_map_travels_between_devices(group_size):
    """Only statistics do: at most one number per image and channel."""
    arguments = on_devices(8, random_variables(), images(24), images(24, seed=2))
    program = gradients.lower(*arguments, group_size=group_size).compile().as_text()
    collectives = re.findall(
        r'f32\[([\d,]*)\]\S* (?:all-gather|all-to-all|all-reduce|collective-permute)', program
    )
    sizes = [np.prod([int(n) for n in shape.split(',') if n]) for shape in collectives]
    assert sizes
    assert max(sizes) <= 24 * CHANNELS, collectives


def test_groups_do_not_see_each_other():
    settings = BatchNormSettings(group_size=4)
    x, other = images(8), images(8, seed=3)
    x, other = x, np.concatenate([x[:4], other[4:]])
    variables = random_variables()
    a, b = (train(settings, variables, batch)[0] for batch in (x, other))
    np.testing.assert_array_equal(a[:4], b[:4])
    assert np.abs(a[4:] - b[4:]).max() > 0.1


def test_a_batch_smaller_than_a_group_is_one_group():
    variables, x = random_variables(), images(6)
    a, _ = train(BatchNormSettings(group_size=32), variables, x)
    b, _ = train(BatchNormSettings(group_size=6), variables, x)
    np.testing.assert_array_equal(a, b)


def test_groups_that_do_not_divide_the_batch():
    with pytest.raises(UserError, match=r'batch of 6 images.*groups of 4.*train\.batch_size'):
        train(BatchNormSettings(group_size=4), random_variables(), images(6))


def test_batch_statistics_are_off_at_test_time():
    variables, x = random_variables(), images()
    layer = BatchNorm(BatchNormSettings(epsilon=1e-3))
    run = oracles.in_float64(layer, train=False, mutable=['batch_stats'])
    together, updated = run(variables, x)
    stats, params = (oracles.as_float64(variables[key]) for key in ('batch_stats', 'params'))
    normal = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-3)
    oracles.assert_close(together, normal * params['scale'] + params['bias'])
    alone, _ = run(variables, x[:1])
    oracles.assert_close(alone, together[:1])
    jax.tree.map(np.testing.assert_array_equal, updated['batch_stats'], stats)


def test_it_starts_neutral_and_initialisation_sees_no_batch():
    variables = BatchNorm(BatchNormSettings()).init(jax.random.key(0), images(), train=True)
    stats, params = variables['batch_stats'], variables['params']
    for zero, one in ((stats['mean'], stats['var']), (params['bias'], params['scale'])):
        np.testing.assert_array_equal(zero, np.zeros(CHANNELS))
        np.testing.assert_array_equal(one, np.ones(CHANNELS))


def test_bfloat16_maps_have_float32_statistics():
    """A large mean and a small spread, which moments in bfloat16 would lose."""
    settings = BatchNormSettings(group_size=8)
    x = jnp.asarray(images() * 0.2 + 100, jnp.bfloat16)
    variables = random_variables()
    ours, updated = train(settings, variables, x, jnp.bfloat16)
    theirs, mean, var = slow(settings, variables, np.asarray(x, np.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, rtol=0.01, atol=0.01)
    for name, batch in (('mean', mean), ('var', var)):
        assert updated['batch_stats'][name].dtype == jnp.float32
        expected = 0.9 * variables['batch_stats'][name] + 0.1 * batch
        np.testing.assert_allclose(updated['batch_stats'][name], expected, rtol=1e-4)
