"""What a run leaves in its workdir beside the checkpoints.

owner.json      the process that writes here, as long as it does (cnn_arch/owner.py)
config.json     the resolved configuration
classes.json    the names of the classes in their order, written once
environment.json  what computed it, from which step on (cnn_arch/environment.py)
metrics.jsonl   one line per report: step, epoch, seconds since the run began (of all its starts
                together), and what was measured: in training, in a validation, in the final test
tensorboard/    the same as TensorBoard events, made from it anew at each start
result.json     how the run ended; there is none while it goes on
"""

import json
import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from tensorboardX import SummaryWriter

from cnn_arch import files
from cnn_arch.commands import flatten
from cnn_arch.data import classes
from cnn_arch.errors import UserError, shown
from cnn_arch.training import checkpoint, manifest
from configs import base

# A checkpoint goes on only under these: they shape the parameters or the stream of samples.
FIXED_KEYS = ('seed', 'model.', 'data.source', 'data.seed', 'train.batch_size', 'optim.rule',
              'optim.polyak_decay', 'optim.freeze')  # fmt: skip
FREE_KEYS = ('model.dtype', 'model.batch_norm.precise', 'model.options.initialisation')
# What result.json says of the test.
MEASURED = ('top1_error', 'top5_error', 'images', 'complete')
# In each line of metrics.jsonl, also where a step has one of training and one of an evaluation.
WITH_EACH = ('epoch', 'seconds', 'seconds_evaluating')
RESULT, METRICS, BOARD = 'result.json', 'metrics.jsonl', 'tensorboard'
CLASSES = 'classes.json'
MOST_BYTES = 16 << 20  # of a JSON file that is read back


def check_goes_on(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, names: classes.Names = ()
) -> None:
    """Checks that the run in a workdir, if there is one, can go on; writes nothing.

    `names` are the classes of the training data. Raises UserError that names the key where that run
    has another architecture, seed or batch size, and the class where it has others. Other changed
    keys are printed.
    """
    new, kept = _plain(config), read_classes(workdir)
    if (workdir / 'config.json').exists():
        old = flatten(read_config(workdir))
        # The architecture first: where it differs, that is what the user wants to hear.
        keys = sorted(old.keys() | new.keys(), key=lambda key: (not key.startswith('model.'), key))
        for key in keys:
            if old.get(key) == new.get(key):
                continue
            change = f'{key} = {old.get(key)!r}, now {new.get(key)!r}'
            if key.startswith(FIXED_KEYS) and key not in FREE_KEYS:
                if key not in old:
                    change = f'an earlier version of train.py, which had no {key}'
                raise UserError(f'{workdir} holds a run with {change}: choose another --workdir')
            if jax.process_index() == 0:
                print(f'changed since the last start: {change}')
        if names and kept is None and jax.process_index() == 0:
            logging.warning('%s', unnamed(workdir, len(names)))
    if names and kept is not None:
        classes.require_same(names, 'the training data', kept, f'the run in {workdir}')


def write_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, names: classes.Names = ()
) -> None:
    """Writes config.json and classes.json of a run that begins or goes on; () keeps no names.

    The configuration holds from now on; the names are written once.
    """
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / 'config.json'
    if not path.exists() or flatten(read_config(workdir)) != _plain(config):
        write_json(path, json.loads(config.to_json_best_effort()))
    if names and read_classes(workdir) is None:
        write_json(workdir / CLASSES, list(names))


def read_classes(workdir: pathlib.Path) -> classes.Names | None:
    """The class names of the run in a workdir; None where it kept none. Raises UserError."""
    return classes.read(workdir / CLASSES)


def unnamed(folder: pathlib.Path, count: int) -> str:
    """What there is to say of a network that was made before class names were kept."""
    return f'{folder} has kept no class names: its {count:,} classes are compared by count alone'


