"""Several processes are one run: the samples, the losses, the stop, the end when one dies."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cnn_arch.training import checkpoint
from tests.chaos.chaos import Run
from tests.shared import ROOT
from tests.test_train import losses, train

LENET = ['--config=configs/demo.py:lenet5', '--config.train.batch_size=16',
         '--config.eval.batch_size=16', '--config.train.log_every=1',
         '--config.checkpoint.every=7']  # fmt: skip

# Prints the SHA-256 of each sample that this process supplies: [step, row, digest].
SAMPLES = """
import hashlib, json, sys
import numpy as np
from cnn_arch import cluster, commands, configuration, mesh
from cnn_arch.data import sources
from cnn_arch.data.loader import TrainingBatches

def main(argv):
    workers, start, stop = map(int, argv)
    config = configuration.load('configs/demo.py:vgg_jitter')
    keys = [('data.source', 'digits'), ('data.channels', '3'), ('train.batch_size', '8'),
            ('data.workers', str(workers))]
    commands.apply_overrides(config, keys)
    cluster.join()
    devices = mesh.create_mesh(config.mesh)
    source = sources.open_for(config, 'train')
    for step, batch in enumerate(TrainingBatches(source, config, devices, start, stop), start):
        shards = {name: array.addressable_shards for name, array in sorted(batch.items())}
        for number in range(len(shards['label'])):
            first = shards['label'][number].index[0].start or 0
            rows = {name: np.asarray(parts[number].data) for name, parts in shards.items()}
            for row in range(len(rows['label'])):
                digest = hashlib.sha256()
                for name in rows:
                    digest.update(rows[name][row].tobytes())
                print(json.dumps([step, first + row, digest.hexdigest()]), flush=True)

if __name__ == '__main__':
    commands.run(main)
"""
# Of the samples of steps 0 to 5, each a line of SHA-256, in order: the stream itself.
RECORDED = '17f62fa9bb5df5cc42735c15057e15f5591059aea3a6f5dcaa9038e039d97fc4'


def samples(
    folder: pathlib.Path, processes: int, workers: int, start: int = 0, stop: int = 6
) -> dict[tuple[int, int], str]:
    """The digest of each sample by step and row, as the processes of a run read them."""
    program = folder / 'samples.py'
    program.write_text(SAMPLES)
    done = subprocess.run(
        [sys.executable, 'launch/local.py', f'--processes={processes}', '--', sys.executable,
         str(program), str(workers), str(start), str(stop)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line[line.index('] ') + 2 :]) for line in done.stdout.splitlines()
             if line.startswith('[') and line.endswith('"]')]  # fmt: skip
    found = {(step, row): digest for step, row, digest in lines}
    assert len(found) == len(lines) == 8 * (stop - start), 'a sample twice, or none'
    return found


def recorded(found: dict[tuple[int, int], str]) -> str:
    text = ''.join(f'{found[key]}\n' for key in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_stream_of_samples_is_the_recorded_one(tmp_path: pathlib.Path) -> None:
    assert recorded(samples(tmp_path, processes=2, workers=0)) == RECORDED


@pytest.mark.slow
@pytest.mark.parametrize(('processes', 'workers'), [(1, 0), (1, 3), (2, 1), (4, 0), (4, 2)])
def test_the_stream_is_that_for_any_processes_and_workers(
    processes: int, workers: int, tmp_path: pathlib.Path
) -> None:
    assert recorded(samples(tmp_path, processes, workers)) == RECORDED


@pytest.mark.slow
def test_the_stream_goes_on_where_it_stopped(tmp_path: pathlib.Path) -> None:
    """Steps 0 and 1 in one process, 2 to 4 in four, 5 in two."""
    found = samples(tmp_path, 1, 0, 0, 2)
    found |= samples(tmp_path, 4, 1, 2, 5)
    found |= samples(tmp_path, 2, 0, 5, 6)
    assert recorded(found) == RECORDED


@pytest.mark.slow
def test_one_run_on_eight_devices_then_two_processes_then_one(tmp_path: pathlib.Path) -> None:
    """Each goes on where the one before it was stopped; the losses are those of one device."""
    # A constant rate: train.steps is also the length of a cosine.
    flags = [*LENET, '--config.train.eval_every=1000', '--config.schedule.kind=constant']
    train(*flags, '--config.train.steps=30', f'--workdir={tmp_path / "one"}')
    moving = f'--workdir={tmp_path / "moving"}'
    train(*flags, '--config.train.steps=10', moving, devices=8)
    done = subprocess.run(
        [sys.executable, 'launch/local.py', '--processes=2', '--devices-per-process=2', '--',
         sys.executable, 'train.py', *flags, '--config.train.steps=20', moving],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'going on from the checkpoint of step 10' in done.stdout
    assert '4 cpu device(s), 2 process(es)' in done.stdout
    out, _ = train(*flags, '--config.train.steps=30', moving)
    assert 'going on from the checkpoint of step 20' in out
    one, moved = losses(tmp_path / 'one'), losses(tmp_path / 'moving')
    assert sorted(one) == sorted(moved) == list(range(1, 31)), 'a step repeated or left out'
    np.testing.assert_allclose([moved[step] for step in one], list(one.values()), rtol=1e-5)


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / 'run'
    run = Run(folder, [*LENET, '--config.train.steps=100000'], 2)
    run.until(lambda: 'step 3/' in run.text)
    os.kill(run.workers()[1], signal.SIGTERM)
    run.wait()
    assert run.process.returncode == 75, run.text
    stopped = checkpoint.find(folder)
    assert f'stopped at step {stopped:,} with a checkpoint' in run.text
    assert losses(folder).keys() == set(range(1, stopped + 1))


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_the_others_end_when_one_dies(victim: int, tmp_path: pathlib.Path) -> None:
    """Within a minute and a half, here without a launcher that would end them."""
    run = Run(tmp_path / 'run', [*LENET, '--config.train.steps=100000'], 2, grace=1000)
    run.until(lambda: 'step 3/' in run.text)
    began = time.monotonic()
    os.kill(run.workers()[victim], signal.SIGKILL)
    run.wait()
    assert time.monotonic() - began < 90
    assert f'process {victim} ' in run.text
    assert 'SIGKILL' in run.text
