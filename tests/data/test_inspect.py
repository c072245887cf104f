"""What `inspect` says of a folder of pictures, against the pictures themselves."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from cnn_arch.data import augment, inspect, loader, prepare
from cnn_arch.errors import UserError
from configs import base
from tests.shared import ROOT

SIZES = {  # class -> (width, height, colour mode) of each picture
    'ant': [(300, 260, 'RGB'), (500, 375, 'L'), (90, 400, 'RGB')],
    'bee': [(640, 427, 'RGB')],
    'cat': [(256, 256, 'CMYK'), (320, 240, 'RGB')],
}


@pytest.fixture
def folder(tmp_path):
    photograph = Image.fromarray(sklearn.datasets.load_sample_image('flower.jpg'))
    root = tmp_path / 'animals'
    for name, pictures in SIZES.items():
        (root / name).mkdir(parents=True)
        for number, (width, height, mode) in enumerate(pictures):
            picture = photograph.resize((width, height)).convert(mode)
            picture.save(root / name / f'{name}{number}.jpg', 'JPEG', quality=95)
    return root


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_what_it_says(folder, tmp_path, capsys):
    inspect.main([str(folder), f'--sheet={tmp_path / "sheet.png"}', '--pictures=5'])
    text = lines_of(capsys)
    assert text[:3] == [
        'folder: 6 images, 3 classes',
        'images per class: 1 to 3, median 2; 0 classes without any',
        '  0 ant: 3    1 bee: 1    2 cat: 2',
    ]
    assert text[4:10] == [
        '  shorter side: 90, 90, 256, 427, 427',
        '  longer side: 256, 256, 320, 640, 640',
        '  smallest image: 90x400, ant/ant2.jpg',
        '  largest image: 640x427, bee/bee0.jpg',
        '  1 images have a side below the 224 pixels of the input',
        'formats and colour modes: 4 JPEG RGB, 1 JPEG L, 1 JPEG CMYK',
    ]
    assert pixels(tmp_path / 'sheet.png').shape == (2 * (224 + inspect.CAPTION), 3 * 224, 3)


def test_the_sheet_shows_what_the_network_sees(folder, tmp_path):
    """Each tile against augmentation and colour shift done again here, in NumPy."""
    inspect.main(
        [str(folder), f'--sheet={tmp_path / "sheet.png"}', '--pictures=4', '--config.seed=3',
         '--config.data.augment.pca_colour=0.1', '--config.data.augment.scale_max=512',
         '--config.data.std=(58.0, 57.0, 57.5)']
    )  # fmt: skip
    sheet = pixels(tmp_path / 'sheet.png').astype(float)
    files = sorted(folder.glob('*/*.jpg'))
    order = loader.permutation(3, 0, len(files))
    config = base.get_config().data.augment
    config.update({'pca_colour': 0.1, 'scale_max': 512})
    shifts = []
    for place in range(4):
        rng = loader.generator(3, loader._SAMPLE, place)
        sample = augment.train_example(files[order[place]].read_bytes(), rng, config)
        expected = np.clip(np.round(sample['image'] + sample['colour'].astype(float)), 0, 255)
        top, left = place // 2 * (224 + inspect.CAPTION), place % 2 * 224
        tile = sheet[top : top + 224, left : left + 224]
        assert np.abs(tile - expected).max() <= 1  # a half may round either way
        assert np.mean(tile != expected) < 1e-3
        shifts.append(np.abs(sample['colour']).max())
    assert max(shifts) > 2  # there was a shift to see


def test_grey_and_small_inputs_are_enlarged(tmp_path, capsys):
    config = ['--config.data.channels=1', '--config.data.mean=(0.0,)', '--config.data.std=(1.0,)',
              '--config.data.augment.crop=none', '--config.data.augment.size=16',
              '--config.data.augment.mirror=false']  # fmt: skip
    inspect.main(['digits', f'--sheet={tmp_path / "s.png"}', '--pictures=3', *config])
    assert any(line.startswith('formats and colour modes: ') for line in lines_of(capsys))
    sheet = pixels(tmp_path / 's.png')
    side = 96  # 16 pixels, six times as large
    assert sheet.shape == (2 * (side + inspect.CAPTION), 2 * side, 3)
    tile = sheet[:side, :side, 0]
    np.testing.assert_array_equal(tile, np.kron(tile[::6, ::6], np.ones((6, 6), np.uint8)))
    assert np.ptp(tile) > 100
    assert (sheet[side + inspect.CAPTION :, side:] == 255).all()  # no fourth picture


def test_a_prepared_data_set(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    assert prepare.main(['animals', f'--from-folder={folder}', f'--out={out}']) == 0
    capsys.readouterr()
    inspect.main(['animals', f'--dir={out}', f'--sheet={tmp_path / "s.png"}', '--pictures=1'])
    text = lines_of(capsys)
    assert text[0] == 'animals: 6 images, 3 classes'
    assert text[2] == '  0 ant: 3    1 bee: 1    2 cat: 2'
    assert '  smallest image: 90x400, ant/ant2.jpg' in text


def test_a_part_is_said_to_be_one(folder, tmp_path, capsys):
    inspect.main([str(folder), f'--sheet={tmp_path / "s.png"}', '--pictures=1', '--sample=2'])
    text = lines_of(capsys)
    assert text[0] == 'folder: 6 images, 2 of them looked at, 3 classes'
    assert text[2] == '  0 ant: 1    2 cat: 1'  # the first and the last


def test_unreadable_pictures_are_named(folder, tmp_path, capsys):
    (folder / 'cat' / 'zzz.jpg').write_bytes(b'no picture')
    inspect.main(
        [str(folder), f'--sheet={tmp_path / "s.png"}', '--pictures=1',
         '--config.data.on_bad_image=skip']
    )  # fmt: skip
    text = lines_of(capsys)
    assert 'no picture at all: 1 (cat/zzz.jpg)' in text
    assert '  0 ant: 3    1 bee: 1    2 cat: 3' in text
    assert '  smallest image: 90x400, ant/ant2.jpg' in text


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['absent_set'], "'absent_set'"),
        (['digits', '--pictures=0'], '--pictures must be at least 1'),
        (['digits', '--sheet=/nowhere/s.png'], 'no such folder'),
        (['digits', '--split=best'], 'invalid choice'),
        (['digits', '--config=configs/absent.py'], 'no configuration file'),
        (['digits', '--config.data.augment.sise=3'], 'did you mean'),
        ([], 'dataset'),
    ],
)
def test_mistakes(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        inspect.main(args)
    assert not list(tmp_path.iterdir())


def test_what_the_augmentation_cannot_serve(folder, tmp_path):
    """As train.py says it."""
    words = [str(folder), '--config=configs/resnet.py:cifar-20', f'--sheet={tmp_path / "s.png"}']
    with pytest.raises(UserError, match=r'crop = padded takes images .* in memory .*, not folder'):
        inspect.main(words)


def test_as_a_command(folder, tmp_path):
    command = [sys.executable, '-m', 'cnn_arch.data.inspect', str(folder), '--pictures=1']
    sheet = tmp_path / 's.png'
    done = subprocess.run([*command, f'--sheet={sheet}', '--config=configs/vgg.py:D'], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pixels(sheet).shape == (224 + inspect.CAPTION, 224, 3)