def finished(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """The result of the run that has ended in a workdir under just this configuration, or None.

    None also where its last checkpoint is gone or damaged: then there is something to be done.
    """
    try:
        result = files.read_json(workdir / RESULT, dict, MOST_BYTES)
        same = flatten(read_config(workdir)) == _plain(config)
    except UserError:
        return None
    numbers = all(type(result.get(name)) in (int, float) for name in ('step', *MEASURED))
    if not same or not numbers or not isinstance(result.get('protocol'), str):
        return None
    if checkpoint.steps(workdir)[-1:] != [result['step']]:
        return None
    problem = manifest.problem(checkpoint.step_folder(workdir, result['step']))
    return None if problem else result


def record_environment(
    workdir: pathlib.Path, start: int, environment: dict[str, Any], goes_on: bool = True
) -> list[dict[str, Any]]:
    """All that has computed the run so far, each with the step that it computed `from_step` on.

    `environment` computes from step `start` on; what is recorded of later steps is of a run that
    was killed. Nothing is written unless the run `goes_on`.
    """
    path = workdir / 'environment.json'
    try:
        known = files.read_json(path, list, MOST_BYTES)
    except UserError:
        known = []
    known = [entry for entry in known if _from_step(entry) < start]
    if goes_on and (not known or {**known[-1], 'from_step': 0} != {'from_step': 0, **environment}):
        known.append({'from_step': start, **environment})
        if jax.process_index() == 0:
            write_json(path, known)
    return known


def _from_step(entry: Any) -> float:
    """Infinity for what is none of our records."""
    step = entry.get('from_step') if isinstance(entry, dict) else None
    return step if type(step) is int else float('inf')


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration of the run in a workdir. Raises UserError where there is none."""
    path = workdir / 'config.json'
    if not path.exists():
        raise UserError(f'{workdir}: no config.json, so no run of train.py')
    config = ml_collections.ConfigDict(files.read_json(path, dict, MOST_BYTES))
    check_types(path, flatten(config))
    return config


def check_types(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Raises UserError where a value that a file has under a key is not of that key's type."""
    for key, default in _plain(base.get_config()).items():
        if key in values and not _alike(values[key], default):
            raise UserError(
                f'{path}: {key} = {shown(repr(values[key]))}: expected {type(default).__name__}, '
                f'e.g. {default!r}'
            )


def _alike(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default, as JSON has both."""
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def check_architecture(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError that names the key where the run in a workdir has another network."""
    old, new = flatten(read_config(workdir)), _plain(config)
    for key in sorted(old.keys() | new.keys()):
        shapes = (key.startswith('model.') and key not in FREE_KEYS) or key == 'optim.polyak_decay'
        if shapes and old.get(key) != new.get(key):
            raise UserError(
                f'{workdir} holds a run with {key} = {old.get(key)!r}, but the config has '
                f'{new.get(key)!r}'
            )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes all of it or nothing."""
    _write(path, json.dumps(value, indent=2) + '\n')


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The leaves as JSON gives them back: tuples become lists."""
    return flatten(ml_collections.ConfigDict(json.loads(config.to_json_best_effort())))


class MetricsWriter:
    """Appends to metrics.jsonl and to the TensorBoard log; only the first process writes.

    `last` has the newest figure of each name that any start of the run has written.
    """

    def __init__(self, workdir: pathlib.Path, step: int, validated: bool):
        """Continues after `step`.

        Later lines, of a run that was killed, are dropped; so is the validation of `step` itself
        unless it is `validated`, since it will come again, and the test that ended a run which now
        goes on. Of the rest TensorBoard's events are made anew.
        """
        self.last: dict[str, Any] = {}
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._result = workdir / RESULT
        path, kept = workdir / METRICS, []
        if path.exists():
            for line in map(_parsed, path.read_text(errors='replace').splitlines()):
                self.last |= line
                repeated = 'validation_top1_error' in line and not validated
                later = line.get('step', step + 1) > step - repeated
                if not later and 'test_top1_error' not in line:
                    kept.append(line)
            _write(path, ''.join(json.dumps(line) + '\n' for line in kept))
        self._file = path.open('a')
        board = workdir / BOARD
        for events in board.glob('events.out.tfevents.*'):
            events.unlink()
        self._board = SummaryWriter(str(board))
        self._began = time.time() - (self.last.get('seconds') or 0.0)
        for line in kept:
            self._show(line)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; numbers that are not finite are written as null."""
        if not self._active:
            return
        self._result.unlink(missing_ok=True)  # of a run that had ended and goes on
        finite = {k: v if abs(v) < float('inf') else None for k, v in values.items()}
        self._file.write(json.dumps({'step': step, **finite}) + '\n')
        self._file.flush()
        self._show({'step': step, **finite})

    def _show(self, line: dict[str, Any]) -> None:
        when = self._began + (line.get('seconds') or 0.0)  # the pauses between starts are left out
        evaluation = 'loss' not in line
        for name, value in line.items():
            told = name == 'step' or (evaluation and name in WITH_EACH)  # by the line of the step
            if not told and value is not None:
                self._board.add_scalar(name, value, line['step'], walltime=when)

    def close(self) -> None:
        """Flushes both."""
        if self._active:
            self._file.close()
            self._board.close()


def _parsed(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl; {} for the last one of a killed run, which may be cut off."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    step = values.get('step') if isinstance(values, dict) else None
    if type(step) is not int or not 0 <= step < 1 << 63:
        return {}
    numbers = (int, float, type(None))
    return {name: value for name, value in values.items() if isinstance(value, numbers)}


def _write(path: pathlib.Path, text: str) -> None:
    """Writes all of it or nothing."""
    scratch = path.with_suffix('.tmp')
    scratch.write_text(text)
    os.replace(scratch, path)
