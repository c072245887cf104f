"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images,
2009): 50,000 + 10,000 colour images of 32x32 pixels, read as their author published them.

Binary version: records of one label byte (CIFAR-100: two, coarse and fine) and 3,072 bytes, the
planes R, G and B. Python version: pickled dictionaries. A file is believed only if it has the MD5
that is published for it, before anything in it is looked at; the unpickler then knows NumPy's
arrays and nothing else. Of CIFAR-100's binary version no digests of single files are published:
there sizes and labels are checked.
"""

import dataclasses
import hashlib
import io
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from cnn_arch.errors import UserError

Used = TypeVar('Used')

PIXELS = 3 * 32 * 32
IMAGES = {'train': 50_000, 'test': 10_000}


@dataclasses.dataclass(frozen=True)
class Version:
    """The files of one data set in one format, with their MD5 ('' = not published)."""

    folder: str  # what the author's archive unpacks to
    names: str  # the file with the names of the classes
    splits: dict[str, dict[str, str]]
    fine: bool = False  # two labels, of which the fine one counts


CIFAR_10_BINARY = Version(
    'cifar-10-batches-bin', 'batches.meta.txt',
    {
        'train': {
            'data_batch_1.bin': '5dd7e06a14cb22eb9f671a540d1b7c25',
            'data_batch_2.bin': '5ea93a67294ea407fff1d09f752e9692',
            'data_batch_3.bin': '942cd6a4bcdd0dd3c604fbe906cb4421',
            'data_batch_4.bin': 'ae636b3ba5c66a11e91e8cb52e771fcb',
            'data_batch_5.bin': '53f37980c15c3d472c316c40844f3f0d',
        },
        'test': {'test_batch.bin': '803d5f7f4d78ea53de84dbe85f74fb6d'},
    },
)  # fmt: skip
CIFAR_10_PYTHON = Version(
    'cifar-10-batches-py', 'batches.meta',
    {
        'train': {
            'data_batch_1': 'c99cafc152244af753f735de768cd75f',
            'data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
            'data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
            'data_batch_4': '634d18415352ddfa80567beed471001a',
            'data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
        },
        'test': {'test_batch': '40351d587109b95175f43aff81a1287e'},
    },
)  # fmt: skip
CIFAR_100_BINARY = Version(
    'cifar-100-binary', 'fine_label_names.txt',
    {'train': {'train.bin': ''}, 'test': {'test.bin': ''}}, fine=True,
)  # fmt: skip
CIFAR_100_PYTHON = Version(
    'cifar-100-python', 'meta',
    {
        'train': {'train': '16019d7e3df5f24257cddd939b257f8d'},
        'test': {'test': 'f0ef6b0ae62326f3e7ffdfab6717acfc'},
    },
    fine=True,
)  # fmt: skip
VERSIONS = {
    'cifar10': (CIFAR_10_BINARY, CIFAR_10_PYTHON),
    'cifar100': (CIFAR_100_BINARY, CIFAR_100_PYTHON),
}
CLASSES = {'cifar10': 10, 'cifar100': 100}
META_MD5 = {
    'batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
    'meta': '7973b15100ade9c7d40fb424638fde48',
}
MAX_NAMES = 1 << 20  # bytes of the file with the classes' names; the author's have below 2,000


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, 32, 32, 3], labels int32 [N], the classes' names in order.

    `complete` is the number of images of the whole that the split stands for.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    complete: int


def find(data_set: str, directory: pathlib.Path) -> tuple[pathlib.Path, Version] | None:
    """The folder with the author's files, `directory` or one that an archive unpacks to in it."""
    for version in VERSIONS[data_set]:
        for folder in (directory, directory / version.folder):
            if any((folder / name).exists() for files in version.splits.values() for name in files):
                return folder, version
    return None


