"""eval.py over pictures and weights as they come: read, counted as left out, or one clear line."""

import io
import json
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import eval as eval_command
from cnn_arch import commands
from tests import test_eval_cli
from tests.evaluation.common import config_file
from tests.test_eval_cli import read


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def colours(*shape: int) -> Image.Image:
    rng = np.random.default_rng(len(shape) + sum(shape))
    return Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8))


def readable() -> dict[str, bytes]:
    """Unusual pictures that all the same are pictures."""
    grey = colours(60, 70).convert('L')
    deep = (np.asarray(grey).astype(np.uint16)) * 257
    rgba = colours(64, 80).convert('RGBA')
    rgba.putalpha(100)
    return {
        'cmyk.JPEG': encoded(colours(60, 64).convert('CMYK'), 'JPEG'),
        'grey.JPEG': encoded(grey, 'JPEG'),
        'deep.png': encoded(Image.fromarray(deep), 'PNG'),
        'alpha.png': encoded(rgba, 'PNG'),
        'palette.png': encoded(colours(60, 60).convert('P'), 'PNG'),
        'png_as.JPEG': encoded(colours(58, 60), 'PNG'),
        'narrow.png': encoded(colours(70, 1), 'PNG'),
        'flat.JPEG': encoded(colours(1, 70), 'JPEG'),
        'pixel.png': encoded(colours(1, 1), 'PNG'),
        'progressive.JPEG': encoded(colours(70, 60), 'JPEG', progressive=True),
    }


