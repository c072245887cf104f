"""Trains one network of one paper: config -> mesh -> data -> model -> state -> loop.

    python train.py --config=configs/vgg.py:D --workdir=DIR [--config.optim.learning_rate=0.01]

The workdir receives config.json, classes.json, environment.json, checkpoints/<step>/,
metrics.jsonl, tensorboard/ and result.json; owner.json names the process that writes there, and
keeps a second run out. The training data names the classes; evaluation data is
matched to them by name. The same command goes on where the run stopped, and leaves a run that has
ended as it is. Ctrl-C or SIGTERM saves a checkpoint and exits with 75 (a second one leaves at
once); user errors exit with 2, a loss that is not finite with 3, a disk that is full with 74.
"""

import argparse
import pathlib
import time
from collections.abc import Callable

import ml_collections

from cnn_arch import cluster, commands, mesh, models, preflight
from cnn_arch.arguments import Parser
from cnn_arch.data import arrays, sources
from cnn_arch.data.loader import TrainingBatches
from cnn_arch.errors import PREEMPTED, Stopped
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result
from cnn_arch.training import checkpoint, curvature, report, schedules, validation, workdir
from cnn_arch.training import step as steps
from cnn_arch.training.signals import StopRequest
from cnn_arch.weights import initial


def main(argv: list[str]) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workdir', required=True, type=pathlib.Path, help='folder of the run')
    args, config = commands.parse(parser, argv)
    stop = StopRequest(config.checkpoint.grace)
    cluster.join()
    with stop.agreed(), preflight.owned(args.workdir) as check_owned:
        return train(config, args.workdir, stop, check_owned)


def train(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    stop: StopRequest,
    check_owned: Callable[[], None],
) -> int:
    """The run in a workdir that is this one's, as `check_owned` makes sure; its exit code."""
    train_source, eval_source = preflight.train(
        config,
        folder,
        lambda: sources.open_both(config),
        lambda: initial.facts(config, folder),
    )

    arrays.check(train_source, config.data.augment)
    devices = mesh.create_mesh(config.mesh)
    mesh.check_batch('train.batch_size', config.train.batch_size, devices)
    mesh.check_batch('eval.batch_size', config.eval.batch_size, devices)
    plan = steps.plan(config, len(train_source))
    model = models.build(config.model)
    abstract = steps.abstract_state(model, config, devices)
    train_step = steps.compile_train_step(model, config, devices, plan.per_epoch)
    with_curvature = steps.compile_curvature(model, config, devices)
    validation_is_the_test = validation.is_the_test(config)  # raises where one is impossible
    if report.told(folder, config):
        return 0
    check_owned()
    if not checkpoint.steps(folder):
        initial.check_classes(config, train_source)
    workdir.check_goes_on(folder, config, train_source.classes)

    with checkpoint.opened(folder, config.checkpoint) as checkpoints:
        if checkpoints.latest is None:
            state = initial.start(steps.create_state(model, config, devices), config, devices)
        else:
            state = steps.restore_state(checkpoints, abstract, devices)
        workdir.write_config(folder, config, train_source.classes)
        start = int(state.step)
        batches = TrainingBatches(train_source, config, devices, start, plan.total)
        log = report.Report(folder, config, plan, start, batches, int(state.evaluated) == start)
        log.begin(model, state, train_source, eval_source, devices)

        def upcoming(images: int) -> TrainingBatches:
            """The next batches of the stream that hold so many images."""
            count = -(-images // config.train.batch_size)
            return TrainingBatches(train_source, config, devices, step, step + count)

        def measured(
            state: steps.TrainState, settings: ml_collections.ConfigDict
        ) -> tuple[Result, float]:
            began = time.monotonic()
            variables = steps.variables(state.model())
            result = evaluate(model, variables, eval_source, settings, devices, check=stop.check)
            return result, time.monotonic() - began

        def validated(state: steps.TrainState) -> tuple[steps.TrainState, Result]:
            result, seconds = measured(state, validation.settings(config))
            log.validation(int(state.step), result, seconds)
            return steps.after_evaluation(state, result.top1_error, config, devices), result

        step = start
        done = start >= plan.total or schedules.plateau_done(state.feedback, config.schedule)
        ended = done and int(state.evaluated) == start  # but for its test, by an earlier start
        last = None  # the last validation
        try:
            if plan.evaluates_at(step) and int(state.evaluated) != step:
                state, last = validated(state)  # the run was stopped between this step and that
                done = done or schedules.plateau_done(state.feedback, config.schedule)
            for batch in () if done else batches:
                if with_curvature and plan.begins_a_pass_at(step):
                    state = with_curvature(state, upcoming(curvature.IMAGES))
                state, metrics = train_step(state, batch, frozen=plan.frozen_at(step))
                step += 1
                checkpoints.check()
                check_owned()
                if not log.step(step, metrics):
                    log.raise_diverged(state)
                stop.check()
                if plan.evaluates_at(step):
                    state, last = validated(state)
                    done = schedules.plateau_done(state.feedback, config.schedule)
                if done or step == plan.total:
                    break
                if plan.saves_at(step):
                    log.flush(step)
                    checkpoints.save(step, state.model(), state.training())

            precise = config.model.batch_norm.precise
            renewed = bool(precise and state.batch_stats and not ended)
            if renewed:
                more = upcoming(precise)
                state = steps.with_precise_statistics(state, model, config, devices, more)
            checkpoints.save(step, state.model(), state.training(), again=not ended)
            if last is None or renewed or not validation_is_the_test:
                result, seconds = measured(state, config)
            else:
                result, seconds = last, 0.0
            log.test(step, result, seconds)
            checkpoints.wait()
        except Stopped:
            checkpoints.save(step, state.model(), state.training(), wait=True)
            log.stopped(step)
            return PREEMPTED
        log.finish(step, state)
    return 0


if __name__ == '__main__':
    commands.run(main)
