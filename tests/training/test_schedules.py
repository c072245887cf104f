"""The papers' learning rates, figure by figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.training import schedules
from configs import base

STEPS_PER_EPOCH = 5004.56  # ILSVRC-2012 in batches of 256


def settings(rate=0.1, epochs=90.0, **keys):
    config = base.get_config()
    config.optim.learning_rate = rate
    config.train.epochs = epochs
    config.schedule.update(keys)
    return config


def at_epochs(config, epochs, steps_per_epoch=STEPS_PER_EPOCH):
    rate = jax.jit(schedules.learning_rate(config, steps_per_epoch))
    return [float(rate(jnp.int32(round(epoch * steps_per_epoch)))) for epoch in epochs]


def test_constant():
    values = at_epochs(settings(0.02), (0, 1, 89))
    np.testing.assert_array_equal(values, np.float32([0.02] * 3))


def test_densenet_drops_at_30_and_60():
    config = settings(0.1, kind='steps', boundaries=(30.0, 60.0))
    values = at_epochs(config, (0, 29.999, 30, 59.999, 60, 89))
    np.testing.assert_array_equal(values, np.float32([0.1, 0.1, 0.01, 0.01, 0.001, 0.001]))


def test_a_drop_takes_effect_at_its_very_step():
    config = settings(0.1, kind='steps', boundaries=(2.0,))
    rate = schedules.learning_rate(config, 10)
    np.testing.assert_allclose([rate(k) for k in (0, 19, 20, 21)], [0.1, 0.1, 0.01, 0.01])


def test_resnet_on_cifar_drops_at_32k_and_48k_iterations():
    epochs = 50_000 / 128  # steps in an epoch
    config = settings(0.1, kind='steps', boundaries=(32_000 / epochs, 48_000 / epochs))
    rate = jax.jit(schedules.learning_rate(config, epochs))
    values = [rate(jnp.int32(k)) for k in (31_999, 32_000, 47_999, 48_000)]
    np.testing.assert_array_equal(values, np.float32([0.1, 0.01, 0.01, 0.001]))


def test_lenet5_has_a_rate_for_each_stretch():
    """Section III-B: passes 1-2, 3-5, 6-8, 9-12 and 13-20."""
    config = settings(
        0.0005, kind='steps', boundaries=(2.0, 5.0, 8.0, 12.0), rates=(2e-4, 1e-4, 5e-5, 1e-5)
    )
    values = at_epochs(config, range(20), steps_per_epoch=60_000)
    paper = [5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8
    np.testing.assert_array_equal(values, np.float32(paper))


@pytest.mark.parametrize(
    ('paper', 'rate', 'factor', 'every', 'epochs', 'expected'),
    [
        # GoogLeNet, section 6: "decreasing the learning rate by 4% every 8 epochs".
        ('googlenet', 0.01, 0.96, 8.0, (0, 7.999, 8, 16, 80), (0, 0, 1, 2, 10)),
        # Xception, section 4.3, ImageNet: 0.045, "0.94 every 2 epochs".
        ('xception', 0.045, 0.94, 2.0, (0, 1.999, 2, 4, 100), (0, 0, 1, 2, 50)),
        # SENet, section 4: 0.6, "decreased by a factor of 10 every 30 epochs".
        ('senet', 0.6, 0.1, 30.0, (0, 29.999, 30, 60, 90), (0, 0, 1, 2, 3)),
    ],
)
def test_exponential_in_stairs(paper, rate, factor, every, epochs, expected):
    config = settings(rate, kind='exponential', factor=factor, every=every)
    values = at_epochs(config, epochs, steps_per_epoch=5005)
    np.testing.assert_allclose(values, [rate * factor**k for k in expected], rtol=1e-5)


def test_xception_on_jft_counts_samples():
    """Section 4.3: 0.001, times 0.9 "every 3,000,000 samples", of 350 million."""
    images, batch = 350_000_000, 500
    config = settings(0.001, kind='exponential', factor=0.9, every=3_000_000 / images)
    rate = jax.jit(schedules.learning_rate(config, images / batch))
    values = [rate(jnp.int32(k)) for k in (5_999, 6_000, 11_999, 12_000)]
    np.testing.assert_allclose(values, 0.001 * 0.9 ** np.array([0, 1, 1, 2]), rtol=1e-6)


def test_no_stair_is_late_anywhere():
    """Beyond 2^24 steps float32 cannot count, the stairs still can."""
    config = settings(1.0, kind='exponential', factor=0.5, every=7.0)
    rate = jax.jit(schedules.learning_rate(config, 1_000_003))
    for stairs in (1, 2, 3, 4):
        edge = stairs * 7_000_021
        values = [rate(jnp.int32(k)) for k in (edge - 1, edge)]
        np.testing.assert_array_equal(values, [0.5 ** (stairs - 1), 0.5**stairs])


def test_cosine():
    values = at_epochs(settings(0.1, kind='cosine', epochs=90.0), (0, 30, 45, 90))
    np.testing.assert_allclose(values, [0.1, 0.075, 0.05, 0.0], atol=1e-5)
    config = settings(0.1, kind='cosine')
    config.train.steps = 10  # overrides the epochs
    np.testing.assert_allclose(schedules.learning_rate(config, 7)(5), 0.05, rtol=1e-6)


PAPERS_ON_PLATEAU = {  # first rate, drops (ResNet's number of drops is not printed)
    'alexnet': (0.01, 3), 'zfnet': (0.01, 3), 'vgg': (0.01, 3), 'resnet': (0.1, 2),
}  # fmt: skip


@pytest.mark.parametrize('paper', PAPERS_ON_PLATEAU)
def test_plateau(paper):
    """A tenth each time the error stops falling; the run ends when the last drop helps no more."""
    first, drops = PAPERS_ON_PLATEAU[paper]
    config = settings(first, kind='plateau', drops=drops, patience=3)
    rate = jax.jit(schedules.learning_rate(config, STEPS_PER_EPOCH))
    update = jax.jit(lambda f, error: schedules.plateau_update(f, error, config.schedule))
    feedback = schedules.initial_feedback()

    for level in range(drops + 1):
        assert not schedules.plateau_done(feedback, config.schedule)
        for error in (50.0 - level, 45.0 - level):  # falling
            feedback = update(feedback, error)
        for _ in range(3):  # three evaluations without progress
            np.testing.assert_array_equal(rate(0, feedback), np.float32(first * 0.1**level))
            feedback = update(feedback, 47.0 - level)
    assert schedules.plateau_done(feedback, config.schedule)
    assert float(feedback.best_error) == 45.0 - drops
    # The update that a loop may still do before it stops must not be at an even lower rate.
    np.testing.assert_array_equal(rate(0, feedback), np.float32(first * 0.1**drops))


def test_what_counts_as_better():
    config = settings(kind='plateau', patience=2, min_delta=0.1).schedule
    feedback = schedules.plateau_update(schedules.initial_feedback(), 40.0, config)
    assert (float(feedback.best_error), int(feedback.stale)) == (40.0, 0)
    feedback = schedules.plateau_update(feedback, 39.95, config)  # less than min_delta
    assert (float(feedback.best_error), int(feedback.stale), int(feedback.drops)) == (40.0, 1, 0)
    feedback = schedules.plateau_update(feedback, 39.5, config)
    assert (float(feedback.best_error), int(feedback.stale)) == (39.5, 0)
    feedback = schedules.plateau_update(feedback, float('nan'), config)
    feedback = schedules.plateau_update(feedback, 60.0, config)
    assert (float(feedback.best_error), int(feedback.stale), int(feedback.drops)) == (39.5, 0, 1)


def test_other_schedules_never_end_early():
    config = settings(kind='steps', drops=0)
    feedback = schedules.initial_feedback()._replace(drops=jnp.int32(5))
    assert not schedules.plateau_done(feedback, config.schedule)


def test_resnet_warmup():
    """Section 4.2: rate 0.01 until the training error is below 80 %, then back to 0.1 for good."""
    config = settings(
        0.1, kind='steps', boundaries=(50.0,), warmup_rate=0.01, warmup_until=80.0
    )  # fmt: skip
    rate = jax.jit(schedules.learning_rate(config, 391))
    update = jax.jit(lambda f, error: schedules.warmup_update(f, error, config.schedule))
    feedback = schedules.initial_feedback()
    rng = np.random.default_rng(0)
    for step in range(100):  # chance, with single batches well below 80 %
        assert float(rate(step, feedback)) == np.float32(0.01)
        feedback = update(feedback, 100 * rng.binomial(128, 0.9) / 128 - 25 * (step == 50))
    feedback = update(feedback, float('nan'))
    np.testing.assert_allclose(feedback.train_error, 90, atol=3)
    steps = 0
    while not feedback.warm:
        feedback, steps = update(feedback, 70.0), steps + 1
    assert 5 < steps < 30  # an average of about twenty batches
    assert float(rate(0, feedback)) == np.float32(0.1)
    feedback = update(feedback, 100.0)
    assert float(rate(0, feedback)) == np.float32(0.1)
    assert float(rate(50 * 391, feedback)) == np.float32(0.01)


def test_warmup_then_plateau():
    config = settings(0.1, kind='plateau', patience=1, drops=2, warmup_rate=0.03, warmup_until=80.0)
    rate = schedules.learning_rate(config, 10)
    feedback = schedules.initial_feedback()
    assert float(rate(0, feedback)) == np.float32(0.03)
    feedback = schedules.plateau_update(feedback, 50.0, config.schedule)
    feedback = schedules.plateau_update(feedback, 50.0, config.schedule)
    feedback = schedules.warmup_update(feedback._replace(train_error=50.0), 50.0, config.schedule)
    np.testing.assert_allclose(rate(0, feedback), 0.01, rtol=1e-6)


def test_feedback_is_stable_under_updates():
    """Same dtypes and shapes for ever: it is a leaf group of the checkpointed state."""
    config = settings(kind='plateau', warmup_until=80.0, warmup_rate=0.01).schedule
    before = schedules.initial_feedback()
    after = schedules.plateau_update(before, np.float64(3.0), config)
    after = schedules.warmup_update(after, np.float64(3.0), config)
    for old, new in zip(before, after, strict=True):
        assert (old.dtype, old.shape, old.weak_type) == (new.dtype, new.shape, new.weak_type)


def test_feedback_is_asked_for_where_it_matters():
    for keys in ({'kind': 'plateau'}, {'warmup_rate': 0.01, 'warmup_until': 80.0}):
        with pytest.raises(TypeError, match='depends on the feedback'):
            schedules.learning_rate(settings(**keys), 10)(0)


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        ({'kind': 'poly'}, r"schedule.kind = 'poly': choose one of constant, steps, plateau, exp"),
        ({'kind': 'exponential'}, r'schedule.every = 0.0: an exponential schedule needs'),
        ({'boundaries': (30.0, 30.0)}, r'schedule.boundaries = \(30.0, 30.0\): they must be posit'),
        ({'boundaries': (30.0,), 'rates': (0.1, 0.2)}, r'one for each of the 1 boundaries'),
        ({'factor': 0.0}, r'schedule.factor = 0.0'),
        ({'patience': 0}, r'schedule.patience = 0'),
        ({'drops': -1}, r'schedule.drops = -1'),
        ({'min_delta': -0.1}, r'schedule.min_delta = -0.1'),
        ({'warmup_until': 80.0}, r'schedule.warmup_rate = 0.0: a warm-up needs a positive rate'),
        ({'warmup_until': 101.0, 'warmup_rate': 0.1}, r'schedule.warmup_until = 101.0'),
    ],
)
def test_impossible_settings(keys, message):
    with pytest.raises(UserError, match=message):
        schedules.learning_rate(settings(**keys), 10)
