"""eval.py answers what a fresh evaluation answers, whatever was kept of earlier ones."""

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

import eval as eval_command
from cnn_arch.data import fingerprint
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation import store as stores
from tests import test_eval_cli
from tests.evaluation.common import CLASSES, Pictures, config_file
from tests.test_eval_cli import read

COUNT = 100
# Those that a spread of 64 images does not meet: a sample would see no change in them.
UNSEEN = sorted({*range(COUNT)} - {*np.linspace(0, COUNT - 1, 64).astype(int).tolist()})
BAD = UNSEEN[20]


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('kept')
    test_eval_cli.make_run(folder / 'run', [f'--config={config_file(folder, CLASSES)}'], 5)
    return folder / 'run'


class Evaluation:
    """eval.py over pictures that a test changes, by one network."""

    def __init__(self, run: pathlib.Path, folder: pathlib.Path, said: Callable[[], str]):
        self._config = f'{run.parent}/small.py:narrow'
        self.run = shutil.copytree(run, folder / 'run')
        self.data, self._said = folder / 'data', said
        self.data.mkdir()
        for number, example in enumerate(
            Pictures([(44, 40 + n % 5) for n in range(COUNT)]).examples
        ):
            (self.data / f'{number}.JPEG').write_bytes(example.image)
        self.label([number % CLASSES for number in range(COUNT)])

    def label(self, labels: list[int]) -> None:
        lines = [f'{number}.JPEG {label}\n' for number, label in enumerate(labels)]
        (self.data / 'labels.txt').write_text(''.join(lines))

    def __call__(self, *words: str) -> str:
        """What is printed of the errors."""
        argv = [f'--config={self._config}', f'--workdir={self.run}',
                f'--config.data.dir={self.data}', *words]  # fmt: skip
        assert eval_command.main(argv) == 0
        return self._said().strip().splitlines()[-1].partition('center at 40')[2]

    def fresh(self, *words: str) -> str:
        """The same where nothing was kept."""
        shutil.rmtree(self.run / 'evaluations')
        return self(*words)

    def rows(self) -> list[dict[str, str]]:
        path = self.run / 'predictions.csv'
        self(f'--predictions={path}')
        return read(path)

    def kept(self) -> pathlib.Path:
        """The folder of the one answer that is kept."""
        (folder,) = (self.run / 'evaluations').iterdir()
        return folder


@pytest.fixture
def evaluation(run, tmp_path: pathlib.Path, capsys, monkeypatch) -> Evaluation:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(fingerprint, 'GRANULARITY', 0)  # files are remembered at once
    return Evaluation(run, tmp_path, lambda: capsys.readouterr().out)


def test_an_equal_evaluation_computes_nothing(evaluation, monkeypatch) -> None:
    before = evaluation()
    monkeypatch.setattr(networks, 'add_windows', None)
    assert evaluation() == before
    assert evaluation('--config.data.threads=1', '--config.data.prefetch=2') == before
    moved = evaluation.data.rename(evaluation.data.with_name('moved'))
    evaluation.data = moved
    assert evaluation() == before


def test_36_labels_of_100_corrected(evaluation) -> None:
    assert len(UNSEEN) == 36
    labels = [int(row['class1']) for row in evaluation.rows()]
    labels[0] = (labels[0] + 1) % CLASSES
    evaluation.label(labels)
    assert 'top-1 error 1.00 %' in evaluation()
    for index in UNSEEN:
        labels[index] = (labels[index] + 1) % CLASSES
    evaluation.label(labels)
    after = evaluation()
    assert 'top-1 error 37.00 %' in after
    assert after == evaluation.fresh()


def test_pictures_replaced_under_the_same_names(evaluation) -> None:
    """And of the same sizes and times: what is said of each belongs to the picture it is now."""
    before = np.asarray([float(row['probability1']) for row in evaluation.rows()])
    paths = [evaluation.data / f'{number}.JPEG' for number in UNSEEN]
    contents = [path.read_bytes() for path in paths]
    size, times = max(map(len, contents)), paths[0].stat()
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content.ljust(size, b'\0'))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = np.asarray([float(row['probability1']) for row in evaluation.rows()])
    moved = before.copy()
    moved[UNSEEN] = np.roll(before[UNSEEN], -1)
    np.testing.assert_allclose(after, moved, rtol=1e-5)
    assert (np.abs(after - before) > 1e-4 * before).sum() > 18
    evaluation.fresh()
    np.testing.assert_array_equal([float(row['probability1']) for row in evaluation.rows()], after)


def test_a_picture_that_was_repaired_counts(evaluation) -> None:
    path = evaluation.data / f'{BAD}.JPEG'
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    words = ('--config.data.on_bad_image=skip',)
    assert evaluation(*words).endswith('n = 99 of 100')
    path.write_bytes(good)
    after = evaluation(*words)
    assert after.endswith('n = 100')
    assert after == evaluation.fresh(*words)


def test_a_bad_picture_stops_even_if_it_was_left_out_before(evaluation) -> None:
    (evaluation.data / f'{BAD}.JPEG').write_bytes(b'no picture')
    assert evaluation('--config.data.on_bad_image=skip').endswith('n = 99 of 100')
    with pytest.raises(test_eval_cli.UserError, match=rf'image {BAD}\.JPEG'):
        evaluation('--config.data.on_bad_image=stop')


def rolled(folder: pathlib.Path) -> None:
    path = folder / stores.ROWS
    np.save(path, np.roll(np.load(path), 1, axis=0))


def of_dtype(folder: pathlib.Path) -> None:
    path = folder / stores.ROWS
    np.save(path, np.load(path).astype(np.float64))


def of_shape(folder: pathlib.Path) -> None:
    path = folder / stores.ROWS
    np.save(path, np.load(path)[:, :-1])


def of_one_class(folder: pathlib.Path) -> None:
    path = folder / stores.ROWS
    np.save(path, np.eye(CLASSES, dtype=np.float32)[np.zeros(COUNT, int)])


def of_states(folder: pathlib.Path) -> None:
    path = folder / stores.PROGRESS
    data = bytearray(path.read_bytes())
    data[:: stores.NOTE.itemsize] = bytes(len(data[:: stores.NOTE.itemsize]))
    path.write_bytes(data)


@pytest.mark.parametrize('damage', [rolled, of_dtype, of_shape, of_one_class, of_states])
def test_damaged_answers_are_measured_again(evaluation, caplog, damage) -> None:
    before = evaluation()
    damage(evaluation.kept())
    caplog.clear()
    assert evaluation() == before
    warned = [record for record in caplog.records if record.levelname == 'WARNING']
    assert len(warned) == 1
    assert 'measured again' in warned[0].getMessage()
    caplog.clear()
    assert evaluation() == before
    assert 'measured again' not in caplog.text