def load(data_set: str, folder: pathlib.Path, version: Version, wanted: str) -> Split:
    """The split 'train' or 'test', or a part of one as tfds writes it: 'train[:45000]'.

    Raises UserError for another split and for files that are absent or not the author's.
    """
    match = re.fullmatch(r'(train|test)(?:\[(\d*):(\d*)\])?', wanted)
    if match is None:
        raise UserError(
            f'{data_set}: no split {wanted!r}; there are train and test, and parts of them such as '
            'train[:45000]'
        )
    split, first, last = match.groups()
    parts = [
        _read(data_set, folder / file, version, digest)
        for file, digest in version.splits[split].items()
    ]
    pixels = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([part for _, part in parts])
    if len(labels) != IMAGES[split]:
        raise UserError(f'{folder}: {len(labels):,} {split} images, expected {IMAGES[split]:,}')
    chosen = slice(int(first) if first else None, int(last) if last else None)
    planes = pixels[chosen].reshape(-1, 3, 32, 32)
    if not len(planes):
        raise UserError(f'{data_set}: the split {wanted!r} has no image')
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    complete = IMAGES['test'] if split == 'test' else len(images)
    return Split(images, labels[chosen], _names(data_set, folder, version), complete)


def _read(
    data_set: str, path: pathlib.Path, version: Version, digest: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, 3072], planes R, G, B, and labels int32 [N]."""
    content = _content(path, digest)
    if path.suffix == '.bin':
        labels_before = 2 if version.fine else 1
        records, rest = divmod(len(content), labels_before + PIXELS)
        if rest or not records:
            raise UserError(
                f'{path}: {len(content):,} bytes are no whole number of records of '
                f'{labels_before + PIXELS}: cut off, or another file'
            )
        table = np.frombuffer(content, np.uint8).reshape(records, -1)
        pixels, labels = table[:, labels_before:], table[:, labels_before - 1].astype(np.int32)
    else:
        pixels, labels = _batch(path, content, 'fine_labels' if version.fine else 'labels')
    if labels.max() >= CLASSES[data_set]:
        raise UserError(f'{path}: a class of {labels.max()}, but {data_set} has 0 to '
                        f'{CLASSES[data_set] - 1}: damaged, or another file')  # fmt: skip
    return pixels, labels


def _content(path: pathlib.Path, digest: str) -> bytes:
    limit = max(IMAGES.values()) * (PIXELS + 64)  # the largest file, CIFAR-100's training set
    try:
        if path.stat().st_size > limit:
            raise UserError(f'{path}: larger than any file of CIFAR')
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: not readable: {error.strerror}') from error
    if digest and hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
        raise UserError(f"{path}: not the author's file, whose MD5 is {digest}: cut off, or "
                        'altered; fetch it again')  # fmt: skip
    return content


def _names(data_set: str, folder: pathlib.Path, version: Version) -> tuple[str, ...]:
    path = folder / version.names
    content = _content(path, META_MD5.get(version.names, ''))
    if path.suffix == '.txt':
        text = content[:MAX_NAMES].decode('ascii', 'replace')
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        key = 'fine_label_names' if version.fine else 'label_names'
        names = _unpickled(path, content, lambda meta: tuple(map(str, meta[key])))
    if len(names) != CLASSES[data_set] or len(set(names)) != len(names):
        raise UserError(f'{path}: {len(names)} names of classes, expected {CLASSES[data_set]}, '
                        'each once')  # fmt: skip
    return names


class _Arrays(pickle.Unpickler):
    """Knows what NumPy's arrays are pickled with, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace('numpy.core', 'numpy._core')
        if (module, name) in (
            ('numpy._core.multiarray', '_reconstruct'), ('numpy', 'ndarray'), ('numpy', 'dtype'),
        ):  # fmt: skip
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'{module}.{name}')


def _batch(path: pathlib.Path, content: bytes, key: str) -> tuple[np.ndarray, np.ndarray]:
    def arrays(batch: Any) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = np.asarray(batch['data']), np.asarray(batch[key])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS) or labels.min() < 0:
            raise ValueError(f'data is {pixels.dtype} {pixels.shape}')
        return pixels, labels.astype(np.int32)

    return _unpickled(path, content, arrays)


def _unpickled(path: pathlib.Path, content: bytes, use: Callable[[Any], Used]) -> Used:
    try:
        return use(_Arrays(io.BytesIO(content), encoding='latin1').load())
    except Exception as error:  # whatever a damaged pickle leads to
        reason = f'{type(error).__name__}: {error}'[:200]
        raise UserError(f'{path}: not a batch of the Python version of CIFAR ({reason})') from error
