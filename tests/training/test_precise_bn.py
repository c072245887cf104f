"""Recomputed running statistics against the batches' own, by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_arch.errors import UserError
from cnn_arch.models.layers import BatchNorm, BatchNormSettings
from cnn_arch.training.precise_bn import recompute_statistics

SETTINGS = BatchNormSettings(group_size=4, momentum=0.9)


class TwoLayers(nn.Module):
    """Two normalised convolutions with dropout between them."""

    settings: BatchNormSettings

    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(self.settings, name='bn1')(nn.Conv(6, (3, 3), name='conv1')(x), train)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return BatchNorm(self.settings, name='bn2')(nn.Conv(4, (3, 3), name='conv2')(x), train)


def batches(count=3):
    rng = np.random.default_rng(0)
    return [(i, rng.normal(i, 1 + i, (8, 5, 5, 3)).astype(np.float32)) for i in range(count)]


def update(settings):
    """(variables, batch) -> batch_stats; the dropout is that of the batch's number."""
    model = TwoLayers(settings)

    @jax.jit
    def apply(variables, batch):
        number, x = batch
        key = jax.random.fold_in(jax.random.key(1), number)
        rngs = {'dropout': key}
        return model.apply(variables, x, train=True, rngs=rngs, mutable=['batch_stats'])[1][
            'batch_stats'
        ]

    return apply


@pytest.fixture(scope='module')
def variables():
    model = TwoLayers(SETTINGS)
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    variables = jax.jit(functools.partial(model.init, train=True))(keys, batches()[0][1])
    # A trained network's statistics are not neutral; nothing of them may remain.
    return {**variables, 'batch_stats': jax.tree.map(lambda x: x + 5, variables['batch_stats'])}


@pytest.fixture(scope='module')
def expected(variables):
    """Mean and unbiased variance of both layers' inputs over groups of 4, averaged; float64."""

    @jax.jit
    def inputs(number, x):
        seen = {}

        def see(next_function, args, kwargs, context):
            if isinstance(context.module, BatchNorm) and context.method_name == '__call__':
                seen[context.module.name] = args[0]
            return next_function(*args, **kwargs)

        with nn.intercept_methods(see):
            rngs = {'dropout': jax.random.fold_in(jax.random.key(1), number)}
            TwoLayers(SETTINGS).apply(variables, x, True, rngs=rngs, mutable=['batch_stats'])
        return seen

    def statistics(x):
        groups = np.asarray(x, np.float64).reshape(2, -1, x.shape[-1])
        return {
            'mean': groups.mean(axis=1).mean(axis=0),
            'var': groups.var(axis=1, ddof=1).mean(axis=0),
        }

    each = [
        {name: statistics(x) for name, x in inputs(number, x).items()} for number, x in batches()
    ]
    return jax.tree.map(lambda *values: np.mean(values, axis=0), *each)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_the_mean_over_batches_of_each_layers_statistics(variables, expected, momentum):
    before = jax.device_get(variables)
    settings = dataclasses.replace(SETTINGS, momentum=momentum)
    ours = recompute_statistics(update(settings), variables, iter(batches()), momentum)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours, expected)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(variables))


def test_the_same_on_eight_devices(variables, expected):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec('data'))
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    spread = [(number, jax.device_put(x, split)) for number, x in batches()]
    ours = recompute_statistics(update(SETTINGS), whole, spread, 0.9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours, expected)


def test_networks_without_statistics_and_impossible_requests(variables):
    assert recompute_statistics(update(SETTINGS), {'params': {}}, batches(), 0.9) == {}
    with pytest.raises(UserError, match='no batch'):
        recompute_statistics(update(SETTINGS), variables, [], 0.9)
    with pytest.raises(UserError, match=r'momentum = 1\.0'):
        recompute_statistics(update(SETTINGS), variables, batches(), 1.0)
