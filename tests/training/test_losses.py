"""The losses against their formulas written out in float64."""

import jax
import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.training import losses
from configs import base


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (7, 10)).astype(np.float32)
    return logits, rng.integers(0, 10, 7).astype(np.int32)


def loss_config(**changes):
    config = base.get_config().loss
    config.update(changes)
    return config


def cross_entropy(logits, label, smoothing=0.0):
    """-sum of q log p, with q the smoothed distribution, of one image."""
    z = logits.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum()
    q = np.full(len(z), smoothing / len(z))
    q[label] += 1 - smoothing
    return -(q * np.log(p)).sum()


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_softmax(batch, smoothing):
    logits, labels = batch
    got = losses.loss(logits, {}, labels, loss_config(label_smoothing=smoothing))
    want = [cross_entropy(z, y, smoothing) for z, y in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got.dtype == np.float32


def test_softmax_of_large_logits_is_finite():
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert losses.loss(logits, {}, np.array([1]), loss_config())[0] == 1e4


def test_auxiliary_classifiers_are_added_with_their_weight(batch):
    logits, labels = batch
    endpoints = {'loss1': logits[::-1], 'loss2': 2 * logits, 'conv1': logits}
    got = losses.loss(logits, endpoints, labels, loss_config(auxiliary_weight=0.3))
    want = [
        cross_entropy(a, y) + 0.3 * cross_entropy(b, y) + 0.3 * cross_entropy(2 * a, y)
        for a, b, y in zip(logits, logits[::-1], labels, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_equation_8_is_the_penalty_of_the_right_class(batch):
    logits, labels = batch
    penalties = np.square(logits)  # as an RBF's, not negative
    got = losses.loss(-penalties, {}, labels, loss_config(name='lenet_mse'))
    np.testing.assert_array_equal(got, penalties[np.arange(7), labels])


@pytest.mark.parametrize('j', [0.1, 2.0, 60.0])
def test_equation_9(batch, j):
    logits, labels = batch
    y = np.square(logits.astype(np.float64))
    got = losses.loss(-np.square(logits), {}, labels, loss_config(name='lenet_map', map_j=j))
    want = y[np.arange(7), labels] + np.log(np.exp(-j) + np.exp(-y).sum(axis=1))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_equation_9_of_penalties_as_large_as_the_network_starts_with():
    # Penalties of hundreds: exp(-y) is 0 in float32 for every class and j alone stays in the log.
    y = np.full((1, 10), 400.0, np.float32)
    config = loss_config(name='lenet_map', map_j=0.1)
    value, slope = jax.value_and_grad(lambda z: losses.loss(z, {}, np.array([3]), config).sum())(-y)
    np.testing.assert_allclose(value, 400 - 0.1, rtol=1e-6)
    np.testing.assert_array_equal(slope[0], -np.eye(10)[3])


def test_mse_towards_plus_and_minus_one(batch):
    logits, labels = batch
    got = losses.loss(logits, {}, labels, loss_config(name='mse'))
    for row, label, value in zip(logits.astype(np.float64), labels, got, strict=True):
        want = sum((z - (1 if i == label else -1)) ** 2 for i, z in enumerate(row)) / 10
        np.testing.assert_allclose(value, want, rtol=1e-5)


def test_an_unknown_loss_names_the_choices():
    with pytest.raises(UserError, match='softmax, lenet_mse, lenet_map, mse'):
        losses.loss(np.zeros((1, 2)), {}, np.zeros(1, int), loss_config(name='hinge'))
