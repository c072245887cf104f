"""Where images come from: what is read, and what is refused with one clear line."""

import gzip
import io
import pathlib
import struct

import ml_collections
import numpy as np
import PIL.Image
import pytest

from cnn_arch.data import scenes, sources
from cnn_arch.errors import UserError
from configs import base
from tests.shared import shared_data


def config_of(source: str, directory: pathlib.Path | str, channels: int = 3):
    config = base.get_config().data
    config.source, config.dir, config.channels = source, str(directory), channels
    return config


def picture(path: pathlib.Path, colour: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new('RGB', (20, 16), (colour, 0, 0)).save(path, 'JPEG')


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train = sources.open_source(config_of('digits', '', channels=1), 'train')
    test = sources.open_source(config_of('digits', ''), 'eval')
    assert (len(train), len(test), test.complete, test.num_classes) == (1437, 360, 360, 10)
    image = train[0].image
    assert isinstance(image, np.ndarray)
    assert image.shape == (28, 28, 1)
    assert test[0].image.shape == (28, 28, 3)
    assert image[:4].max() == image[24:].max() == image[:, :4].max() == image[:, 24:].max() == 0
    # The 20x20 middle is the original 8x8 digit, enlarged: averaging it gives the digit back.
    original = load_digits().images[0] * (255 / 16)
    middle = PIL.Image.fromarray(image[4:24, 4:24, 0]).resize((8, 8), PIL.Image.Resampling.BOX)
    assert np.corrcoef(np.asarray(middle, float).ravel(), original.ravel())[0, 1] > 0.97
    assert [test[i].label for i in range(360)] == list(load_digits().target[-360:])


def test_real_mnist() -> None:
    folder = shared_data('mnist')
    for split, count, first in (('train', 60_000, [5, 0, 4, 1, 9]), ('eval', 10_000, [7, 2, 1, 0])):
        source = sources.open_source(config_of('mnist', folder, channels=1), split)
        assert len(source) == source.complete == count
        assert [source[i].label for i in range(len(first))] == first
        assert source[0].image.shape == (28, 28, 1)


def test_mnist_files_that_are_damaged(tmp_path: pathlib.Path) -> None:
    images, labels = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8)
    write_idx(tmp_path / 'train-images-idx3-ubyte.gz', images)
    with pytest.raises(UserError, match='no train-labels-idx1-ubyte'):
        sources.open_source(config_of('mnist', tmp_path), 'train')
    write_idx(tmp_path / 'train-labels-idx1-ubyte.gz', labels[:2])
    with pytest.raises(UserError, match='3 train images but 2 labels'):
        sources.open_source(config_of('mnist', tmp_path), 'train')
    write_idx(tmp_path / 'train-labels-idx1-ubyte.gz', labels + 10)
    with pytest.raises(UserError, match='class above 9'):
        sources.open_source(config_of('mnist', tmp_path), 'train')
    path = tmp_path / 'train-images-idx3-ubyte.gz'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match='not a complete gzip file'):
        sources.open_source(config_of('mnist', tmp_path), 'train')
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack('>3I', 9, 28, 28)))
    with pytest.raises(UserError, match='its header says'):
        sources.open_source(config_of('mnist', tmp_path), 'train')
    path.write_bytes(gzip.compress(b'hello, this is text'))
    with pytest.raises(UserError, match='not an idx file'):
        sources.open_source(config_of('mnist', tmp_path), 'train')


def test_class_folders_have_their_own_labels(tmp_path: pathlib.Path) -> None:
    for name in ('zebra', 'ant'):
        for k in range(2):
            picture(tmp_path / 'train' / name / f'{k}.JPEG')
    picture(tmp_path / 'val' / 'zebra' / '9.jpg')
    picture(tmp_path / 'val' / 'ant' / '8.png')
    train = sources.open_source(config_of('folder', tmp_path), 'train')
    assert [(train[i].key, train[i].label) for i in range(4)] == [
        ('ant/0.JPEG', 0), ('ant/1.JPEG', 0), ('zebra/0.JPEG', 1), ('zebra/1.JPEG', 1),
    ]  # fmt: skip
    test = sources.open_source(config_of('folder', tmp_path), 'eval')
    assert [(e.key, e.label) for e in (test[0], test[1])] == [('ant/8.png', 0), ('zebra/9.jpg', 1)]
    assert test.num_classes == 2
    assert test.complete == 2


