"""The papers' learning rates, as functions of the step and of what training has shown so far.

    steps         x factor at each of `boundaries` (DenseNet: epochs 30 and 60), or a rate for each
                  stretch in `rates` (LeNet-5: passes 1-2, 3-5, 6-8, 9-12, 13-20)
    exponential   x factor every `every` epochs, in stairs (GoogLeNet: 4 % every 8; Xception: 0.94
                  every 2; SENet: a tenth every 30)
    plateau       x factor when the validation error stops falling (AlexNet, ZFNet, VGG, ResNet)
    cosine        half a cosine down to 0 over the whole run
    constant

What depends on the errors seen is kept in a `Feedback`, a tuple of scalars inside the training
state, so that a restored run goes on exactly where it stopped:

    feedback = initial_feedback()
    rate = learning_rate(config, steps_per_epoch)(step, feedback)       # each step, jitted
    feedback = warmup_update(feedback, batch_error, config.schedule)    # each step, jitted
    feedback = plateau_update(feedback, top1_error, config.schedule)    # each evaluation
    if plateau_done(feedback, config.schedule): the run ends
"""

import itertools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import optax

from cnn_arch.errors import UserError

KINDS = ('constant', 'steps', 'plateau', 'exponential', 'cosine')

# A batch's error is noisy (128 images at 80 %: +-3.5), so the warm-up ends on an average over the
# last twenty or so batches.
WARMUP_AVERAGE = 0.95


class Feedback(NamedTuple):
    """What the schedule has learnt from the errors, all scalars."""

    best_error: jax.Array  # float32, percent, lowest top-1 error of an evaluation
    stale: jax.Array  # int32, evaluations since then or since the last drop
    drops: jax.Array  # int32, times the error has stopped falling
    train_error: jax.Array  # float32, percent, running average over training batches
    warm: jax.Array  # bool, the warm-up is over


class Schedule(Protocol):
    """From the steps done so far and what they have shown to the next one's learning rate."""

    def __call__(self, step: jax.Array | int, feedback: Feedback | None = None) -> jax.Array: ...


def initial_feedback() -> Feedback:
    """Before the first step."""
    return Feedback(
        best_error=jnp.asarray(jnp.inf, jnp.float32),
        stale=jnp.asarray(0, jnp.int32),
        drops=jnp.asarray(0, jnp.int32),
        train_error=jnp.asarray(100.0, jnp.float32),
        warm=jnp.asarray(False),
    )


def plateau_update(
    feedback: Feedback, top1_error: jax.Array | float, config: ml_collections.ConfigDict
) -> Feedback:
    """After an evaluation with this validation error (percent); `config` is `config.schedule`.

    A drop follows `patience` evaluations in a row that are not better than the best one by more
    than `min_delta`. An error that is not a number is not better.
    """
    error = jnp.asarray(top1_error, jnp.float32)
    better = error < feedback.best_error - config.min_delta
    stale = jnp.where(better, 0, feedback.stale + 1)
    drop = stale >= config.patience
    return feedback._replace(
        best_error=jnp.where(better, error, feedback.best_error),
        stale=jnp.where(drop, 0, stale).astype(jnp.int32),
        drops=feedback.drops + drop.astype(jnp.int32),
    )


def plateau_done(feedback: Feedback, config: ml_collections.ConfigDict) -> jax.Array:
    """Whether the rate after the last drop no longer helps either: bool scalar.

    AlexNet, section 5: the rate was "reduced three times prior to termination".
    """
    return jnp.logical_and(config.kind == 'plateau', feedback.drops > config.drops)


def warmup_update(
    feedback: Feedback, batch_error: jax.Array | float, config: ml_collections.ConfigDict
) -> Feedback:
    """After a training batch with this error (percent); `config` is `config.schedule`.

    ResNet, section 4.2: a rate of 0.01 "until the training error is below 80%", then 0.1.
    A batch whose error is not a number is left out of the running average.
    """
    error = jnp.asarray(batch_error, jnp.float32)
    average = WARMUP_AVERAGE * feedback.train_error + (1 - WARMUP_AVERAGE) * error
    average = jnp.where(jnp.isfinite(error), average, feedback.train_error)
    below = average < config.warmup_until
    return feedback._replace(train_error=average, warm=jnp.logical_or(feedback.warm, below))


