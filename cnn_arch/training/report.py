"""What a run tells while it goes: progress, metrics.jsonl, TensorBoard, the final result."""

import collections
import math
import os
import pathlib
import sys
import time
from typing import Any, NoReturn

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cnn_arch import environment
from cnn_arch import mesh as meshes
from cnn_arch.data.loader import TrainingBatches
from cnn_arch.data.sources import Source
from cnn_arch.errors import Diverged
from cnn_arch.evaluation.result import Result
from cnn_arch.training import checkpoint
from cnn_arch.training.step import Metrics, Plan, TrainState
from cnn_arch.training.workdir import (
    RESULT,
    MetricsWriter,
    finished,
    record_environment,
    write_json,
)

BAR = 20  # characters of the live bar


class Report:
    """Watches the metrics of a run without making its steps wait for them."""

    def __init__(
        self,
        workdir: pathlib.Path,
        config: ml_collections.ConfigDict,
        plan: Plan,
        start: int,
        batches: TrainingBatches,
        validated: bool,
    ):
        """`start` is the step that the run goes on from, and whether it was `validated` already."""
        self._result: dict[str, Any] = {}
        self._workdir, self._config, self._plan, self._batches = workdir, config, plan, batches
        self._start = start
        self._writer = MetricsWriter(workdir, start, validated)
        # What earlier starts of the run have taken, as far as they came to say it.
        self._seconds_before = self._writer.last.get('seconds') or 0.0
        self._evaluating_before = self._writer.last.get('seconds_evaluating') or 0.0
        self._window: list[Metrics] = []  # of the steps since the last report
        self._in_flight: collections.deque[Metrics] = collections.deque()
        self._bad: Metrics | None = None  # of the first step that was not finite
        self._began = self._since = time.monotonic()
        self._evaluating = self._evaluating_since = 0.0  # seconds, not counted as training
        self._last_step, self._waited = start, 0.0
        self._environments: list[dict[str, Any]] = []

    def begin(
        self, model: nn.Module, state: TrainState, train: Source, evaluation: Source, mesh: Mesh
    ) -> None:
        """Says what is about to run, and where it goes on."""
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        config, plan = self._config, self._plan
        say(f'{config.model.name} {config.model.variant}: {count:,} parameters, '
            f'{config.model.dtype}')  # fmt: skip
        say(f'{train.name}: {len(train):,} training images, {len(evaluation):,} for evaluation, '
            f'{train.num_classes} classes')  # fmt: skip
        here = environment.describe(config, mesh)
        say(environment.line(here, evaluation=False))
        say(f'trains in {here["training"]}; evaluates in {here["evaluation"]} '
            f'(eval.precision={config.eval.precision})')  # fmt: skip
        say(f'{plan.total:,} steps of {config.train.batch_size} images')
        self._environments = record_environment(
            self._workdir, self._start, here, goes_on=self._start < plan.total
        )
        if self._start:
            say(f'going on from the checkpoint of step {self._start:,}')
            first = {k: v for k, v in (self._environments or [here])[0].items() if k != 'from_step'}
            changes = environment.differences(first, here)
            if changes:
                say(f'not what began this run: {"; ".join(changes)}; from here on the numbers are '
                    'those of an undisturbed run up to rounding (docs/numbers.md)')  # fmt: skip

    def step(self, step: int, metrics: Metrics) -> bool:
        """Takes note of a step that is under way; False once a loss was not finite ('stop')."""
        self._window.append(metrics)
        self._in_flight.append(metrics)
        # Two steps back: computed by now, so looking does not hold up the device.
        while len(self._in_flight) > (2 if step < self._plan.total else 0):
            oldest = self._in_flight.popleft()
            if self._bad is None and int(oldest['bad_updates']):
                self._bad = oldest
        if step % self._config.train.log_every == 0 or step == self._plan.total:
            self.flush(step)
        return self._bad is None or self._config.train.on_nonfinite == 'skip'

    def flush(self, step: int) -> None:
        """Reports the steps since the last line, where there are any.

        Due with each checkpoint, too: the lines of a run that is killed and goes on from there then
        tell of each step once, and of each update that was left out.
        """
        if not self._window:
            return
        window = jax.device_get(self._window)
        self._window = []
        now = time.monotonic()
        seconds = max(now - self._since - self._evaluating_since, 1e-9)
        trained = now - self._began - self._evaluating
        rate = (step - self._last_step) * self._config.train.batch_size / seconds
        mean = {name: float(sum(m[name] for m in window) / len(window)) for name in window[0]}
        values = {
            'epoch': step / self._plan.per_epoch,
            'loss': mean['loss'],
            'train_top1_error': mean['top1_error'],
            'learning_rate': float(window[-1]['learning_rate']),
            'images_per_second': rate,
            'images_per_second_per_device': rate / jax.device_count(),
            'input_wait_percent': min(100.0, 100 * (self._batches.waited - self._waited) / seconds),
            'skipped_updates': sum(int(m['bad_updates']) for m in window),
            'bad_images': sum(int(m.get('replaced', 0)) for m in window),
            **self._seconds(),
        }
        eta = trained / max(step - self._start, 1) * (self._plan.total - step)
        self._since, self._last_step = now, step
        self._waited, self._evaluating_since = self._batches.waited, 0.0
        self._writer.write(step, values)
        line = (
            f'step {step:,}/{self._plan.total:,}  epoch {values["epoch"]:.2f}  '
            f'loss {values["loss"]:.4f}  error {values["train_top1_error"]:.1f} %  '
            f'rate {values["learning_rate"]:.2g}  {rate:.0f} images/s '
            f'({values["images_per_second_per_device"]:.0f} per device)  '
            f'waits for input {values["input_wait_percent"]:.0f} %  ETA {clock(eta)}'
        )
        if values['skipped_updates']:
            line += f'  {values["skipped_updates"]:,} updates skipped: not finite'
        if values['bad_images']:
            line += f'  {values["bad_images"]:,} images replaced: they do not decode'
        say(line, live=step / self._plan.total)

    def validation(self, step: int, result: Result, seconds: float) -> None:
        """Takes note of a validation that took that long."""
        self._took(seconds)
        self._evaluated(step, 'validation', result)
        say(f'step {step:,}  validation: {result}')

    def test(self, step: int, result: Result, seconds: float) -> None:
        """Takes note of the test at the end, which is the run's result."""
        self._took(seconds)
        self.flush(step)
        self._evaluated(step, 'test', result)
        self._result = {
            'top1_error': result.top1_error,
            'top5_error': result.top5_error,
            'images': result.n,
            'complete': result.complete,
            **({'ties': result.ties} if result.ties else {}),
        }
        say(f'step {step:,}  test, {self._config.eval.protocol}: {result}')

    def _took(self, seconds: float) -> None:
        self._evaluating += seconds
        self._evaluating_since += seconds

    def _evaluated(self, step: int, name: str, result: Result) -> None:
        self._writer.write(step, {
            'epoch': step / self._plan.per_epoch,
            f'{name}_top1_error': result.top1_error,
            f'{name}_top5_error': result.top5_error,
            **self._seconds(),
        })  # fmt: skip
        if result.ties:
            say(f'step {step:,}  {name}: {result.ties}')

    def _seconds(self) -> dict[str, float]:
        """Since the run began, of all its starts together; those of evaluations among them."""
        return {
            'seconds': self._seconds_before + time.monotonic() - self._began,
            'seconds_evaluating': self._evaluating_before + self._evaluating,
        }

    def raise_diverged(self, state: TrainState) -> NoReturn:
        """Ends the run: raises Diverged that names the step, the rate and the last finite loss."""
        assert self._bad is not None
        rate, last = float(self._bad['learning_rate']), float(state.good_loss)
        kept = checkpoint.steps(self._workdir)
        raise Diverged(
            f'loss or gradient not finite in step {int(state.bad_step) + 1:,} at learning rate '
            f'{rate:g}; last finite loss {"none" if math.isnan(last) else f"{last:.4g}"}; '
            f'last good checkpoint {kept[-1] if kept else "none"} in {self._workdir}. '
            'Lower --config.optim.learning_rate, or leave such updates out: '
            '--config.train.on_nonfinite=skip'
        )

    def stopped(self, step: int) -> None:
        """Says how to go on after a signal."""
        self.flush(step)
        self._writer.close()
        say(f'stopped at step {step:,} with a checkpoint; the same command goes on from there')

    def finish(self, step: int, state: TrainState) -> None:
        """Writes result.json and says where everything lies."""
        self._writer.close()
        result = {
            'model': f'{self._config.model.name}:{self._config.model.variant}',
            'step': step,
            'updates': int(state.updates),
            'epochs': step / self._plan.per_epoch,
            'protocol': self._config.eval.protocol,
            **self._result,
            **self._seconds(),
            'environments': self._environments,
        }
        if jax.process_index() == 0:
            write_json(self._workdir / RESULT, result)
        say(f'done in {clock(result["seconds"])}; see {self._workdir}: checkpoints/{step}, '
            'metrics.jsonl, tensorboard/, result.json')  # fmt: skip