def test_a_part_of_imagenet_keeps_its_class_numbers(tmp_path: pathlib.Path) -> None:
    picture(tmp_path / 'n01443537' / 'fish.JPEG')
    picture(tmp_path / 'n15075141' / 'paper.JPEG')
    source = sources.open_source(config_of('folder', tmp_path), 'eval')
    assert [source[0].label, source[1].label] == [1, 999]
    assert source.num_classes == 1000
    assert source.complete == 50_000, 'two pictures are not the validation set'


def test_sample_of_imagenet() -> None:
    source = sources.open_source(config_of('folder', shared_data('ilsvrc_sample')), 'eval')
    assert len(source) == 300
    assert source.num_classes == 1000
    assert (source[0].key, source[0].label) == ('n01440764/n01440764_tench.JPEG', 0)
    source = sources.open_source(config_of('folder', shared_data('ilsvrc_val227')), 'eval')
    assert (source[0].key, source[0].label) == ('images/ILSVRC2012_val_00000347.JPEG', 472)
    assert source.complete == 50_000


def test_labels_file_that_is_wrong(tmp_path: pathlib.Path) -> None:
    picture(tmp_path / 'run' / 'a.JPEG')
    picture(tmp_path / 'secret.JPEG')
    for line, message in {
        'a.JPEG': 'expected `file class`',
        'a.JPEG minus': 'expected `file class`',
        'b.JPEG 3': 'no such picture',
        '../secret.JPEG 3': 'lies outside',
        'a.JPEG 1000': 'out of range',
    }.items():
        (tmp_path / 'run' / 'labels.txt').write_text(line + '\n')
        with pytest.raises(UserError, match=message):
            sources.open_source(config_of('folder', tmp_path / 'run'), 'eval')


def test_folders_that_hold_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match='no such folder'):
        sources.open_source(config_of('folder', tmp_path / 'nowhere'), 'train')
    with pytest.raises(UserError, match='no pictures'):
        sources.open_source(config_of('folder', tmp_path), 'train')


def test_tfds_set_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match='not readable in'):
        sources.open_source(config_of('imagenet2012', tmp_path), 'train')


def test_classes_must_fit_the_network() -> None:
    config = ml_collections.ConfigDict(base.get_config())
    config.data.source, config.model.num_classes = 'digits', 1000
    with pytest.raises(UserError, match=r'set --config\.model\.num_classes=10'):
        sources.open_for(config, 'train')


def test_scenes_are_a_function_of_their_index(tmp_path: pathlib.Path) -> None:
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    one, again, other = (
        scenes.draw_scene(digit, np.random.default_rng([1, seed])) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)
    low, high = scenes.SIDES
    for scene in (one, other):
        short, long = sorted(scene.shape[:2])
        assert low <= short <= high
        assert short <= long <= scenes.ASPECT * short


def test_scenes_are_made_once_and_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = np.zeros((2, 28, 28), np.uint8), np.array([3, 4], np.int32)
    monkeypatch.setattr(scenes.digits, 'load', lambda split: few)
    config = config_of('digits_scenes', tmp_path)
    train = sources.open_source(config, 'train')
    test = sources.open_source(config, 'eval')
    assert len(train) == 2 * scenes.COPIES['train']
    assert len(test) == test.complete == 2 * scenes.COPIES['eval']
    assert [train[i].label for i in range(4)] == [3, 4, 3, 4]
    PIL.Image.open(io.BytesIO(train[0].image)).verify()
    before = train[1].image
    monkeypatch.setattr(scenes, 'draw_scene', None)  # a second call must not draw
    assert sources.open_source(config, 'train')[1].image == before

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, 'draw_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenes.prepare(str(tmp_path / 'other'))
    assert list((tmp_path / 'other').iterdir()) == []
