"""A killed evaluation goes on from what it kept; ensembles average what their members kept."""

import os
import pathlib
import shutil
import threading

import numpy as np
import pytest

from cnn_arch import models
from cnn_arch.data import fingerprint
from cnn_arch.data.sources import Example
from cnn_arch.errors import UserError
from cnn_arch.evaluation import evaluate as evaluation
from cnn_arch.evaluation import store as stores
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import ensemble
from cnn_arch.evaluation.store import COUNTED, SKIPPED, Store, check_unchanged
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


IMAGES = 6


@pytest.fixture
def kept(tmp_path: pathlib.Path) -> pathlib.Path:
    """A store of six images, four of them finished."""
    folder = tmp_path / 'kept'
    store = Store(folder, IMAGES, CLASSES)
    rows = np.random.default_rng(0).dirichlet(np.ones(CLASSES), IMAGES).astype(np.float32)
    with store.writing():
        for index in (0, 2, 3, 5):
            store.add(index, index % CLASSES, rows[index])
        store.add(4, 4, None)
    again = Store(folder, IMAGES, CLASSES)
    assert again.states.tolist() == [COUNTED, 0, COUNTED, COUNTED, 0, COUNTED]
    assert again.labels.tolist() == [0, 0, 2, 3, 0, 5]
    np.testing.assert_array_equal(again.posteriors[[0, 2, 3, 5]], rows[[0, 2, 3, 5]])
    return folder


def array_of(folder: pathlib.Path) -> np.ndarray:
    return np.load(folder / stores.ROWS)


def other_label(folder: pathlib.Path) -> None:
    data = bytearray((folder / stores.PROGRESS).read_bytes())
    data[stores.NOTE.itemsize * 2 + 1] ^= 1
    (folder / stores.PROGRESS).write_bytes(data)


def other_state(folder: pathlib.Path) -> None:
    data = bytearray((folder / stores.PROGRESS).read_bytes())
    data[stores.NOTE.itemsize] = COUNTED
    (folder / stores.PROGRESS).write_bytes(data)


def cut(name: str):
    def change(folder: pathlib.Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: 2 * len(data) // 3])

    return change


def saved(change):
    return lambda folder: np.save(folder / stores.ROWS, change(array_of(folder)))


# What is wrong with the whole, and a part of what is said of it.
DAMAGES = {
    'float64': (saved(lambda rows: rows.astype(np.float64)), 'not the dtype and shape'),
    'int32': (saved(lambda rows: rows.view(np.int32)), 'not the dtype and shape'),
    'big-endian': (saved(lambda rows: rows.astype('>f4')), 'not the dtype and shape'),
    'fewer images': (saved(lambda rows: rows[:-1]), 'not the dtype and shape'),
    'transposed': (saved(lambda rows: rows.T), 'not the dtype and shape'),
    'columns first': (saved(np.asfortranarray), 'not the dtype and shape'),
    'rows cut off': (cut(stores.ROWS), 'not complete'),
    'no rows': (lambda folder: (folder / stores.ROWS).unlink(), 'No such file'),
    'progress cut off': (cut(stores.PROGRESS), 'progress is not what was written'),
    'no progress': (lambda folder: (folder / stores.PROGRESS).write_bytes(b''), 'not what was'),
    'another label': (other_label, 'progress is not what was written'),
    'another state': (other_state, 'progress is not what was written'),
}  # fmt: skip


@pytest.mark.parametrize('damage', DAMAGES)
def test_what_is_damaged_is_begun_anew(kept, caplog, damage: str) -> None:
    change, reason = DAMAGES[damage]
    change(kept)
    store = Store(kept, IMAGES, CLASSES)
    assert not store.states.any()
    assert not store.labels.any()
    assert not store.posteriors.any()
    (line,) = caplog.text.splitlines()
    assert reason in line
    assert str(kept) in line
    with store.writing():
        store.add(1, 1, np.ones(CLASSES, np.float32))
    assert Store(kept, IMAGES, CLASSES).states.tolist() == [0, COUNTED, 0, 0, 0, 0]


def flip(rows: np.ndarray) -> None:
    rows.view(np.uint32)[:] ^= np.eye(*rows.shape, dtype=np.uint32)


def swap(rows: np.ndarray) -> None:
    rows[[0, 2]] = rows[[2, 0]]


ROWS_CHANGED = {
    'zeros': (lambda rows: rows[2].fill(0), [2]),
    'one bit': (flip, [0, 2, 3, 5]),
    'not a number': (lambda rows: rows[3:].fill(np.nan), [3, 5]),
    'two change places': (swap, [0, 2]),
    'what is not finished': (lambda rows: rows[1].fill(1), []),
}  # fmt: skip


@pytest.mark.parametrize('change', ROWS_CHANGED)
def test_rows_that_are_damaged_are_measured_again_and_no_others(kept, caplog, change: str) -> None:
    alter, lost = ROWS_CHANGED[change]
    before = array_of(kept)
    rows = before.copy()
    alter(rows)
    np.save(kept / stores.ROWS, rows)
    store = Store(kept, IMAGES, CLASSES)
    left = sorted({0, 2, 3, 5} - {*lost})
    assert np.flatnonzero(store.states).tolist() == left
    np.testing.assert_array_equal(store.posteriors[left], before[left])
    said = [f'{len(lost)} of 4 rows of posteriors.npy are not what was written'] if lost else []
    assert len(caplog.records) == len(said)
    assert all(text in caplog.text for text in said)


def test_an_answer_under_another_name_is_none(kept, caplog) -> None:
    """The key is the folder's name: what was copied there answers another question."""
    copy = shutil.copytree(kept, kept.with_name('other'))
    assert not Store(copy, IMAGES, CLASSES).states.any()
    assert 'progress is not what was written' in caplog.text


def test_other_data_is_begun_anew(kept) -> None:
    for images, classes in ((IMAGES + 1, CLASSES), (IMAGES, CLASSES + 1)):
        copy = shutil.copytree(kept, kept.with_name(f'{images}_{classes}'))
        assert not Store(copy, images, classes).states.any()


def test_skipped_images_are_tried_again(setting, tmp_path):
    """An image that did not decode may decode the next time."""
    config, model, variables, mesh = setting
    config = config.copy_and_resolve_references()
    config.data.on_bad_image = 'skip'
    expected = evaluate(model, variables, Counting(), config, mesh)
    source = Counting()
    good, source.examples[4] = source.examples[4], Example(b'no picture', 0, 'bad')
    for _ in range(2):
        source.read.clear()
        store = Store(tmp_path, 30, CLASSES)
        result = evaluate(model, variables, source, config, mesh, store=store)
        assert result.images == '29 of 30'
        assert store.states[4] == SKIPPED
        assert not Store(tmp_path, 30, CLASSES).complete
    assert source.read == {4}
    source.examples[4] = good
    result = evaluate(model, variables, source, config, mesh, store=Store(tmp_path, 30, CLASSES))
    assert result.images == '30'
    np.testing.assert_array_equal(result.classes, expected.classes)
    assert Store(tmp_path, 30, CLASSES).complete


def test_pictures_that_change_meanwhile(setting, tmp_path, monkeypatch):
    """What was said of some before and of others after the change is kept under neither name."""
    config, model, variables, mesh = setting
    source = Counting()
    data = fingerprint.identity(source)
    store = Store(tmp_path, 30, CLASSES)
    evaluate(model, variables, source, config, mesh, store=store)
    check_unchanged(source, data, store)
    assert Store(tmp_path, 30, CLASSES).complete
    source.examples[17] = Example(source.examples[16].image, 0, 'picture17')
    with pytest.raises(UserError, match='pictures were changed while they were evaluated'):
        check_unchanged(source, data, store)
    store.save()
    assert not Store(tmp_path, 30, CLASSES).states.any()


def test_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / 'file').write_text('')
    store = Store(tmp_path / 'file', 5, CLASSES)
    assert 'posteriors are not kept' in caplog.text
    with store.writing():
        store.add(3, 1, np.ones(CLASSES, np.float32))
    assert len(caplog.records) == 1
    assert store.posteriors[3].sum() == CLASSES


