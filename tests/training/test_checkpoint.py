"""Checkpoints on disk: complete or not there, whole or skipped, the newest ones kept."""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import eval as eval_command
from cnn_arch.errors import StorageError, UserError
from cnn_arch.training import checkpoint, manifest
from configs import base
from tests.test_eval_cli import LENET, make_run


def state(number: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(number)
    return {'params': jnp.asarray(rng.standard_normal(1000), jnp.float32)}, {
        'step': jnp.int32(number)
    }


def write(folder: pathlib.Path, *numbers: int, keep: int = 3, keep_every: int = 0) -> None:
    config = base.get_config().checkpoint
    config.keep, config.keep_every = keep, keep_every
    with checkpoint.opened(folder, config) as checkpoints:
        for number in numbers:
            checkpoints.save(number, *state(number))


def reopen(folder: pathlib.Path) -> int | None:
    """The step that a restart goes on from, after comparing what it restores."""
    with checkpoint.opened(folder, base.get_config().checkpoint) as checkpoints:
        if checkpoints.latest is None:
            return None
        expected = state(checkpoints.latest)
        found = checkpoints.restore(checkpoints.latest, *expected)
    np.testing.assert_array_equal(found[0]['params'], expected[0]['params'])
    assert found[1]['step'] == checkpoints.latest
    return checkpoints.latest


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob('*') if p.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder: pathlib.Path) -> None:
    path = largest(folder)
    os.truncate(path, path.stat().st_size - 1)


def flip(path: pathlib.Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[pathlib.Path], Any], str]] = {
    'truncated': (truncate, r'has [\d,]+ bytes instead of'),
    'a bit': (lambda folder: flip(largest(folder)), r'is not what was written \(SHA-256\)'),
    'a file': (lambda folder: largest(folder).unlink(), 'is missing'),
    'an item': (lambda folder: shutil.rmtree(folder / 'training'), r'training/\S+ is missing'),
    'manifest': (lambda folder: (folder / manifest.NAME).unlink(), 'manifest.json is missing'),
    'its bit': (lambda folder: flip(folder / manifest.NAME), '.'),
    'its end': (lambda folder: os.truncate(folder / manifest.NAME, 50), 'manifest.json cannot be'),
    'empty': (lambda folder: (folder / manifest.NAME).write_text(''), 'manifest.json cannot be'),
}  # fmt: skip


@pytest.fixture(scope='module')
def two(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('two')
    write(folder, 10, 20)
    return folder


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_one_is_named_and_skipped(
    damage: str, two: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(two, folder)
    function, text = DAMAGES[damage]
    function(folder / 'checkpoints' / '20')
    with caplog.at_level('WARNING'):
        assert checkpoint.find(folder) == 10
        assert reopen(folder) == 10
    assert re.search(f'checkpoint of step 20 is damaged: .*{text}', caplog.text)
    assert checkpoint.steps(folder) == [10]
    assert (folder / 'damaged' / '20').is_dir()
    write(folder, 20)  # the run gets there again
    assert reopen(folder) == 20


def test_every_bit_counts(two: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Whatever file of a step is damaged, and wherever."""
    rng = np.random.default_rng(0)
    folder = tmp_path / '20'
    shutil.copytree(two / 'checkpoints' / '20', folder)
    assert manifest.problem(folder) == ''
    files = [path for path in folder.rglob('*') if path.is_file() and path.stat().st_size]
    assert len(files) > 4
    for path in files:
        whole = path.read_bytes()
        flip(path, rng.random())
        assert manifest.problem(folder), path
        path.write_bytes(whole)
    assert manifest.problem(folder) == ''


def test_all_damaged(two: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(two, folder)
    for step in (10, 20):
        truncate(folder / 'checkpoints' / str(step))
    with pytest.raises(UserError, match=r'all its checkpoints are damaged \(10, 20\)'):
        checkpoint.find(folder)
    assert reopen(folder) is None


def test_interrupted_writes_leave_nothing(two: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A kill while the arrays, the manifest or a deletion were under way."""
    folder = tmp_path / 'run'
    shutil.copytree(two, folder)
    steps = folder / 'checkpoints'
    for name in ('30.writing', '30.writing.orbax-checkpoint-tmp', '5.deleting'):
        shutil.copytree(steps / '20', steps / name)
    (steps / '30.writing' / manifest.NAME).unlink()
    assert checkpoint.find(folder) == 20
    assert reopen(folder) == 20
    assert sorted(path.name for path in steps.iterdir()) == ['10', '20']


def test_a_step_has_its_name_only_with_its_manifest(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 10)
    seen = []

    def look(folder: pathlib.Path) -> None:
        seen.append((checkpoint.steps(tmp_path), checkpoint.find(tmp_path)))
        real(folder)

    real = manifest.write
    monkeypatch.setattr(manifest, 'write', look)
    write(tmp_path, 20)
    assert seen == [([10], 10)]
    assert checkpoint.find(tmp_path) == 20


def test_which_are_kept(tmp_path: pathlib.Path) -> None:
    write(tmp_path, *range(10, 70, 10), keep=2, keep_every=30)
    assert checkpoint.steps(tmp_path) == [30, 50, 60]
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['30', '50', '60']


@pytest.mark.parametrize('wait', [True, False])
def test_a_full_disk_keeps_what_is_there(
    wait: bool, two: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message; test_storage.py fills real disks."""
    folder = tmp_path / 'run'
    shutil.copytree(two, folder)

    def full(folder: pathlib.Path) -> None:
        raise OSError(28, 'No space left on device', str(folder))

    monkeypatch.setattr(manifest, 'write', full)
    message = r'step 30 cannot be written .*: No space left on device; that of step 20 is kept'
    with pytest.raises(StorageError, match=message):
        write(folder, 30, *([] if wait else [40]))
    assert sorted(path.name for path in (folder / 'checkpoints').iterdir()) == ['10', '20']
    assert reopen(folder) == 20


def test_evaluation_of_damaged_checkpoints(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, LENET, 3, 5)
    flip(largest(tmp_path / 'checkpoints' / '5'))
    command = [*LENET, f'--workdir={tmp_path}']
    message = r'the checkpoint of step 5 is damaged: .* \(SHA-256\); there are also 3'
    with pytest.raises(UserError, match=message):
        eval_command.main([*command, '--step=5'])
    with caplog.at_level('WARNING'):
        eval_command.main(command)
    assert '  step 3  ' in capsys.readouterr().out
    assert 'step 5 is damaged' in caplog.text
    assert 'the one before it is taken' in caplog.text


def test_manifest_is_readable(two: pathlib.Path) -> None:
    """By other programs: the format of sha256sum's numbers."""
    folder = two / 'checkpoints' / '20'
    entries = json.loads((folder / 'manifest.json').read_text())
    assert {name.split('/')[0] for name in entries} >= {'model', 'training'}
    assert all(re.fullmatch('[0-9a-f]{64}', entry['sha256']) for entry in entries.values())
    assert manifest.digest(folder, 'model') != manifest.digest(folder, 'training')
