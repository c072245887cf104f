"""Where images come from: a source is a sequence of labelled, still encoded images."""

import dataclasses
import gzip
import hashlib
import pathlib
import struct
from typing import Protocol

import ml_collections
import numpy as np

from cnn_arch.data import cifar, decode, digits, scenes, synsets
from cnn_arch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """One image: encoded bytes (JPEG, PNG) or uint8 [H, W, C]; its class; its name in messages."""

    image: bytes | np.ndarray
    label: int
    key: str


class Source(Protocol):
    """Random access to the examples of one split; safe to read from several threads.

    `complete` is the number of images of the whole split that the source stands for: a number over
    fewer is marked as partial.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def complete(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


# Images of the public validation sets: errors over fewer are marked.
COMPLETE = {'imagenet2012': 50_000, 'mnist': 10_000, 'cifar10': 10_000, 'cifar100': 10_000}
IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png')


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images held in memory, uint8 [N, H, W, C] with labels [N]."""

    name: str
    num_classes: int
    complete: int
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), f'{self.name}[{index}]')


@dataclasses.dataclass(frozen=True)
class FileSource:
    """One picture file per image."""

    name: str
    num_classes: int
    complete: int
    files: list[pathlib.Path]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.files[index].read_bytes(), self.labels[index], self.files[index].name)


class TfdsSource:
    """A tfds data set prepared as ArrayRecord, read without TensorFlow; images stay encoded."""

    def __init__(self, name: str, split: str, directory: str):
        import tensorflow_datasets as tfds  # takes seconds: only where it is used

        where = directory or 'the default folder of tfds'
        try:
            self._data = tfds.data_source(
                name,
                split=split,
                data_dir=directory or None,
                decoders={'image': tfds.decode.SkipDecoding()},
                download=False,
            )
        except Exception as error:
            # tfds raises many types here, from AssertionError to its own; each means the same.
            raise UserError(
                f'data set {name!r}, split {split!r} not readable in {where}: '
                f'{str(error).strip().splitlines()[0] if str(error).strip() else error!r}; '
                'prepare it with `python -m cnn_arch.data.prepare`, or set data.dir'
            ) from error
        info = self._data.dataset_info
        self.name = name
        self.num_classes = info.features['label'].num_classes
        self.complete = COMPLETE.get(name.split('/')[0].split(':')[0], 0)
        self._has_name = 'file_name' in info.features

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        record = self._data[index]
        key = record['file_name'] if self._has_name else f'{self.name}[{index}]'
        key = key.decode() if isinstance(key, bytes) else str(key)
        return Example(record['image'], int(record['label']), key)


def open_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """The source that `config.data` names, for `split` 'train' or 'eval'.

    Raises UserError where the data is missing, empty, or has labels that do not fit.
    """
    wanted = config.train_split if split == 'train' else config.eval_split
    if config.source == 'digits':
        return _digits(split, config.channels)
    if config.source == 'digits_scenes':
        folder = scenes.prepare(config.dir)
        return _folder(folder, split, 'digits_scenes')
    if config.source == 'mnist' and any(pathlib.Path(config.dir or '.').glob('*-ubyte*')):
        return _mnist(pathlib.Path(config.dir), split)
    if config.source in cifar.VERSIONS:
        return _cifar(config, split)
    if config.source == 'folder':
        return _folder(pathlib.Path(config.dir), wanted, 'folder')
    if config.source == 'mnist' and split == 'eval':
        wanted = 'test'
    return TfdsSource(config.source, wanted, config.dir)


def open_for(config: ml_collections.ConfigDict, split: str) -> Source:
    """`open_source`, checked against the network. Raises UserError where the classes differ."""
    source = open_source(config.data, split)
    if source.num_classes != config.model.num_classes:
        raise UserError(
            f'{source.name} has {source.num_classes} classes, the network '
            f'{config.model.num_classes}: set --config.model.num_classes={source.num_classes}'
        )
    return source


def fingerprint(source: Source) -> str:
    """A short hash of what a source holds: names, labels and sizes of a spread of its images."""
    digest = hashlib.sha256(f'{source.name} {len(source)} {source.num_classes}'.encode())
    for index in np.linspace(0, len(source) - 1, min(len(source), 64)).astype(int):
        example = source[int(index)]
        image = example.image
        digest.update(f'{example.key} {example.label}'.encode())
        digest.update(image if isinstance(image, bytes) else image.tobytes())
    return digest.hexdigest()[:16]


def _digits(split: str, channels: int) -> ArraySource:
    images, labels = digits.load(split)
    images = np.repeat(images[..., None], channels, axis=-1)
    return ArraySource('digits', 10, len(images), images, labels)


