"""An evaluation by several real processes: the result of one, each image once, and it goes on.

The processes talk over loopback (gloo), as hosts of a pod do over their network.
"""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from cnn_arch import models
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.store import COUNTED, Store
from tests.evaluation import worker
from tests.evaluation.common import CLASSES, mesh_of, random_variables
from tests.shared import ROOT

GOOD = sorted(set(range(len(worker.SIZES))) - {worker.BAD})


def start(folder: pathlib.Path, processes: int, devices: int, **job) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{probe.getsockname()[1]}'
    path = folder / 'job.json'
    job |= {'address': address, 'processes': processes, 'devices': devices, 'folder': str(folder)}
    path.write_text(json.dumps(job))
    # Not the eight virtual devices of the other tests.
    environment = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, '-m', 'tests.evaluation.worker', str(path), str(index)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip


def end(running: list[subprocess.Popen]) -> None:
    for process in running:
        process.kill()
        process.communicate()


def run(folder: pathlib.Path, processes: int, devices: int, **job) -> list[list[int]]:
    """Which images each process decoded; all of them say the same at the end."""
    running = start(folder, processes, devices, **job)
    said = []
    try:
        for process in running:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            said.append(output.strip().splitlines()[-1])
    finally:
        end(running)
    assert len(set(said)) == 1, said
    return [json.loads((folder / f'decoded_{i}.json').read_text()) for i in range(processes)]


def check(folder: pathlib.Path, processes: int, protocol: str) -> None:
    """Every process's result against an evaluation by this one process on one device."""
    config = worker.settings(protocol)
    model = models.build(config.model)
    expected = evaluate(model, random_variables(model, 32), worker.pictures(), config, mesh_of(1))
    assert np.flatnonzero(expected.counted).tolist() == GOOD
    for index in range(processes):
        with np.load(folder / f'result_{index}.npz') as result:
            np.testing.assert_array_equal(result['counted'], expected.counted)
            np.testing.assert_array_equal(result['labels'], expected.labels)
            np.testing.assert_array_equal(result['classes'], expected.classes)
            np.testing.assert_allclose(result['probabilities'], expected.probabilities, rtol=1e-5)


def test_two_processes_equal_one(tmp_path: pathlib.Path) -> None:
    decoded = run(tmp_path, 2, 1, protocol='dense')
    assert sorted(decoded[0] + decoded[1]) == GOOD  # each once, by one host
    assert min(map(len, decoded)) >= 6
    check(tmp_path, 2, 'dense')
    # The second process has read the one that does not decode; the first one names it, once.
    first, second = (json.loads((tmp_path / f'warnings_{i}.json').read_text()) for i in (0, 1))
    assert first == ['not counted: image bad: not a picture of a known format (13 bytes)']
    assert second == []


@pytest.mark.slow
@pytest.mark.parametrize('protocol', ['ten_crop', 'vgg_multicrop_and_dense'])
def test_four_processes_of_two_devices(tmp_path: pathlib.Path, protocol: str) -> None:
    decoded = run(tmp_path, 4, 2, protocol=protocol)
    assert sorted(itertools.chain(*decoded)) == GOOD
    check(tmp_path, 4, protocol)


@pytest.mark.slow
@pytest.mark.parametrize('then', [2, 1])
def test_killed_it_goes_on_with_any_number_of_processes(tmp_path: pathlib.Path, then: int) -> None:
    running = start(tmp_path, 2, 1, protocol='dense_multiscale', dies_after=6)
    assert running[0].wait(timeout=300) == -9
    end(running)  # the other waits for it in vain
    kept = set(np.flatnonzero(Store(tmp_path / 'store', len(worker.SIZES), CLASSES).states))
    assert len(kept) >= 5
    assert not (tmp_path / 'result_0.npz').exists()

    decoded = run(tmp_path, then, 1, protocol='dense_multiscale')
    assert sorted(itertools.chain(*decoded)) == sorted(set(GOOD) - kept)
    check(tmp_path, then, 'dense_multiscale')
    states = Store(tmp_path / 'store', len(worker.SIZES), CLASSES).states
    assert np.flatnonzero(states == COUNTED).tolist() == GOOD
