"""Through train.py, eval.py and the others: classes are names, and no picture counts unawares.

The pictures are scikit-learn's digits in class folders `zero` to `nine`, as PNG.
"""

import json
import pathlib
import re
import shutil

import pytest
from PIL import Image

import eval as eval_command
import train as train_command
from cnn_arch import commands
from cnn_arch.data import digits, sources, synsets
from cnn_arch.deconvnet import __main__ as deconvnet_command
from cnn_arch.evaluation import tables
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Paper, Row, Table
from cnn_arch.weights import trained
from tests.test_eval_cli import read

NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
PER_CLASS = 3  # pictures of the test split
CONFIG = ['--config=configs/demo.py:lenet5', '--config.data.source=folder',
          '--config.data.eval_split=validation', '--config.eval.batch_size=16']  # fmt: skip
TRAINING = ['--config.train.batch_size=16', '--config.train.steps=2', '--config.train.eval_every=2']


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`train/` and `val/` of class folders."""
    folder = tmp_path_factory.mktemp('pictures')
    for split, name, count in (('train', 'train', 4), ('eval', 'val', PER_CLASS)):
        images, labels = digits.load(split)
        for label, called in enumerate(NAMES):
            (folder / name / called).mkdir(parents=True)
            for number, image in enumerate(images[labels == label][:count]):
                Image.fromarray(image).save(folder / name / called / f'{number}.png')
    return folder


@pytest.fixture(scope='module')
def run(pictures: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of train.py on them."""
    folder = tmp_path_factory.mktemp('run') / 'lenet5'
    argv = [*CONFIG, *TRAINING, f'--workdir={folder}', f'--config.data.dir={pictures}']
    assert train_command.main(argv) == 0
    return folder


