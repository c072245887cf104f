"""The command line of eval.py: what it prints and writes, and its errors."""

import csv
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import eval as eval_command
from cnn_arch import commands, configuration, models
from cnn_arch.data.sources import DIGITS
from cnn_arch.errors import UserError
from cnn_arch.evaluation import network as networks
from cnn_arch.training import checkpoint, workdir
from tests.evaluation.common import random_variables

ROOT = pathlib.Path(__file__).resolve().parents[1]
LENET = ['--config=configs/lenet.py:lenet1', '--config.data.source=digits',
         '--config.eval.batch_size=120']  # fmt: skip
VGG = ['--config=configs/demo.py:vgg_fixed', '--config.data.source=folder',
       '--config.eval.batch_size=8']  # fmt: skip


def make_run(
    folder: pathlib.Path, words: list[str], *numbers: int, names: tuple[str, ...] = ()
) -> None:
    """A workdir as train.py leaves it, with random networks at the steps of these numbers."""
    overrides, rest = commands.split_overrides(words)
    config = configuration.load(rest[0].partition('=')[2])
    commands.apply_overrides(config, overrides)
    if config.data.source in ('digits', 'digits_scenes'):
        names = DIGITS
    workdir.write_config(folder, config, names)
    model, data = models.build(config.model), config.data
    with checkpoint.opened(folder, config.checkpoint) as checkpoints:
        for number in numbers:
            params = random_variables(model, data.augment.size, data.channels, number)['params']
            item = {'params': params, 'batch_stats': {}}
            item['average'] = dict(item) if config.optim.polyak_decay else {}
            item, rest = jax.tree.map(jax.numpy.asarray, (item, {'step': np.int32(number)}))
            checkpoints.save(number, item, rest, wait=True)


