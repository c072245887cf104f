"""CIFAR as its author published it: every pixel where it belongs, and no file believed unseen."""

import hashlib
import pathlib
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cnn_arch.data import cifar, sources
from cnn_arch.errors import UserError
from configs import base
from tests.shared import shared_data

TEN = tuple(f'class {i}' for i in range(10))


def open_source(directory: pathlib.Path, split: str = 'test', name: str = 'cifar10') -> Any:
    config = base.get_config().data
    config.source, config.dir, config.eval_split = name, str(directory), split
    return sources.open_source(config, 'eval')


def records(count: int, labels: list[range], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 [N, 3072] and labels int [N, len(labels)]."""
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return planes, np.stack([rng.integers(r.start, r.stop, count) for r in labels], axis=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Splits of 50 and 10 images, and no digests but those that a test writes here."""
    digests: dict[str, str] = {}

    def digest_of(version: cifar.Version) -> cifar.Version:
        splits = {
            split: {file: digests.get(file, '') for file in files}
            for split, files in version.splits.items()
        }
        return cifar.Version(version.folder, version.names, splits, version.fine)

    versions = {name: tuple(map(digest_of, pair)) for name, pair in cifar.VERSIONS.items()}
    monkeypatch.setattr(cifar, 'VERSIONS', versions)
    monkeypatch.setattr(cifar, 'IMAGES', {'train': 50, 'test': 10})
    monkeypatch.setattr(cifar, 'META_MD5', {})
    return digests


def write_binary(folder: pathlib.Path, batches: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'batches.meta.txt').write_text('\n'.join(TEN) + '\n\n')
    written = []
    for number in range(batches + 1):
        planes, labels = records(10, [range(10)], number)
        name = f'data_batch_{number}.bin' if number else 'test_batch.bin'
        table = np.concatenate([labels.astype(np.uint8), planes], axis=1)
        (folder / name).write_bytes(table.tobytes())
        written.append((planes, labels[:, 0]))
    return written


def pickled_by_python_2(value: Any) -> bytes:
    """As the author's files are: protocol 2, whose strings of bytes are Python 2's `str`."""
    content = bytearray(pickle.dumps(value, protocol=3))
    old = {'BINBYTES': b'T', 'SHORT_BINBYTES': b'U', 'BINUNICODE': b'T'}
    for opcode, _, place in list(pickletools.genops(bytes(content))):
        assert place is not None
        if opcode.name in old:
            content[place : place + 1] = old[opcode.name]
    content[1] = 2
    return bytes(content)


def write_python(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-100's Python version."""
    folder.mkdir(parents=True, exist_ok=True)
    planes, labels = records(10, [range(20), range(100)], 7)
    batch = {'data': planes, 'fine_labels': labels[:, 1].tolist(),
             'coarse_labels': labels[:, 0].tolist(), 'filenames': ['x'] * 10}  # fmt: skip
    (folder / 'test').write_bytes(pickled_by_python_2(batch))
    names = {'fine_label_names': [f'fine {i}' for i in range(100)], 'coarse_label_names': []}
    (folder / 'meta').write_bytes(pickled_by_python_2(names))
    return planes, labels[:, 1]


def test_the_real_test_split() -> None:
    """10,000 images, 1,000 of each class; a pixel by the definition of the format."""
    folder = shared_data('cifar10')
    source = open_source(folder)
    assert (len(source), source.complete, source.num_classes) == (10_000, 10_000, 10)
    assert np.bincount(source.labels).tolist() == [1000] * 10
    content = (folder / 'test_batch.bin').read_bytes()
    for image, row, column, channel in ((0, 0, 0, 0), (4321, 7, 30, 1), (9999, 31, 31, 2)):
        place = image * 3073 + 1 + channel * 1024 + row * 32 + column
        assert source[image].image[row, column, channel] == content[place]
        assert source[image].label == content[image * 3073]
    found = cifar.find('cifar10', folder)
    assert found is not None
    assert cifar.load('cifar10', *found, 'test').names[3] == 'cat'


def test_batches_are_read_in_order(tmp_path: pathlib.Path, small: dict[str, str]) -> None:
    written = write_binary(tmp_path / 'cifar-10-batches-bin')
    for directory in (tmp_path, tmp_path / 'cifar-10-batches-bin'):
        source = open_source(directory, 'train')
        expected = np.concatenate([planes for planes, _ in written[1:]])
        expected = expected.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(source.images, expected)
        labels = np.concatenate([labels for _, labels in written[1:]])
        np.testing.assert_array_equal(source.labels, labels)


@pytest.mark.parametrize(
    ('split', 'chosen', 'complete'),
    [('train[:45]', slice(45), 45), ('train[45:]', slice(45, None), 5),
     ('test[2:5]', slice(2, 5), 10)],
)  # fmt: skip
def test_parts_of_splits(
    tmp_path: pathlib.Path, small: dict[str, str], split: str, chosen: slice, complete: int
) -> None:
    """45,000 and 5,000 of the training images are splits; a few of the test images are a part."""
    write_binary(tmp_path)
    whole, part = open_source(tmp_path, split.partition('[')[0]), open_source(tmp_path, split)
    np.testing.assert_array_equal(part.images, whole.images[chosen])
    assert part.complete == complete


def test_the_python_version(tmp_path: pathlib.Path, small: dict[str, str]) -> None:
    planes, fine = write_python(tmp_path / 'cifar-100-python')
    source = open_source(tmp_path, name='cifar100')
    np.testing.assert_array_equal(source.labels, fine)
    assert source.num_classes == 100
    np.testing.assert_array_equal(
        source.images, planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    )


def test_cifar_100_in_binary_has_the_fine_labels(
    tmp_path: pathlib.Path, small: dict[str, str]
) -> None:
    planes, labels = records(10, [range(20), range(100)], 7)
    table = np.concatenate([labels.astype(np.uint8), planes], axis=1)
    (tmp_path / 'test.bin').write_bytes(table.tobytes())
    (tmp_path / 'fine_label_names.txt').write_text('\n'.join(f'fine {i}' for i in range(100)))
    source = open_source(tmp_path, name='cifar100')
    np.testing.assert_array_equal(source.labels, labels[:, 1])


class Exploit:
    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (pathlib.Path('exploited'),)


@pytest.mark.parametrize(
    ('file', 'content', 'words'),
    [
        ('test_batch.bin', b'\x00' * 3072, 'no whole number of records'),
        ('test_batch.bin', b'', 'no whole number of records'),
        ('test_batch.bin', b'\x0a' + b'\x00' * 3072, 'a class of 10'),
        ('test_batch.bin', b'\x00' * 3073, '1 test images, expected 10'),
        ('batches.meta.txt', b'one\ntwo\n', '2 names of classes'),
        ('batches.meta.txt', b'same\n' * 10, 'each once'),
        ('batches.meta.txt', None, 'batches.meta.txt: not readable'),
        ('test_batch.bin', None, 'test_batch.bin: not readable'),
    ],
)
def test_damaged_files(
    tmp_path: pathlib.Path, small: dict[str, str], file: str, content: bytes | None, words: str
) -> None:
    write_binary(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        open_source(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_one_flipped_bit_is_noticed(tmp_path: pathlib.Path) -> None:
    """The real file, under its real digest."""
    folder = shared_data('cifar10')
    (tmp_path / 'batches.meta.txt').write_text((folder / 'batches.meta.txt').read_text())
    content = bytearray((folder / 'test_batch.bin').read_bytes())
    assert hashlib.md5(content).hexdigest() == '803d5f7f4d78ea53de84dbe85f74fb6d'
    content[12_345_678] ^= 1
    (tmp_path / 'test_batch.bin').write_bytes(content)
    with pytest.raises(UserError, match="not the author's file"):
        open_source(tmp_path)


def test_a_pickle_is_not_obeyed(
    tmp_path: pathlib.Path, small: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    (tmp_path / 'test').write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(UserError, match='not a batch of the Python version'):
        open_source(tmp_path, name='cifar100')
    assert not (tmp_path / 'exploited').exists()


@pytest.mark.parametrize('content', [b'', b'\x80\x02K\x01.', pickle.dumps({'data': 1}), b'garbage'])
def test_other_pickles(tmp_path: pathlib.Path, small: dict[str, str], content: bytes) -> None:
    write_python(tmp_path)
    (tmp_path / 'test').write_bytes(content)
    with pytest.raises(UserError, match='not a batch of the Python version'):
        open_source(tmp_path, name='cifar100')


@pytest.mark.parametrize('split', ['validation', 'train[:90%]', 'test[', 'train[5:5]'])
def test_other_splits(tmp_path: pathlib.Path, small: dict[str, str], split: str) -> None:
    write_binary(tmp_path)
    with pytest.raises(UserError, match='split'):
        open_source(tmp_path, split)