def unreadable() -> dict[str, tuple[bytes, str]]:
    """Files that are no pictures, each with a part of what is said of it."""
    jpeg = encoded(colours(90, 120), 'JPEG', quality=95)
    png = encoded(colours(90, 120), 'PNG')
    return {
        'truncated.JPEG': (jpeg[: len(jpeg) // 2], 'damaged picture'),
        'truncated.png': (png[: len(png) // 2], 'damaged picture'),
        'header.JPEG': (jpeg[:30], 'damaged picture|not a picture'),
        'text.JPEG': (b'<html>404 not found</html>', 'not a picture of a known format'),
        'empty.JPEG': (b'', 'not a picture of a known format'),
    }


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small network of three classes; its configuration lies beside it."""
    folder = tmp_path_factory.mktemp('bad')
    test_eval_cli.make_run(folder / 'run', [f'--config={config_file(folder, 3)}'], 5)
    return folder / 'run'


@pytest.fixture
def command(run: pathlib.Path, tmp_path: pathlib.Path, capsys) -> Callable[..., tuple[int, str]]:
    """Runs eval.py over `tmp_path / 'data'` as a shell does: (exit code, what it says)."""

    def execute(*words: str) -> tuple[int, str]:
        argv = [f'--config={run.parent}/small.py:narrow', *words]
        argv.append(f'--config.data.dir={tmp_path / "data"}')
        if not any(word.startswith(('--workdir', '--weights')) for word in words):
            argv.append(f'--workdir={run}')
        before = {*tmp_path.rglob('*')}
        with pytest.raises(SystemExit) as ended:
            commands.run(eval_command.main, argv)
        said = capsys.readouterr()
        if ended.value.code:
            assert ended.value.code == 2
            assert len(said.err.strip().splitlines()) == 1
            assert said.err.startswith('error: ')
            assert 'top-1 error' not in said.out
            assert {*tmp_path.rglob('*')} == before
        return ended.value.code or 0, said.err if ended.value.code else said.out

    return execute


def put(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    """The files in three class folders, in turn."""
    for number, (name, content) in enumerate(files.items()):
        place = folder / 'data' / f'class{number % 3}'
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


def test_unusual_pictures_are_all_counted(command, tmp_path) -> None:
    put(tmp_path, readable())
    path = tmp_path / 'predictions.csv'
    code, said = command('--protocol=ten_crop', f'--predictions={path}')
    assert code == 0
    assert said.strip().endswith('n = 10')
    assert {row['file'].split('/')[1] for row in read(path)} == readable().keys()
    assert all(row['class1'] for row in read(path))


def test_grey_and_deep_pictures_are_the_same_picture(command, tmp_path) -> None:
    """16 bits are scaled to 8, not clipped; one channel becomes three equal ones."""
    grey = colours(60, 70).convert('L')
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    three = Image.merge('RGB', [grey] * 3)
    put(tmp_path, {'a.png': encoded(grey, 'PNG'), 'b.png': encoded(deep, 'PNG'),
                   'c.png': encoded(three, 'PNG')})  # fmt: skip
    path = tmp_path / 'predictions.csv'
    assert command(f'--predictions={path}')[0] == 0
    rows = read(path)
    assert len({(row['class1'], row['probability1'], row['probability2']) for row in rows}) == 1


@pytest.mark.parametrize('name', unreadable())
def test_what_is_no_picture_stops_with_its_name(command, tmp_path, name: str) -> None:
    content, reason = unreadable()[name]
    put(tmp_path, {**readable(), name: content})
    code, said = command(f'--predictions={tmp_path / "predictions.csv"}')
    assert code == 2
    assert re.search(rf'image class\d/{name}: ', said)
    assert any(part in said for part in reason.split('|'))
    assert 'remove it, or go on without it: --config.data.on_bad_image=skip' in said


def test_left_out_they_are_listed_counted_and_marked(command, tmp_path, caplog) -> None:
    bad = {name: content for name, (content, _) in unreadable().items()}
    put(tmp_path, readable() | bad)
    path = tmp_path / 'predictions.csv'
    words = ('--config.data.on_bad_image=skip', f'--predictions={path}', '--protocol=dense')
    code, said = command(*words)
    assert code == 0
    assert said.strip().endswith('n = 10 of 15')
    listed = [line for line in caplog.text.splitlines() if 'not counted' in line]
    assert len(listed) == 5
    assert all(any(f'/{name}: ' in line for line in listed) for name in bad)
    counted = {row['file'].split('/')[1] for row in read(path) if row['class1']}
    assert counted == readable().keys()
    assert command(*words)[1].strip().endswith('n = 10 of 15')  # from what was kept, too


def test_nothing_but_bad_pictures(command, tmp_path) -> None:
    put(tmp_path, {name: content for name, (content, _) in unreadable().items()})
    code, said = command('--config.data.on_bad_image=skip')
    assert code == 2
    assert 'not one image could be evaluated' in said


def test_folders(command, tmp_path) -> None:
    assert 'no such folder' in command()[1]
    (tmp_path / 'data').mkdir()
    assert 'no pictures' in command()[1]
    for name in ('class0', 'class1', 'class2'):
        (tmp_path / 'data' / name).mkdir()
    assert 'no pictures' in command()[1]
    put(tmp_path, {'a.png': encoded(colours(60, 60), 'PNG')})
    (tmp_path / 'data' / 'class3').mkdir()
    code, said = command()
    assert code == 2
    assert 'folder has 4 classes, the network 3' in said


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('a.png 1000', 'class 1000 is out of range, 0 to 999'),
        ('a.png 7', 'folder has 8 classes, the network 3'),
        ('a.png -1', 'line 1: expected `file class`'),
        ('a.png cat', 'line 1: expected `file class`'),
        ('b.png 1', 'line 1: no such picture: b.png'),
        ('../a.png 1', 'no such picture'),
    ],
)
def test_labels(command, tmp_path, line: str, reason: str) -> None:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'a.png').write_bytes(encoded(colours(60, 60), 'PNG'))
    (tmp_path / 'data' / 'labels.txt').write_text(f'{line}\n')
    code, said = command()
    assert code == 2
    assert reason in said


class TestNetworks:
    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path) -> None:
        put(tmp_path, {f'{n}.png': encoded(colours(60, 60 + n), 'PNG') for n in range(3)})

    def copy(self, run, tmp_path) -> pathlib.Path:
        return shutil.copytree(run, tmp_path / 'copy')

    def test_another_architecture(self, command, run) -> None:
        code, said = command(f'--workdir={run}', '--config.model.options.fc_units=9')
        assert code == 2
        assert 'model.options.fc_units' in said

    def test_a_checkpoint_that_lost_half_of_a_file(self, command, run, tmp_path) -> None:
        """Orbax notices; the user reads which folder, and no number."""
        copy = self.copy(run, tmp_path)
        files = [p for p in (copy / 'checkpoints').rglob('*') if p.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
        shutil.rmtree(copy / 'evaluations', ignore_errors=True)
        code, said = command(f'--workdir={copy}')
        assert code == 2
        assert str(copy) in said

    def test_weights_that_are_none(self, command, run, tmp_path) -> None:
        file = tmp_path / 'weights.pth'
        file.write_bytes(b'\x80\x02cos\nsystem\n.')
        assert f'no folder {file}' in command(f'--weights={file}')[1]
        folder = tmp_path / 'weights'
        folder.mkdir()
        assert str(folder) in command(f'--weights={folder}')[1]
        (folder / 'weights.json').write_text('{"keys": ')
        assert 'weights.json: not valid JSON' in command(f'--weights={folder}')[1]
        (folder / 'weights.json').write_text(json.dumps({'known_as': 'x'}))
        assert 'weights.json' in command(f'--weights={folder}')[1]
