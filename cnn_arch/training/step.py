"""The state of a training run and the pure function that advances it by one batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.data import preprocess
from cnn_arch.errors import UserError
from cnn_arch.training import (
    checkpoint,
    curvature,
    losses,
    optimisers,
    parameters,
    precise_bn,
    schedules,
)

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run must remember; the state of the input is `step`."""

    step: jax.Array  # int32, batches seen
    params: Any
    batch_stats: Any  # running statistics of batch normalisation, {} without
    average: Any  # Polyak averages {'params': ..., 'batch_stats': ...}, {} without
    optimiser: Any  # of the parameters that train
    updates: jax.Array  # int32, those that were not left out
    feedback: schedules.Feedback  # what the schedule has learnt from the errors
    bad_step: jax.Array  # int32, the first whose loss or gradient was not finite, -1 if none
    good_loss: jax.Array  # float32, the last finite loss
    evaluated: jax.Array  # int32, step of the last evaluation that the feedback has seen

    def model(self) -> dict[str, Any]:
        """What evaluation needs."""
        return {
            'params': self.params, 'batch_stats': self.batch_stats, 'average': self.average,
        }  # fmt: skip

    def training(self) -> dict[str, Any]:
        """The rest."""
        names = {field.name for field in dataclasses.fields(self)} - self.model().keys()
        return {name: getattr(self, name) for name in sorted(names)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, in steps, and what happens when."""

    total: int
    per_epoch: float
    eval_every: int
    save_every: int
    freeze_at: int | None  # from this step on batch normalisation's statistics stay; None = never

    def evaluates_at(self, step: int) -> bool:
        """At multiples of `eval_every` and at the end."""
        return step > 0 and (step % self.eval_every == 0 or step == self.total)

    def begins_a_pass_at(self, step: int) -> bool:
        """Whether the training set begins anew, up to a part of a batch."""
        return step % max(1, round(self.per_epoch)) == 0

    def saves_at(self, step: int) -> bool:
        """At multiples of `save_every`."""
        return step % self.save_every == 0

    def frozen_at(self, step: int) -> bool:
        """Whether the step after this many uses the running statistics and leaves them alone."""
        return self.freeze_at is not None and step >= self.freeze_at


def plan(config: ml_collections.ConfigDict, images: int) -> Plan:
    """The plan of a run over a training set of that many images."""
    per_epoch = images / config.train.batch_size
    return Plan(
        total=config.train.steps or max(1, round(config.train.epochs * per_epoch)),
        per_epoch=per_epoch,
        eval_every=config.train.eval_every or max(1, round(per_epoch)),
        save_every=config.checkpoint.every,
        freeze_at=round(freeze * per_epoch) if (freeze := config.train.freeze_statistics) else None,
    )


def variables(model_item: dict[str, Any]) -> dict[str, Any]:
    """The Flax variables that evaluation uses: the averages where there are some."""
    used = model_item['average'] or model_item
    stats = used['batch_stats']
    return {'params': used['params'], **({'batch_stats': stats} if stats else {})}


def init_state(model: nn.Module, config: ml_collections.ConfigDict) -> TrainState:
    """The state before the first step, from `config.seed`. Jit it, or jax.eval_shape it.

    Raises UserError where a pattern of `config.optim` matches no parameter.
    """
    side = config.data.augment.size
    images = jnp.zeros((1, side, side, config.data.channels))
    fresh = model.init(jax.random.key(config.seed), images)
    params, batch_stats = fresh['params'], fresh.get('batch_stats', {})
    parameters.check_patterns(params, config.optim)
    trained, _ = parameters.split(params, config.optim.freeze)
    average = {'params': params, 'batch_stats': batch_stats}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        average=average if config.optim.polyak_decay else {},
        optimiser=optimisers.build(config.optim).init(trained),
        updates=jnp.int32(0),
        feedback=schedules.initial_feedback(),
        bad_step=jnp.int32(-1),
        good_loss=jnp.float32(jnp.nan),
        evaluated=jnp.int32(0),
    )


def create_state(model: nn.Module, config: ml_collections.ConfigDict, mesh: Mesh) -> TrainState:
    """`init_state` computed on the mesh."""
    layout = meshes.shardings(abstract_state(model, config, mesh))
    return jax.jit(lambda: init_state(model, config), out_shardings=layout)()


def abstract_state(model: nn.Module, config: ml_collections.ConfigDict, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing it.

    Raises UserError where `mesh.model` does not divide a layer that it splits.
    """
    shapes = jax.eval_shape(lambda: init_state(model, config))
    rules = models.sharding_rules(config.model)
    state = meshes.abstract(mesh, shapes, rules)
    if config.mesh.shard_optimiser:
        optimiser = meshes.abstract(mesh, shapes.optimiser, rules, over_data=True)
        state = dataclasses.replace(state, optimiser=optimiser)
    return state


def restore_state(
    checkpoints: checkpoint.Checkpoints, abstract: TrainState, mesh: Mesh
) -> TrainState:
    """The newest checkpoint as a state of `abstract`'s shapes and shardings.

    A bad step ended the run that made it; here it would have `on_nonfinite=stop` leave out every
    update.
    """
    assert checkpoints.latest is not None
    model, rest = checkpoints.restore(checkpoints.latest, abstract.model(), abstract.training())
    return TrainState(**model, **{**rest, 'bad_step': meshes.replicate(mesh, np.int32(-1))})


def after_evaluation(
    state: TrainState, top1_error: float, config: ml_collections.ConfigDict, mesh: Mesh
) -> TrainState:
    """The state that has learnt a validation error (percent); `plateau` schedules act on it."""
    feedback = schedules.plateau_update(state.feedback, top1_error, config.schedule)
    learnt = meshes.replicate(mesh, (feedback, state.step))
    return dataclasses.replace(state, feedback=learnt[0], evaluated=learnt[1])


def with_precise_statistics(
    state: TrainState,
    model: nn.Module,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    batches: Iterable[dict[str, jax.Array]],
) -> TrainState:
    """The state with batch normalisation's running statistics taken anew over training batches.

    They are those of the parameters that evaluation uses: of the averages where there are some.
    """
    dropout_key = jax.random.fold_in(jax.random.key(config.seed), 2)

    @jax.jit
    def apply(inputs: Any, batch: dict[str, jax.Array]) -> Any:
        images = preprocess.normalise(batch, config.data)
        rngs = {'dropout': dropout_key}
        _, updated = model.apply(inputs, images, train=True, rngs=rngs, mutable=['batch_stats'])
        return updated['batch_stats']

    momentum = config.model.batch_norm.momentum
    statistics = precise_bn.recompute_statistics(apply, variables(state.model()), batches, momentum)
    statistics = meshes.replicate(mesh, statistics)
    if state.average:
        return dataclasses.replace(state, average={**state.average, 'batch_stats': statistics})
    return dataclasses.replace(state, batch_stats=statistics)


def compile_curvature(
    model: nn.Module, config: ml_collections.ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Iterable[dict[str, jax.Array]]], TrainState] | None:
    """(state, batches) -> the state whose optimiser has taken second derivatives anew over them.

    None where the update rule has no use for them; raises UserError where the network has none.
    """
    if not curvature.wanted(config):
        return None
    diagonal = curvature.diagonal(model, config)

    @functools.partial(jax.jit, out_shardings=meshes.replicated(mesh))
    def of_batch(params: Any, batch: dict[str, jax.Array]) -> Any:
        return diagonal(params, preprocess.normalise(batch, config.data), batch['label'])

    def with_curvature(state: TrainState, batches: Iterable[dict[str, jax.Array]]) -> TrainState:
        each = [of_batch(state.params, batch) for batch in batches]
        h = jax.tree.map(lambda *leaves: sum(leaves) / len(each), *each)
        h, _ = parameters.split(h, config.optim.freeze)
        return dataclasses.replace(state, optimiser=optimisers.with_curvature(state.optimiser, h))

    return with_curvature


