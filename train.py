"""Trains one network of one paper: config -> mesh -> data -> model -> state -> loop.

    python train.py --config=configs/vgg.py:D --workdir=DIR [--config.optim.learning_rate=0.01]

The workdir receives config.json, checkpoints/<step>/, metrics.jsonl, tensorboard/ and result.json.
The same command goes on where the run stopped. Ctrl-C or SIGTERM saves a checkpoint and exits with
75 (a second one leaves at once); user errors exit with 2, a loss that is not finite with 3, a disk
that is full with 74.
"""

import argparse
import pathlib
import time

from cnn_arch import cluster, commands, mesh, models, preflight
from cnn_arch.data import arrays, sources
from cnn_arch.data.loader import TrainingBatches
from cnn_arch.errors import PREEMPTED, Stopped
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.training import checkpoint, curvature, report, schedules, workdir
from cnn_arch.training import step as steps
from cnn_arch.training.signals import StopRequest
from cnn_arch.weights import initial


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--workdir', required=True, type=pathlib.Path, help='folder of the run')
    args, config = commands.parse(parser, argv)
    stop = StopRequest(config.checkpoint.grace)
    cluster.join()
    stop.agree()
    train_source, eval_source = preflight.run(
        config,
        args.workdir,
        lambda: [sources.open_for(config, split) for split in ('train', 'eval')],
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
    protocols.resolve(config)  # an impossible protocol ends the run here, not after an epoch
    workdir.open_workdir(args.workdir, config)

    with checkpoint.opened(args.workdir, config.checkpoint) as checkpoints:
        if checkpoints.latest is None:
            state = initial.start(steps.create_state(model, config, devices), config, devices)
        else:
            state = steps.restore_state(checkpoints, abstract, devices)
        start = int(state.step)
        batches = TrainingBatches(train_source, config, devices, start, plan.total)
        log = report.Report(args.workdir, config, plan, start, batches)
        log.begin(model, state, train_source, eval_source, devices)

        def upcoming(images: int) -> TrainingBatches:
            """The next batches of the stream that hold so many images."""
            count = -(-images // config.train.batch_size)
            return TrainingBatches(train_source, config, devices, step, step + count)

        def evaluated(state: steps.TrainState) -> steps.TrainState:
            began = time.monotonic()
            variables = steps.variables(state.model())
            result = evaluate(model, variables, eval_source, config, devices, check=stop.check)
            log.evaluation(int(state.step), result, time.monotonic() - began)
            return steps.after_evaluation(state, result.top1_error, config, devices)

        step = start
        done = start == plan.total or schedules.plateau_done(state.feedback, config.schedule)
        ended = done and int(state.evaluated) == start  # by an earlier start of the run
        try:
            if plan.evaluates_at(step) and int(state.evaluated) != step:
                state = evaluated(state)  # the run was stopped between this step and that
                done = done or schedules.plateau_done(state.feedback, config.schedule)
            for batch in () if done else batches:
                if with_curvature and plan.begins_a_pass_at(step):
                    state = with_curvature(state, upcoming(curvature.IMAGES))
                state, metrics = train_step(state, batch)
                step += 1
                checkpoints.check()
                if not log.step(step, metrics):
                    log.raise_diverged(state)
                stop.check()
                if plan.evaluates_at(step):
                    state = evaluated(state)
                    done = schedules.plateau_done(state.feedback, config.schedule)
                if done or step == plan.total:
                    break
                if plan.saves_at(step):
                    checkpoints.save(step, state.model(), state.training())

            precise = config.model.batch_norm.precise
            if precise and state.batch_stats and not ended:
                more = upcoming(precise)
                state = steps.with_precise_statistics(state, model, config, devices, more)
                state = evaluated(state)
            checkpoints.save(step, state.model(), state.training(), wait=True, again=not ended)
            if log.result is None:  # the run had ended before: measure it again
                evaluated(state)
        except Stopped:
            checkpoints.save(step, state.model(), state.training(), wait=True)
            log.stopped(step)
            return PREEMPTED
        log.finish(step)
    return 0


if __name__ == '__main__':
    commands.run(main)
