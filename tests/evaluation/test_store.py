"""A killed evaluation goes on from what it kept; ensembles average what their members kept."""

import threading

import numpy as np
import pytest

from cnn_arch import models
from cnn_arch.data.sources import Example
from cnn_arch.evaluation import evaluate as evaluation
from cnn_arch.evaluation import store as stores
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import ensemble
from cnn_arch.evaluation.store import COUNTED, SKIPPED, Store
from tests.evaluation.common import CLASSES, Pictures, mesh_of, random_variables, small_config

SIZES = [(40, 40 + n) for n in range(30)]


class Counting(Pictures):
    """Remembers which images were read."""

    def __init__(self):
        super().__init__(SIZES)
        self.read: set[int] = set()
        self.lock = threading.Lock()

    def __getitem__(self, index: int) -> Example:
        with self.lock:
            self.read.add(index)
        return super().__getitem__(index)


class Killed(Exception):
    pass


@pytest.fixture(scope='module')
def setting():
    config = small_config('dense_multiscale')
    config.eval.scales = (36, 40)
    config.eval.batch_size = 4
    model = models.build(config.model)
    return config, model, random_variables(model, 32), mesh_of(1)


def test_goes_on_where_it_was_killed(setting, tmp_path, monkeypatch):
    config, model, variables, mesh = setting
    expected = evaluate(model, variables, Counting(), config, mesh)
    monkeypatch.setattr(stores, 'SAVE_EVERY', 0.0)
    monkeypatch.setattr(evaluation, 'ROUND', 8)
    finish = evaluation._Evaluation._finish
    done = []

    def finish_some(self, index, posteriors):
        if len(done) == 11:
            raise Killed
        done.append(index)
        finish(self, index, posteriors)

    monkeypatch.setattr(evaluation._Evaluation, '_finish', finish_some)
    # What a killed process leaves: nothing written after the last save.
    monkeypatch.setattr(Store, 'save', lambda self, save=Store.save: len(done) > 9 or save(self))
    with pytest.raises(Killed):
        evaluate(model, variables, Counting(), config, mesh, store=Store(tmp_path, 30, CLASSES))
    monkeypatch.undo()

    store, source = Store(tmp_path, 30, CLASSES), Counting()
    kept = set(np.flatnonzero(store.states == COUNTED))
    assert kept == set(done[:9])
    result = evaluate(model, variables, source, config, mesh, store=store)
    assert source.read == set(range(30)) - kept
    np.testing.assert_array_equal(result.classes, expected.classes)
    np.testing.assert_allclose(result.probabilities, expected.probabilities, rtol=1e-5)
    np.testing.assert_array_equal(result.labels, expected.labels)

    source = Counting()
    again = evaluate(model, variables, source, config, mesh, store=Store(tmp_path, 30, CLASSES))
    assert not source.read
    np.testing.assert_array_equal(again.probabilities, result.probabilities)
    assert str(again) == str(expected)


@pytest.mark.parametrize('damage', ['progress.npz', 'posteriors.npy'])
def test_damaged_files_are_begun_anew(tmp_path, damage):
    store = Store(tmp_path, 5, CLASSES)
    store.add(2, 1, np.full(CLASSES, 1 / CLASSES, np.float32))
    store.save()
    assert Store(tmp_path, 5, CLASSES).states.tolist() == [0, 0, COUNTED, 0, 0]
    data = (tmp_path / damage).read_bytes()
    (tmp_path / damage).write_bytes(data[: len(data) // 3])
    assert Store(tmp_path, 5, CLASSES).states.tolist() == [0] * 5


def test_other_data_is_begun_anew(tmp_path):
    store = Store(tmp_path, 5, CLASSES)
    store.add(2, 1, np.zeros(CLASSES, np.float32))
    store.save()
    for images, classes in ((6, CLASSES), (5, CLASSES + 1)):
        assert not Store(tmp_path, images, classes).states.any()


def test_skipped_images_stay_skipped(setting, tmp_path):
    config, model, variables, mesh = setting
    config = config.copy_and_resolve_references()
    config.data.on_bad_image = 'skip'
    source = Counting()
    source.examples[4] = Example(b'no picture', 0, 'bad')
    for _ in range(2):
        store = Store(tmp_path, 30, CLASSES)
        result = evaluate(model, variables, source, config, mesh, store=store)
        assert result.images == '29 of 30'
        assert store.states[4] == SKIPPED


def test_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / 'file').write_text('')
    store = Store(tmp_path / 'file', 5, CLASSES)
    assert 'posteriors are not kept' in caplog.text
    store.add(3, 1, np.ones(CLASSES, np.float32))
    store.save()
    assert store.posteriors[3].sum() == CLASSES


def test_ensemble_averages_posteriors(setting, tmp_path):
    config, model, _, mesh = setting
    members = []
    for seed in range(3):
        store = Store(tmp_path / str(seed), 30, CLASSES)
        variables = random_variables(model, 32, seed=seed)
        evaluate(model, variables, Counting(), config, mesh, store=store)
        members.append(store)
    members[1].states[7] = SKIPPED
    result = ensemble(members, 'dense_multiscale', 30)
    mean = np.mean([member.posteriors for member in members], axis=0)
    counted = np.arange(30) != 7
    np.testing.assert_array_equal(result.counted, counted)
    top = np.argsort(-mean, axis=1)[:, :5]
    np.testing.assert_array_equal(result.classes[counted], top[counted])
    np.testing.assert_allclose(
        result.probabilities[counted], np.take_along_axis(mean, top, 1)[counted], rtol=1e-6
    )
    labels = np.asarray([example.label for example in Counting().examples])
    wrong = (top[:, 0] != labels)[counted]
    assert result.top1_error == pytest.approx(100 * wrong.mean())
    assert result.images == '29 of 30'