def make_train_step(
    model: nn.Module, config: ml_collections.ConfigDict, steps_per_epoch: float
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The pure function (state, batch, frozen=False) -> (state, metrics).

    A step is one update from the whole batch; with `train.update_size` it is several, one after
    another. Metrics are scalars: loss (nats, mean over the batch), top1_error (percent of the
    batch), learning_rate, bad_updates (those whose loss or gradient was not finite), with
    `data.on_bad_image=skip` also replaced (images of the batch); of equal scores the first is the
    answer. A bad update is left out; with `train.on_nonfinite=stop` so are all after it, until the
    loop notices and ends the run.

    With `frozen` batch normalisation uses its running statistics and does not update them. It must
    be known when this is compiled. Raises UserError where the network has none, though
    `train.freeze_statistics` asks for it.
    """
    frozen_model = _with_frozen_statistics(model, config)
    optimiser = optimisers.build(config.optim)
    schedule = schedules.learning_rate(config, steps_per_epoch)
    dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)

    def loss_of(
        network: nn.Module,
        trained: Any,
        fixed: Any,
        batch_stats: Any,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        inputs = {'params': parameters.merged(trained, fixed)}
        if batch_stats:
            inputs['batch_stats'] = batch_stats
        (logits, endpoints), updated = network.apply(
            inputs,
            images,
            train=True,
            rngs={'dropout': key},
            mutable=['batch_stats'],
        )
        loss = losses.loss(logits, endpoints, labels, config.loss).mean()
        return loss, (logits, updated.get('batch_stats', {}))

    def update(
        network: nn.Module,
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        trained, fixed = parameters.split(state.params, config.optim.freeze)
        gradient_of = jax.value_and_grad(functools.partial(loss_of, network), has_aux=True)
        (loss, (logits, batch_stats)), gradients = gradient_of(
            trained, fixed, state.batch_stats, images, labels, key
        )
        error = 100 * jnp.mean(jnp.argmax(logits, axis=-1) != labels)
        rate = schedule(state.step, state.feedback)
        updates, optimiser_state = optimiser.update(
            gradients, state.optimiser, trained, learning_rate=rate
        )
        trained = optax.apply_updates(trained, updates)
        if config.optim.filter_rms:
            trained = optimisers.renormalise_filters(trained, config.optim.filter_rms)
        params = parameters.merged(trained, fixed)
        average = state.average
        if config.optim.polyak_decay:
            # The batch's own statistics, from what it has moved the running ones by.
            own = jax.tree.map(
                lambda new, old: old + (new - old) / (1 - config.model.batch_norm.momentum),
                batch_stats,
                state.batch_stats,
            )
            new = {'params': params, 'batch_stats': own}
            average = optimisers.update_average(
                average, new, config.optim.polyak_decay, state.updates + 1
            )

        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradients))
        accept = finite
        if config.train.on_nonfinite == 'stop':
            accept &= state.bad_step < 0

        def choose(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(accept, n, o), new, old)

        state = dataclasses.replace(
            state,
            params=choose(params, state.params),
            batch_stats=choose(batch_stats, state.batch_stats),
            average=choose(average, state.average),
            optimiser=choose(optimiser_state, state.optimiser),
            updates=state.updates + accept,
            feedback=schedules.warmup_update(state.feedback, error, config.schedule),
            bad_step=jnp.where(finite | (state.bad_step >= 0), state.bad_step, state.step),
            good_loss=jnp.where(finite, loss, state.good_loss),
        )
        metrics = {'loss': loss, 'top1_error': error, 'learning_rate': rate,
                   'bad_updates': 1 - finite.astype(jnp.int32)}  # fmt: skip
        return state, metrics

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], frozen: bool = False
    ) -> tuple[TrainState, Metrics]:
        network = frozen_model if frozen else model
        images = preprocess.normalise(batch, config.data)
        labels = batch['label']
        key = jax.random.fold_in(dropout_key, state.step)
        if config.train.update_size:
            count = len(labels) // config.train.update_size
            parts = jax.tree.map(
                lambda x: x.reshape(count, -1, *x.shape[1:]), (images, labels)
            )  # [count, update_size, ...]
            state, each = jax.lax.scan(
                lambda state, part: update(network, state, *part),
                state,
                (*parts, jax.random.split(key, count)),
            )
            metrics = {name: value.mean(axis=0) for name, value in each.items()}
            metrics['bad_updates'] = each['bad_updates'].sum()
        else:
            state, metrics = update(network, state, images, labels, key)
        if 'replaced' in batch:
            metrics['replaced'] = batch['replaced'].sum()
        return dataclasses.replace(state, step=state.step + 1), metrics

    return train_step


def _with_frozen_statistics(model: nn.Module, config: ml_collections.ConfigDict) -> nn.Module:
    """The network whose batch normalisation uses running statistics in training, too."""
    settings = getattr(model, 'batch_norm', None)
    if settings is None:
        if config.train.freeze_statistics:
            raise UserError(
                f'train.freeze_statistics = {config.train.freeze_statistics:g}: '
                f'{config.model.name} {config.model.variant} has no batch normalisation here'
            )
        return model
    return model.clone(batch_norm=dataclasses.replace(settings, frozen=True))


def compile_train_step(
    model: nn.Module, config: ml_collections.ConfigDict, mesh: Mesh, steps_per_epoch: float
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`make_train_step`, jitted over the mesh; the state that goes in is given up (donated)."""
    layout = meshes.shardings(abstract_state(model, config, mesh))
    return jax.jit(
        make_train_step(model, config, steps_per_epoch),
        static_argnames='frozen',
        donate_argnums=0,
        out_shardings=(layout, meshes.replicated(mesh)),
    )