def test_two_evaluations_of_one_key(kept, caplog) -> None:
    """The second one's answer is right, and not kept; the first one's is neither lost nor mixed."""
    (kept / stores.PROGRESS).unlink()  # both begin
    first, second = Store(kept, IMAGES, CLASSES), Store(kept, IMAGES, CLASSES)
    rows = np.random.default_rng(1).dirichlet(np.ones(CLASSES), IMAGES).astype(np.float32)
    with first.writing():
        for index in range(3):
            first.add(index, 0, rows[index])
        with second.writing():
            for index in range(IMAGES):
                second.add(index, 0, rows[::-1][index])
        assert 'posteriors are not kept' in caplog.text
        assert f'in use: process {os.getpid()} on ' in caplog.text
        for index in range(3, IMAGES):
            first.add(index, 0, rows[index])
    np.testing.assert_array_equal(first.posteriors, rows)
    np.testing.assert_array_equal(second.posteriors, rows[::-1])
    after = Store(kept, IMAGES, CLASSES)
    assert after.complete
    np.testing.assert_array_equal(after.posteriors, rows)
    assert {path.name for path in kept.iterdir()} == {stores.ROWS, stores.PROGRESS}


@pytest.mark.parametrize('begun', [True, False])
def test_an_answer_that_is_begun_anew_leaves_its_readers_alone(kept, caplog, begun: bool) -> None:
    """Who has opened it goes on reading what it read, and writes nothing over what came."""
    if not begun:
        (kept / stores.PROGRESS).unlink()
    reader = Store(kept, IMAGES, CLASSES)
    before = np.array(reader.posteriors)
    other = Store(kept, IMAGES, CLASSES)
    rows = np.full((IMAGES, CLASSES), 1 / CLASSES, np.float32)
    with other.writing():
        for index in range(IMAGES):
            other.add(index, 0, rows[index])
    if begun:
        with reader.writing():
            reader.add(1, 1, rows[1])
        assert 'another evaluation has written there meanwhile' in caplog.text
        np.testing.assert_array_equal(Store(kept, IMAGES, CLASSES).posteriors, rows)
    else:
        np.testing.assert_array_equal(reader.posteriors, before)


def test_an_answer_is_only_read_until_it_is_written(kept) -> None:
    """So that one on a disk of archives serves as well."""
    store = Store(kept, IMAGES, CLASSES)
    assert not store.posteriors.flags.writeable
    with store.writing():
        assert store.posteriors.flags.writeable


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