def _mnist(folder: pathlib.Path, split: str) -> ArraySource:
    stem = 'train' if split == 'train' else 't10k'
    images = _idx(folder, f'{stem}-images-idx3-ubyte', 3)[..., None]
    labels = _idx(folder, f'{stem}-labels-idx1-ubyte', 1).astype(np.int32)
    if len(images) != len(labels):
        raise UserError(f'{folder}: {len(images)} {stem} images but {len(labels)} labels')
    if len(labels) == 0 or labels.max() > 9:
        raise UserError(f'{folder}/{stem}-labels-idx1-ubyte: a class above 9, or no image at all')
    return ArraySource('mnist', 10, len(images) if split == 'train' else 10_000, images, labels)


def _cifar(config: ml_collections.ConfigDict, split: str) -> ArraySource:
    """The author's files, or what tfds prepared; held in memory."""
    name, wanted = config.source, config.train_split if split == 'train' else config.eval_split
    found = cifar.find(name, pathlib.Path(config.dir)) if config.dir else None
    if found is not None:
        part = cifar.load(name, *found, wanted)
        return ArraySource(name, len(part.names), part.complete, part.images, part.labels)
    return _in_memory(TfdsSource(name, wanted, config.dir))


def _in_memory(source: Source) -> ArraySource:
    """A source of small images of one size, decoded. Raises DecodeError."""
    examples = [source[index] for index in range(len(source))]
    images = np.stack([decode.decode(example.image) for example in examples])
    labels = np.asarray([example.label for example in examples], np.int32)
    return ArraySource(source.name, source.num_classes, source.complete, images, labels)


def _idx(folder: pathlib.Path, name: str, rank: int) -> np.ndarray:
    """An idx file (LeCun's format: big-endian sizes, then bytes), plain or gzipped."""
    for path in (folder / name, folder / f'{name}.gz'):
        if path.exists():
            break
    else:
        raise UserError(f'{folder}: no {name} and no {name}.gz')
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f'{path}: not a complete gzip file ({error})') from error
    header = 4 + 4 * rank
    if len(data) < header or data[:4] != bytes([0, 0, 8, rank]):
        raise UserError(f'{path}: not an idx file of {rank} dimensions of bytes')
    shape = struct.unpack(f'>{rank}I', data[4:header])
    if len(data) - header != np.prod(shape, dtype=np.int64):
        raise UserError(f'{path}: {len(data) - header} bytes, but its header says {shape}')
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _folder(root: pathlib.Path, split: str, name: str) -> FileSource:
    """`<class>/*.JPEG`, or pictures plus `labels.txt`; in a sub-folder of the split, if any."""
    if not root.is_dir():
        raise UserError(f'data.dir = {str(root)!r}: no such folder')
    for part in (split, {'validation': 'val', 'eval': 'val'}.get(split, split)):
        if (root / part).is_dir():
            root = root / part
            break
    if (root / 'labels.txt').exists():
        files, labels, num_classes = _labelled_files(root)
    else:
        files, labels, num_classes = _class_folders(root)
    if not files:
        raise UserError(f'{root}: no pictures ({", ".join(IMAGE_SUFFIXES)}) in class folders')
    # Of ILSVRC's classes, anything smaller than its validation set is a part of it.
    is_part = name == 'folder' and num_classes == 1000
    return FileSource(name, num_classes, COMPLETE['imagenet2012'] if is_part else len(files), files,
                      labels)  # fmt: skip


def _labelled_files(root: pathlib.Path) -> tuple[list[pathlib.Path], list[int], int]:
    files, labels = [], []
    for number, line in enumerate((root / 'labels.txt').read_text().splitlines(), 1):
        if not line.strip():
            continue
        where = f'{root / "labels.txt"}, line {number}'
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdecimal():
            raise UserError(f'{where}: expected `file class`, got {line.strip()!r}')
        inside = [root / name, root / 'images' / name]
        path = next((p for p in inside if p.is_file()), None)
        if path is None:
            raise UserError(f'{where}: no such picture: {name}')
        if root.resolve() not in path.resolve().parents:
            raise UserError(f'{where}: {name} lies outside {root}')
        files.append(path)
        labels.append(int(label))
    top = max(labels, default=0)
    if top >= 1000:
        raise UserError(f'{root / "labels.txt"}: class {top} is out of range, 0 to 999')
    num_classes = 1000 if any('ILSVRC2012' in f.name for f in files) else top + 1
    return files, labels, num_classes


def _class_folders(root: pathlib.Path) -> tuple[list[pathlib.Path], list[int], int]:
    """Class folders in sorted order; WordNet ids get their ILSVRC class when all are known."""
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    known = synsets.read(root / 'synsets.txt') if (root / 'synsets.txt').exists() else (
        synsets.ilsvrc_2012())  # fmt: skip
    ilsvrc = {wnid: index for index, wnid in enumerate(known)}
    named = {p.name for p in folders}
    classes = ilsvrc if named and named <= set(ilsvrc) and len(ilsvrc) == 1000 else {
        p.name: index for index, p in enumerate(folders)}  # fmt: skip
    files, labels = [], []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                files.append(path)
                labels.append(classes[folder.name])
    return files, labels, len(classes)