@pytest.fixture(scope='module')
def lenet(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('lenet')
    make_run(folder, LENET, 3, 5)
    return folder


@pytest.fixture(scope='module')
def vgg(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A run, and a folder with pictures of three classes and various sizes."""
    folder = tmp_path_factory.mktemp('vgg')
    rng = np.random.default_rng(0)
    for label, name in enumerate(('bird', 'cat', 'dog')):
        (folder / 'data' / name).mkdir(parents=True)
        for number in range(label + 2):
            shape = (60 + 7 * number, 90 - 9 * number, 3)
            picture = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
            picture.save(folder / 'data' / name / f'{name}{number}.JPEG')
    make_run(folder / 'run', [*VGG, '--config.model.num_classes=3'], 5)
    return folder / 'run', folder / 'data'


def read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_prints_errors_and_writes_predictions(lenet, tmp_path, capsys):
    path = tmp_path / 'predictions.csv'
    assert eval_command.main([*LENET, f'--workdir={lenet}', f'--predictions={path}']) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    found = re.fullmatch(
        r'configs/lenet\.py:lenet1  step 5  digits  center at 28  '
        r'top-1 error ([\d.]+) %  top-5 error ([\d.]+) %  n = 360',
        line,
    )
    assert found, line
    rows = read(path)
    assert list(rows[0]) == [
        'file', 'label', 'class1', 'class2', 'class3', 'class4', 'class5',
        'probability1', 'probability2', 'probability3', 'probability4', 'probability5',
    ]  # fmt: skip
    assert len(rows) == 360
    assert len({row['file'] for row in rows}) == 360
    labels = np.asarray([int(row['label']) for row in rows])
    classes = np.asarray([[int(row[f'class{k}']) for k in range(1, 6)] for row in rows])
    probabilities = np.asarray(
        [[float(row[f'probability{k}']) for k in range(1, 6)] for row in rows]
    )
    assert (np.diff(probabilities, axis=1) <= 0).all()
    assert (probabilities.sum(axis=1) <= 1.0001).all()
    top1 = 100 * np.mean(classes[:, 0] != labels)
    top5 = 100 * np.mean((classes != labels[:, None]).all(axis=1))
    assert [float(group) for group in found.groups()] == pytest.approx([top1, top5], abs=0.005)


def test_answers_at_once_the_second_time(lenet, capsys, monkeypatch):
    command = [*LENET, f'--workdir={lenet}', '--step=3']
    eval_command.main(command)
    first = capsys.readouterr().out
    assert 'step 3 ' in first
    monkeypatch.setattr(networks, 'add_windows', None)  # nothing may be computed
    eval_command.main(command)
    assert capsys.readouterr().out == first
    with pytest.raises(TypeError):  # another protocol is
        eval_command.main([*command, '--config.eval.mirror=False', '--protocol=ten_crop'])


def test_whole_images_and_blanks_beyond_the_classes(vgg, tmp_path, capsys, caplog):
    run, data = vgg
    path = tmp_path / 'predictions.csv'
    command = [*VGG, f'--config.data.dir={data}', '--config.model.num_classes=3',
               f'--workdir={run}', '--protocol=dense',
               f'--predictions={path}']  # fmt: skip
    with caplog.at_level('INFO'):
        assert eval_command.main(command) == 0
    assert 'dense at 56' in capsys.readouterr().out
    assert re.search(
        r'scale 56: \d+ shapes on \d canvases \(.*\), [\d.]+ % of the pix', caplog.text
    )
    rows = read(path)
    assert [row['file'] for row in rows] == [
        'bird/bird0.JPEG', 'bird/bird1.JPEG', 'cat/cat0.JPEG', 'cat/cat1.JPEG', 'cat/cat2.JPEG',
        'dog/dog0.JPEG', 'dog/dog1.JPEG', 'dog/dog2.JPEG', 'dog/dog3.JPEG',
    ]  # fmt: skip
    for row in rows:
        assert {row['class1'], row['class2'], row['class3']} == {'0', '1', '2'}
        assert row['class4'] == row['class5'] == row['probability4'] == row['probability5'] == ''
        total = sum(float(row[f'probability{k}']) for k in (1, 2, 3))
        assert total == pytest.approx(1, abs=1e-4)


def test_part_of_imagenet_is_marked(tmp_path, capsys):
    for number, name in enumerate(('n01440764', 'n01443537', 'n02119789')):
        (tmp_path / 'val' / name).mkdir(parents=True)
        picture = Image.fromarray(np.full((60, 70, 3), 50 * number, np.uint8))
        picture.save(tmp_path / 'val' / name / f'{number}.JPEG')
    config = [*VGG, f'--config.data.dir={tmp_path}', '--config.data.eval_split=val',
              '--config.model.num_classes=1000']  # fmt: skip
    make_run(tmp_path / 'run', config, 5)
    assert eval_command.main([*config, f'--workdir={tmp_path / "run"}']) == 0
    assert capsys.readouterr().out.strip().endswith('n = 3 of 50,000')


def test_ensemble_of_any_networks(tmp_path, capsys, monkeypatch):
    """Of two architectures: the average of the posteriors, and no member run twice."""
    first = ['--config=configs/lenet.py:lenet1', '--config.data.source=digits',
             '--config.eval.batch_size=120']  # fmt: skip
    second = ['--config=configs/lenet.py:lenet5', *first[1:]]
    make_run(tmp_path / 'one', first, 3)
    make_run(tmp_path / 'two', second, 4)
    said = []
    for words, name in ((first, 'one'), (second, 'two')):
        eval_command.main([*words, f'--workdir={tmp_path / name}'])
        (path,) = (tmp_path / name / 'evaluations').glob('*/posteriors.npy')
        said.append(np.load(path))
    capsys.readouterr()
    monkeypatch.setattr(networks, 'add_windows', None)  # nothing is computed again
    path = tmp_path / 'both.csv'
    command = [*first, f'--workdir={tmp_path / "one"}', f'--with={tmp_path / "two"}']
    assert eval_command.main([*command, f'--predictions={path}']) == 0
    mean = np.mean(said, axis=0)
    rows = read(path)
    assert [int(row['class1']) for row in rows] == mean.argmax(axis=1).tolist()
    top1 = 100 * np.mean([row['class1'] != row['label'] for row in rows])
    line = capsys.readouterr().out
    assert f'step 3 + step 4  digits  center at 28  top-1 error {top1:.2f} %' in line
    with pytest.raises(UserError, match='no folder'):
        eval_command.main([*command[:-1], f'--with={tmp_path / "three"}'])
    make_run(tmp_path / 'other', [*VGG, '--config.model.num_classes=3'], 1)
    with pytest.raises(UserError, match='has 3 classes, digits has 10'):
        eval_command.main([*command[:-1], f'--with={tmp_path / "other"}'])


def test_an_ensemble_has_no_network_twice(lenet, tmp_path, capsys) -> None:
    """By its arrays, wherever they lie; two steps of one run are two networks, and named."""
    copy = shutil.copytree(lenet, tmp_path / 'copy')
    command = [*LENET, f'--workdir={lenet}']
    for other in (lenet, copy):
        with pytest.raises(UserError, match=f'--with: {other} holds the same arrays as {lenet}'):
            eval_command.main([*command, f'--with={other}'])
    assert eval_command.main([*command, '--step=3', f'--with={lenet}']) == 0
    name = lenet.name
    assert f'  step 3 + step 5 (of one recipe and seed: {name} and {name})  digits' in (
        capsys.readouterr().out
    )


class TestErrors:
    def refuse(self, words, match):
        with pytest.raises(UserError, match=match):
            eval_command.main(words)

    def test_workdir(self, lenet, tmp_path):
        self.refuse([*LENET, f'--workdir={tmp_path / "none"}'], 'none')
        self.refuse([*LENET, f'--workdir={lenet}', '--step=4'], r'no checkpoint of step 4.*3, 5')
        other = ['--config=configs/lenet.py:lenet5', '--config.data.source=digits']
        self.refuse([*other, f'--workdir={lenet}'], r'model\.name')

    def test_protocol(self, lenet):
        run = f'--workdir={lenet}'
        self.refuse([*LENET, run, '--protocol=tencrop'], r"'tencrop': choose one of center, ten")
        self.refuse([*LENET, run, '--config.eval.scale=20'], 'do not fit into images of scale 20')

    def test_keys_that_the_test_does_not_look_at(self, lenet):
        run = f'--workdir={lenet}'
        for word, why in (('--config.eval.scales=28,32', 'center tests at one scale'),
                          ('--config.data.eval_split=train', "'digits' has its own two splits"),
                          ('--config.optim.momentum=0.5', 'acts in training alone')):  # fmt: skip
            self.refuse([*LENET, run, word], f'{word} has no effect: .*{why}')

    def test_predictions_are_checked_before_the_work(self, lenet, tmp_path, monkeypatch):
        monkeypatch.setattr(eval_command, 'evaluate', None)
        for path in (tmp_path, tmp_path / 'none' / 'p.csv'):
            self.refuse([*LENET, f'--workdir={lenet}', f'--predictions={path}'], 'cannot be wri')

    def test_exit_code_and_one_line(self, tmp_path):
        command = [sys.executable, 'eval.py', *LENET, f'--workdir={tmp_path}']
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith('error: ')