@pytest.fixture
def data(pictures: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy, to be changed."""
    return shutil.copytree(pictures, tmp_path / 'data')


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """Runs a command as a shell does: exit code, what it prints, what it says beside."""

    def execute(main, *argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level('INFO'), pytest.raises(SystemExit) as ended:
            commands.run(main, list(argv))
        out, error = capsys.readouterr()
        if ended.value.code:
            assert error.startswith('error: '), error
            assert error.count('\n') == 1, error
            assert 'top-1 error' not in out
        return ended.value.code or 0, out, error + caplog.text

    return execute


def evaluation(run: pathlib.Path, data: pathlib.Path, *more: str) -> list[str]:
    return [*CONFIG, f'--workdir={run}', f'--config.data.dir={data}', *more]


def labels_of(run: pathlib.Path, file: pathlib.Path) -> set[tuple[str, str]]:
    """Folder of each picture, and the class of the network that its label stands for."""
    names = json.loads((run / 'classes.json').read_text())
    return {(row['file'].split('/')[0], names[int(row['label'])]) for row in read(file)}


def test_a_run_keeps_the_names(run: pathlib.Path) -> None:
    assert json.loads((run / 'classes.json').read_text()) == sorted(NAMES)
    assert trained.find(run).classes == trained.classes_of(run) == tuple(sorted(NAMES))


def test_a_class_that_the_test_split_lacks(run, data, say, tmp_path) -> None:
    """`zero` is missing and a hidden folder is there: nine folders, and all labels stay right."""
    shutil.rmtree(data / 'val' / 'zero')
    shutil.copytree(data / 'val' / 'one', data / 'val' / '.ipynb_checkpoints')
    shutil.rmtree(data / 'val' / 'five')
    (data / 'val' / 'five').mkdir()
    file = tmp_path / 'predictions.csv'
    code, out, _ = say(eval_command.main, *evaluation(run, data, f'--predictions={file}'))
    assert code == 0
    assert out.strip().endswith(f'n = {8 * PER_CLASS}')
    kept = sorted({*NAMES} - {'zero', 'five'})
    assert labels_of(run, file) == {(name, name) for name in kept}
    # The same when train.py tests: the error is that of eval.py.
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', f'--workdir={tmp_path / "run"}']
    assert say(train_command.main, *flags)[0] == 0
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert f'top-1 error {result["top1_error"]:.2f} %' in out
    assert json.loads((tmp_path / 'run' / 'classes.json').read_text()) == sorted(NAMES)


def test_a_renamed_class(run, data, say, tmp_path) -> None:
    (data / 'val' / 'zero').rename(data / 'val' / 'Zero')
    words = f"{data}/val has class 'Zero' that the training split of {data}/train has not"
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', f'--workdir={tmp_path / "run"}']
    code, _, error = say(train_command.main, *flags)
    assert code == 2
    assert words in error
    assert "there it is called 'zero'" in error
    assert not (tmp_path / 'run').exists()
    code, _, error = say(eval_command.main, *evaluation(run, data))
    assert code == 2
    assert f"{data}/val has class 'Zero' that {run} has not; there it is called 'zero'" in error


def test_resuming_with_other_training_data(run, data, say) -> None:
    before = {path: path.read_bytes() for path in run.glob('*.json')}
    (data / 'train' / 'zero').rename(data / 'train' / 'null')
    shutil.rmtree(data / 'val' / 'zero')
    longer = ['--config.train.steps=4' if 'steps' in word else word for word in TRAINING]
    flags = [*CONFIG, *longer, f'--config.data.dir={data}']
    code, _, error = say(train_command.main, *flags, f'--workdir={run}')
    assert code == 2
    assert f"the training data has class 'null' that the run in {run} has not" in error
    assert {path: path.read_bytes() for path in run.glob('*.json')} == before


def test_starting_from_a_network_of_other_classes(run, data, say, tmp_path) -> None:
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', f'--workdir={tmp_path / "run"}',
             f'--config.init_from={run}']  # fmt: skip
    for split in ('train', 'val'):
        (data / split / 'zero').rename(data / split / 'null')
    code, _, error = say(train_command.main, *flags)
    assert code == 2
    assert f"{data}/train has class 'null' that init_from = {run} has not" in error
    assert not (tmp_path / 'run').exists()
    for split in ('train', 'val'):
        (data / split / 'null').rename(data / split / 'zero')
    assert say(train_command.main, *flags)[0] == 0


def test_members_of_an_ensemble(run, data, say, tmp_path) -> None:
    other = tmp_path / 'other'
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', '--config.seed=1']
    assert say(train_command.main, *flags, f'--workdir={other}')[0] == 0
    names = json.loads((other / 'classes.json').read_text())
    command = evaluation(run, data, f'--with={other}')
    assert say(eval_command.main, *command)[0] == 0
    (other / 'classes.json').write_text(json.dumps([*names[:-1], 'Zero']))
    code, _, error = say(eval_command.main, *command)
    assert code == 2
    assert f"--with={other} has class 'Zero' that the first network has not" in error
    (other / 'classes.json').write_text(json.dumps(names[::-1]))
    code, _, error = say(eval_command.main, *command)
    assert code == 2
    assert "in another order: class 0 is 'zero', not 'eight'" in error
    (other / 'classes.json').write_text(json.dumps(names[1:]))
    code, _, error = say(eval_command.main, *command)
    assert code == 2
    assert f'{other}: 9 class names of a network of 10 classes' in error


def test_a_table(run, data, say, tmp_path, monkeypatch) -> None:
    row = Row('one', 9.0, 1.0, 'configs/demo.py:lenet5', {}, 'center', run.name)
    monkeypatch.setitem(PAPERS, 'nobody', Paper({'1': Table('Table 1', 'Nets', (row,))}, ()))
    argv = ['--table=nobody:1', f'--runs={run.parent}', f'--config.data.dir={data}', *CONFIG[1:],
            f'--out={tmp_path / "table.md"}']  # fmt: skip
    shutil.rmtree(data / 'val' / 'zero')
    code, out, error = say(eval_command.main, *argv)
    assert code == 0, error
    assert f' {9 * PER_CLASS} ' in out
    (data / 'val' / 'one').rename(data / 'val' / 'uno')
    code, _, error = say(eval_command.main, *argv)
    assert code == 2
    assert f"{data}/val has class 'uno' that {run} has not" in error


def test_members_of_a_table_have_the_same_classes(run, tmp_path) -> None:
    other = shutil.copytree(run, tmp_path / 'other')
    members = [trained.find(run), trained.find(other)]
    tables._require_same_classes(members)
    names = json.loads((other / 'classes.json').read_text())
    (other / 'classes.json').write_text(json.dumps(names[::-1]))
    with pytest.raises(tables.UserError, match='in another order'):
        tables._require_same_classes(members)


def test_the_deconvnet_tells_probabilities_of_the_right_class(run, data, say, tmp_path) -> None:
    (data / 'val' / 'zero').rename(data / 'val' / 'Zero')
    argv = evaluation(run, data, f'--out={tmp_path / "out"}', '--images=0')
    for study in ('occlusion', 'invariance'):
        code, _, error = say(deconvnet_command.main, study, *argv, *(
            ['--method=gradient'] if study == 'occlusion' else ['--layers=logits']))  # fmt: skip
        assert code == 2
        assert "class 'Zero' that" in error, study
    assert not (tmp_path / 'out').exists()


def test_a_run_that_was_made_before_names_were_kept(run, data, say, tmp_path) -> None:
    """Its classes are compared by count, and one line says so; going on, it keeps the names."""
    old = shutil.copytree(run, tmp_path / 'old')
    (old / 'classes.json').unlink()
    line = f'{old} has kept no class names: its 10 classes are compared by count alone'
    code, out, said = say(eval_command.main, *evaluation(old, data))
    assert code == 0
    assert said.count(line) == 1
    assert out.strip().endswith(f'n = {10 * PER_CLASS}')
    shutil.rmtree(data / 'val' / 'zero')
    code, _, error = say(eval_command.main, *evaluation(old, data))
    assert code == 2
    assert 'folder has 9 classes, the network 10' in error
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', f'--workdir={old}']
    code, _, said = say(train_command.main, *flags)
    assert code == 0
    assert said.count(line) == 1
    assert json.loads((old / 'classes.json').read_text()) == sorted(NAMES)


def test_names_that_are_damaged(run, data, say, tmp_path) -> None:
    copy = shutil.copytree(run, tmp_path / 'copy')
    for content in ('{"a": 1}', '["a"', '[]'):
        (copy / 'classes.json').write_text(content)
        code, _, error = say(eval_command.main, *evaluation(copy, data))
        assert code == 2
        assert str(copy / 'classes.json') in error


def test_weights_of_1000_classes_are_ilsvrcs(tmp_path) -> None:
    record = {key: kind() for key, kind in trained.RECORDED.items()} | {
        'missing': [], 'network': {'model.num_classes': 1000}, 'classes': synsets.ilsvrc_2012()
    }  # fmt: skip
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'weights.json').write_text(json.dumps(record))
    names = trained.classes_of(tmp_path / 'w')
    assert names == tuple(synsets.ilsvrc_2012())
    for number in range(1000):  # as many, and others
        folder = tmp_path / 'data' / f'{number:04}'
        folder.mkdir(parents=True)
        (folder / '1.png').touch()
    config = sources.ml_collections.ConfigDict(
        {'data': {'source': 'folder', 'dir': str(tmp_path / 'data'), 'eval_split': 'validation'}}
    )
    with pytest.raises(sources.UserError, match="has 1,000 classes '0000', '0001', '0002' and 997"):
        sources.open_for(config, 'eval', names, tmp_path / 'w')
    record['missing'] = ['fc8/kernel']  # of a classifier that is not there nothing can be said
    (tmp_path / 'w' / 'weights.json').write_text(json.dumps(record))
    assert trained.classes_of(tmp_path / 'w') is None


# ---- everything found is used once, or named and counted, or refused


def test_sub_folders_and_other_formats_count(run, data, say) -> None:
    """As many pictures as before, some of them deeper, some in other formats; the same error."""
    code, before, _ = say(eval_command.main, *evaluation(run, data))
    assert code == 0
    for name in ('three', 'six'):
        (data / 'val' / name / 'a' / 'b').mkdir(parents=True)
        for number in range(PER_CLASS):
            path = data / 'val' / name / f'{number}.png'
            path.rename(path.parent / 'a' / 'b' / path.name)
    for name, ending in (('one', 'bmp'), ('two', 'tif'), ('four', 'webp'), ('five', 'gif')):
        path = data / 'val' / name / '0.png'
        Image.open(path).save(path.with_suffix(f'.{ending}'), lossless=True)
        path.unlink()
    code, after, said = say(eval_command.main, *evaluation(run, data))
    assert code == 0
    found = re.search(r'top-1 error .*', before)
    assert found
    assert found[0].endswith(f'n = {10 * PER_CLASS}')
    assert found[0] in after
    assert f'{data}/val: 30 pictures; 6 pictures in sub-folders of their class folder' in said


def test_what_is_not_used_is_said_once(run, data, say, tmp_path) -> None:
    for name in ('val/one/0.heic', 'val/one/0.txt', 'val/stray.png'):
        (data / name).touch()
    _, _, said = say(eval_command.main, *evaluation(run, data))
    line = (f'{data}/val: 30 pictures; left out, outside class folders: 1 picture (stray.png); '
            'left out, no pictures by their endings: 2 files: 1 .heic (one/0.heic), '
            '1 .txt (one/0.txt)')  # fmt: skip
    assert said.count(line) == 1
    flags = [*CONFIG, *TRAINING, f'--config.data.dir={data}', f'--workdir={tmp_path / "run"}']
    assert say(train_command.main, *flags)[2].count(line) == 1


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        (['a.png 0', 'b.png 1', 'a.png 0'], ['a.png stands in line 1 (class 0)', 'line 3']),
        (['a.png 0', 'b.png 1', 'a.png 1'], ['a.png stands in line 1', 'in line 3 (class 1)']),
        (['a.png 0', 'b.png 10'], ["class '10' that"]),
    ],
)
def test_lines_of_labels(run, data, say, tmp_path, lines: list[str], words: list[str]) -> None:
    numbered = shutil.copytree(run, tmp_path / 'numbered')
    (numbered / 'classes.json').write_text(json.dumps(list('0123456789')))
    shutil.copyfile(data / 'val' / 'one' / '0.png', data / 'val' / 'a.png')
    shutil.copyfile(data / 'val' / 'two' / '0.png', data / 'val' / 'b.png')
    (data / 'val' / 'labels.txt').write_text('\n'.join(lines))
    code, _, error = say(eval_command.main, *evaluation(numbered, data))
    assert code == 2
    for word in words:
        assert word in error
    if '10' not in lines[-1]:
        (data / 'val' / 'labels.txt').write_text('\n'.join(lines[:2]))
        code, out, said = say(eval_command.main, *evaluation(numbered, data))
        assert code == 0  # two classes of ten
        assert out.strip().endswith('n = 2')
        assert 'left out, not in labels.txt: 30 pictures' in said


def test_one_folder_for_both_splits_is_said(data, say, tmp_path) -> None:
    (data / 'train' / 'stray.png').touch()
    config = [word for word in CONFIG if 'eval_split' not in word]
    flags = [*config, *TRAINING, f'--config.data.dir={data / "train"}']
    code, _, said = say(train_command.main, *flags, f'--workdir={tmp_path / "run"}')
    assert code == 0
    assert said.count(f'{data}/train has no folders of splits: training and test pictures are') == 1
    assert said.count('(stray.png)') == 1


def test_a_split_that_is_missing(run, data, say) -> None:
    shutil.rmtree(data / 'val')
    code, _, error = say(eval_command.main, *evaluation(run, data))
    assert code == 2
    assert f'no folder {data}/validation and no {data}/val ' in error
