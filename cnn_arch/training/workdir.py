"""What a run leaves in its workdir beside the checkpoints.

config.json     the resolved configuration
metrics.jsonl   one line per report: step, epoch, and what was measured
tensorboard/    the same as TensorBoard events
environment.json  what computed it, from which step on (cnn_arch/environment.py)
result.json     how the run ended
"""

import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
from tensorboardX import SummaryWriter

from cnn_arch.commands import flatten
from cnn_arch.errors import UserError

# A checkpoint goes on only under these: they shape the parameters or the stream of samples.
FIXED_KEYS = ('seed', 'model.', 'data.source', 'train.batch_size', 'optim.rule',
              'optim.polyak_decay')  # fmt: skip
FREE_KEYS = ('model.dtype', 'model.batch_norm.precise')


def open_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Creates the folder with its config.json, or checks that the run in it can go on.

    Raises UserError that names the key where the run in it has another architecture, seed or
    batch size. Other changed keys are printed and hold from now on.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--workdir={workdir}: {error.strerror}') from error
    path = workdir / 'config.json'
    new = _plain(config)
    if path.exists():
        old = flatten(read_config(workdir))
        # The architecture first: where it differs, that is what the user wants to hear.
        keys = sorted(old.keys() | new.keys(), key=lambda key: (not key.startswith('model.'), key))
        for key in keys:
            if old.get(key) == new.get(key):
                continue
            change = f'{key} = {old.get(key)!r}, now {new.get(key)!r}'
            if key.startswith(FIXED_KEYS) and key not in FREE_KEYS:
                raise UserError(f'{workdir} holds a run with {change}: choose another --workdir')
            if jax.process_index() == 0:
                print(f'changed since the last start: {change}')
    if jax.process_index() == 0:
        write_json(path, json.loads(config.to_json_best_effort()))


def record_environment(
    workdir: pathlib.Path, start: int, environment: dict[str, Any], goes_on: bool = True
) -> list[dict[str, Any]]:
    """All that has computed the run so far, each with the step that it computed `from_step` on.

    `environment` computes from step `start` on; what is recorded of later steps is of a run that
    was killed. Nothing is written unless the run `goes_on`.
    """
    path = workdir / 'environment.json'
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = []
    known = [entry for entry in known if entry['from_step'] < start]
    if goes_on and (not known or {**known[-1], 'from_step': 0} != {'from_step': 0, **environment}):
        known.append({'from_step': start, **environment})
        if jax.process_index() == 0:
            write_json(path, known)
    return known


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration of the run in a workdir. Raises UserError where there is none."""
    path = workdir / 'config.json'
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f'{workdir}: no config.json, so no run of train.py') from error
    except ValueError as error:
        raise UserError(f'{path}: not valid JSON ({error})') from error
    return ml_collections.ConfigDict(values)


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
    scratch = path.with_suffix('.tmp')
    scratch.write_text(json.dumps(value, indent=2) + '\n')
    os.replace(scratch, path)


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The leaves as JSON gives them back: tuples become lists."""
    return flatten(ml_collections.ConfigDict(json.loads(config.to_json_best_effort())))


class MetricsWriter:
    """Appends to metrics.jsonl and to the TensorBoard log; only the first process writes."""

    def __init__(self, workdir: pathlib.Path, step: int):
        """Continues after `step`: later lines, of a run that was killed, are dropped."""
        self._active = jax.process_index() == 0
        if not self._active:
            return
        path = workdir / 'metrics.jsonl'
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text(''.join(f'{line}\n' for line in lines))
        self._file = path.open('a')
        self._board = SummaryWriter(str(workdir / 'tensorboard'), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; numbers that are not finite are written as null."""
        if not self._active:
            return
        finite = {k: v if abs(v) < float('inf') else None for k, v in values.items()}
        self._file.write(json.dumps({'step': step, **finite}) + '\n')
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes both."""
        if self._active:
            self._file.close()
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
        return float('inf')  # the last line of a killed run may be cut off
