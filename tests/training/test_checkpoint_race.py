"""Evaluation of a run that goes on, which removes its older steps meanwhile."""

import pathlib
import shutil

import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.training import checkpoint, manifest
from cnn_arch.weights import trained


@pytest.fixture
def steps(tmp_path: pathlib.Path) -> pathlib.Path:
    """A workdir with the steps 3 and 5."""
    for step in (3, 5):
        folder = checkpoint.step_folder(tmp_path, step)
        folder.parent.mkdir(exist_ok=True)
        checkpoint.save_weights(folder, {'params': {'w': np.full(3, step, np.float32)}})
    return tmp_path


def test_steps_that_leave_while_they_are_looked_at(steps, monkeypatch) -> None:
    """The run keeps one step: 5 goes when 7 is there."""
    problem = manifest.problem

    def meanwhile(folder: pathlib.Path) -> str:
        if folder.name == '5':
            shutil.copytree(folder, folder.with_name('7'))
            for old in ('3', '5'):
                shutil.rmtree(folder.with_name(old))
        return problem(folder)

    monkeypatch.setattr(manifest, 'problem', meanwhile)
    assert checkpoint.find(steps) == 7
    with pytest.raises(UserError, match='no checkpoint of step 5; there are 7'):
        checkpoint.find(steps, 5)


def test_a_step_that_leaves_before_it_is_read(steps) -> None:
    folder = checkpoint.step_folder(steps, 5)
    run = trained.Run(steps, 5, {})
    abstract = {'params': {'w': np.zeros(3, np.float32)}}
    np.testing.assert_array_equal(
        checkpoint.restore_weights(folder, abstract)['params']['w'], [5, 5, 5]
    )
    shutil.rmtree(folder)
    for read in (
        run.digest,
        lambda: checkpoint.restore_weights(folder, abstract),
        lambda: checkpoint.stored_shapes(folder),
    ):
        with pytest.raises(UserError, match=r'/5 was removed while it was read: .* again$'):
            read()


def test_a_file_that_leaves_while_its_digest_is_taken(steps, monkeypatch) -> None:
    sha256 = manifest._sha256

    def meanwhile(path: pathlib.Path) -> str:
        shutil.rmtree(steps / 'checkpoints' / '5', ignore_errors=True)
        return sha256(path)

    monkeypatch.setattr(manifest, '_sha256', meanwhile)
    assert checkpoint.find(steps) == 3