def told(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the run in a workdir has ended under just this configuration; if so, says how."""
    result = finished(workdir, config) if jax.process_index() == 0 else None
    ended = bool(meshes.exchange(np.asarray(result is not None))[0])
    if result is not None:
        images, complete = result['images'], result['complete']
        count = f'{images:,}' if images == complete else f'{images:,} of {complete:,}'
        say(f'{workdir}: the run has ended at step {result["step"]:,}; {result["protocol"]}: '
            f'top-1 error {result["top1_error"]:.2f} %  top-5 error {result["top5_error"]:.2f} %  '
            f'n = {count}; nothing is left to do')  # fmt: skip
    return ended


def say(line: str, live: float | None = None) -> None:
    """Prints from the first process; with the share done, over the last line on a terminal.

    Where nobody reads any more, the run goes on: metrics.jsonl tells the same.
    """
    if jax.process_index() != 0:
        return
    try:
        if not sys.stdout.isatty():
            print(line, flush=True)
        elif live is None:
            print(f'\r\033[K{line}', flush=True)
        else:
            full = round(BAR * live)
            print(f'\r\033[K[{"#" * full}{"-" * (BAR - full)}] {line}', end='', flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still to be written ends there, too
        os.close(nowhere)


def clock(seconds: float) -> str:
    """4000 -> '1:06:40'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}'