def learning_rate(config: ml_collections.ConfigDict, steps_per_epoch: float) -> Schedule:
    """The function (step, feedback) -> rate, a float32 scalar, of a run's whole `config`.

    `step` (int32) counts the steps done before this one, whose updates have one rate. Epochs are
    turned into the nearest whole step. `feedback` may be left out where nothing depends on it:
    without plateau and warm-up.
    Raises UserError for an unknown kind or an impossible value.
    """
    _check(config)
    schedule, base = config.schedule, config.optim.learning_rate

    def steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch))

    rule: Schedule
    if schedule.kind == 'steps':
        count = len(schedule.boundaries)
        rates = tuple(schedule.rates) or _powers(base, schedule.factor, count)[1:]
        rule = _steps([steps(epoch) for epoch in schedule.boundaries], [base, *rates])
    elif schedule.kind == 'plateau':
        rule = _plateau(_powers(base, schedule.factor, schedule.drops))
    elif schedule.kind == 'exponential':
        rule = _exponential(base, schedule.factor, steps(schedule.every))
    elif schedule.kind == 'cosine':
        cosine = optax.cosine_decay_schedule(base, config.train.steps or steps(config.train.epochs))
        rule = lambda step, feedback=None: jnp.asarray(cosine(step), jnp.float32)  # noqa: E731
    else:
        rule = lambda step, feedback=None: jnp.asarray(base, jnp.float32)  # noqa: E731
    return _with_warmup(rule, schedule.warmup_rate) if schedule.warmup_until > 0 else rule


# The drops are tables of rates, not products of factors: each rate is the paper's to the last bit.


def _powers(base: float, factor: float, count: int) -> list[float]:
    return [base * factor**k for k in range(count + 1)]


def _steps(boundaries: list[int], rates: list[float]) -> Schedule:
    def rate(step: jax.Array | int, feedback: Feedback | None = None) -> jax.Array:
        passed = jnp.sum(jnp.asarray(boundaries, jnp.int32) <= step)
        return jnp.asarray(rates, jnp.float32)[passed]

    return rate


def _plateau(rates: list[float]) -> Schedule:
    def rate(step: jax.Array | int, feedback: Feedback | None = None) -> jax.Array:
        if feedback is None:
            raise TypeError('the rate of a plateau schedule depends on the feedback')
        return jnp.asarray(rates, jnp.float32)[jnp.minimum(feedback.drops, len(rates) - 1)]

    return rate


def _exponential(base: float, factor: float, interval: int) -> Schedule:
    def rate(step: jax.Array | int, feedback: Feedback | None = None) -> jax.Array:
        # Whole numbers divided as such: the floor of a quotient of floats may be one too small.
        stairs = jnp.asarray(step, jnp.int32) // interval
        return jnp.float32(base) * jnp.power(jnp.float32(factor), stairs)

    return rate


def _with_warmup(rule: Schedule, warmup_rate: float) -> Schedule:
    def rate(step: jax.Array | int, feedback: Feedback | None = None) -> jax.Array:
        if feedback is None:
            raise TypeError('the rate of a warm-up depends on the feedback')
        return jnp.where(feedback.warm, rule(step, feedback), jnp.float32(warmup_rate))

    return rate


def _check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values of `config.schedule` that no schedule can have."""
    schedule = config.schedule
    if schedule.kind not in KINDS:
        raise UserError(f'schedule.kind = {schedule.kind!r}: choose one of {", ".join(KINDS)}')
    boundaries = tuple(schedule.boundaries)
    problems = [
        ('factor', not 0 < schedule.factor < float('inf'), 'it must be a positive number'),
        (
            'boundaries',
            any(a >= b for a, b in itertools.pairwise((0, *boundaries))),
            'they must be positive and rise',
        ),
        (
            'rates',
            len(schedule.rates) not in (0, len(boundaries)),
            f'there must be one for each of the {len(boundaries)} boundaries, or none',
        ),
        (
            'every',
            schedule.kind == 'exponential' and not schedule.every > 0,
            'an exponential schedule needs a positive number of epochs between drops',
        ),
        ('drops', schedule.drops < 0, 'it must be 0 or more'),
        ('patience', schedule.patience < 1, 'it must be at least 1'),
        ('min_delta', not schedule.min_delta >= 0, 'it must be 0 or more'),
        (
            'warmup_rate',
            schedule.warmup_until > 0 and not schedule.warmup_rate > 0,
            'a warm-up needs a positive rate',
        ),
        ('warmup_until', not 0 <= schedule.warmup_until <= 100, 'it is a share in percent'),
    ]
    for key, wrong, advice in problems:
        if wrong:
            raise UserError(f'schedule.{key} = {schedule[key]}: {advice}')
