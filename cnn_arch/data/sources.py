"""Where images come from: a source is a sequence of labelled, still encoded images.

A class is its name (`Source.classes`); a label is the place of its name in that list. Training data
brings the list; all that is tested later is numbered as the network is, by name.
"""

import copy
import dataclasses
import functools
import gzip
import io
import logging
import math
import os
import pathlib
import struct
from typing import Any, Protocol

import ml_collections
import numpy as np

from cnn_arch import cluster, files
from cnn_arch.data import cifar, decode, digits, folders, scenes, synsets
from cnn_arch.data.classes import Names, require_known
from cnn_arch.errors import UserError, escaped


@dataclasses.dataclass(frozen=True)
class Example:
    """One image: encoded bytes (JPEG, PNG) or uint8 [H, W, C]; its class; its name in messages."""

    image: bytes | np.ndarray
    label: int
    key: str


class Source(Protocol):
    """Random access to the examples of one split; safe to read from several threads.

    `classes` are the names of the classes, label k is the k-th. `complete` is the number of images
    of the whole split that the source stands for: a number over fewer is marked as partial.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> Names: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def complete(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


# Images of public test sets, of which a part may be prepared: errors over fewer are marked.
COMPLETE = {('imagenet2012', 'validation'): folders.VALIDATION_IMAGES, ('mnist', 'test'): 10_000,
            ('cifar10', 'test'): 10_000, ('cifar100', 'test'): 10_000}  # fmt: skip
DIGITS = tuple(map(str, range(10)))  # the classes of digits, digits_scenes and mnist
LARGEST_IDX = 1 << 28  # bytes


class _Named:
    """What follows from the names of the classes."""

    classes: Names

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


@dataclasses.dataclass(frozen=True)
class ArraySource(_Named):
    """Images held in memory, uint8 [N, H, W, C] with labels [N]."""

    name: str
    classes: Names
    complete: int
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), f'{self.name}[{index}]')


@dataclasses.dataclass(frozen=True)
class FileSource(_Named):
    """One picture file per image; `names` are their paths below `root`, and their keys.

    `numbered`: its labels are class numbers, and nothing says what they are called. `remarks` says
    what its folder holds besides.
    """

    name: str
    classes: Names
    complete: int
    root: pathlib.Path
    names: list[str]
    labels: list[int]
    numbered: bool = False
    remarks: str = ''

    @functools.cached_property
    def files(self) -> list[pathlib.Path]:
        """Where the pictures lie, in order."""
        return [self.root / name for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """Raises UserError where the file has gone, cannot be read or is too large."""
        path = self.root / self.names[index]
        encoded = files.read_regular(path, decode.MAX_BYTES)
        return Example(encoded, self.labels[index], escaped(self.names[index]))


class TfdsSource(_Named):
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
        has_names = 'label' in info.features and hasattr(info.features['label'], 'names')
        if 'image' not in info.features or not has_names:
            raise UserError(f'data set {name!r} in {where} has no images with one label each')
        self.name = name
        self.classes = tuple(map(escaped, info.features['label'].names))
        self.complete = _complete(name, split, info.splits, len(self._data))
        self.numbers: list[int] | None = None  # of its classes, where a network has others
        self._has_name = 'file_name' in info.features
        # Files with the part of each that belongs to the split, and the files that describe them.
        self.shards = info.splits[split].file_instructions
        folder = pathlib.Path(info.data_dir)
        self.described = [folder / 'features.json', *sorted(folder.glob('*.labels.txt'))]

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Example:
        record = self._data[index]
        key = record['file_name'] if self._has_name else f'{self.name}[{index}]'
        key = escaped(os.fsdecode(key))
        label = int(record['label'])
        return Example(record['image'], label if self.numbers is None else self.numbers[label], key)


def _complete(name: str, split: str, splits: Any, size: int) -> int:
    """Images of the split that `split`, as 'validation[:10%]', is taken from."""
    base = split.partition('[')[0]
    published = COMPLETE.get((name.split('/')[0].split(':')[0], base))
    return published or (splits[base].num_examples if base in splits else size)


def open_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """The source that `config.data` names, for `split` 'train' or 'eval'.

    The first process says what a folder holds that is not used. Raises UserError where the data is
    missing, empty, or has labels that do not fit.
    """
    source = _open(config, split)
    _tell(source)
    return source


def _open(config: ml_collections.ConfigDict, split: str) -> Source:
    wanted = config.train_split if split == 'train' else config.eval_split
    if config.source == 'digits':
        return _digits(split, config.channels)
    if config.source == 'digits_scenes':
        folder = scenes.prepare(config.dir)
        return dataclasses.replace(_folder(folder, split, 'digits_scenes'), numbered=False)
    if config.source == 'mnist' and any(pathlib.Path(config.dir or '.').glob('*-ubyte*')):
        return _mnist(pathlib.Path(config.dir), split)
    if config.source in cifar.VERSIONS:
        return _cifar(config, split)
    if config.source == 'folder':
        if not config.dir:
            raise UserError('data.source=folder needs the folder: --config.data.dir=DIR')
        return _folder(pathlib.Path(config.dir), wanted, 'folder')
    if config.source == 'mnist' and split == 'eval':
        wanted = 'test'
    return TfdsSource(config.source, wanted, config.dir)


def open_for(
    config: ml_collections.ConfigDict,
    split: str,
    names: Names | None = None,
    whose: object = 'the network',
) -> Source:
    """`open_source`, numbered as the network of `whose` numbers its classes, which are `names`.

    Fewer classes than these are normal. Where the names are unknown (None) the count must be the
    network's; labels that are bare numbers may end before it. Raises UserError that names the
    difference.
    """
    source = open_source(config.data, split)
    if names is not None:
        return numbered_as(source, names, str(whose))
    return _of_count(source, config, split)


def _of_count(source: Source, config: ml_collections.ConfigDict, split: str) -> Source:
    known, wanted = source.num_classes, config.model.num_classes
    if isinstance(source, FileSource) and source.numbered and split == 'eval' and known < wanted:
        return dataclasses.replace(source, classes=tuple(map(str, range(wanted))))
    if known != wanted:
        raise UserError(
            f'{source.name} has {known} classes, the network {wanted}: '
            f'set --config.model.num_classes={known}'
        )
    return source


def open_both(config: ml_collections.ConfigDict) -> tuple[Source, Source]:
    """What a run is trained on, and tested on: numbered by name as the first. Raises UserError."""
    train, test = _open(config.data, 'train'), _open(config.data, 'eval')
    _tell(train, test)
    train = _of_count(train, config, 'train')
    return train, numbered_as(test, train.classes, f'the training split of {place(train)}')


def numbered_as(source: Source, names: Names, whose: str) -> Source:
    """The source with the labels that `names` has for its classes, all of them being `classes`.

    Bare numbers of a labels.txt are taken as they are by a network of ILSVRC's classes, whose order
    is a public one. Raises UserError where the source has a class that is not among `names`.
    """
    if source.classes == names:
        return source
    if isinstance(source, FileSource) and source.numbered and len(source.classes) <= len(names):
        if names == tuple(synsets.ilsvrc_2012()):
            return dataclasses.replace(source, classes=names)
        if set(source.classes) - set(names):
            raise UserError(
                f'{place(source)}: its labels.txt has class numbers, {whose} has classes by name: '
                'put a synsets.txt beside it, whose line k names class k'
            )
    require_known(source.classes, place(source), names, whose)
    numbers = [names.index(name) for name in source.classes]
    if isinstance(source, ArraySource):
        return dataclasses.replace(source, classes=names, labels=np.asarray(numbers)[source.labels])
    if isinstance(source, FileSource):
        labels = [numbers[label] for label in source.labels]
        return dataclasses.replace(source, classes=names, labels=labels)
    assert isinstance(source, TfdsSource)
    result = copy.copy(source)
    result.classes, result.numbers = names, numbers
    return result


def place(source: Source) -> str:
    """How a message calls a source: its folder, if it is one."""
    return str(source.root) if isinstance(source, FileSource) else source.name


def _tell(*sources: Source) -> None:
    """The first process says what there is to say of folders, once of each."""
    found = [source for source in sources if isinstance(source, FileSource)]
    lines = [f'{one.root}: {len(one):,} pictures; {one.remarks}' for one in found if one.remarks]
    if len(found) == 2 and found[0].root == found[1].root:
        lines.append(
            f'{found[0].root} has no folders of splits: training and test pictures are the same'
        )
    for line in dict.fromkeys(lines) if cluster.process() == 0 else ():
        logging.info('%s', line)


def _digits(split: str, channels: int) -> ArraySource:
    images, labels = digits.load(split)
    images = np.repeat(images[..., None], channels, axis=-1)
    return ArraySource('digits', DIGITS, len(images), images, labels)


def _mnist(folder: pathlib.Path, split: str) -> ArraySource:
    stem = 'train' if split == 'train' else 't10k'
    images = _idx(folder, f'{stem}-images-idx3-ubyte', (28, 28))[..., None]
    labels = _idx(folder, f'{stem}-labels-idx1-ubyte', ()).astype(np.int32)
    if len(images) != len(labels):
        raise UserError(f'{folder}: {len(images)} {stem} images but {len(labels)} labels')
    if len(labels) == 0 or labels.max() > 9:
        raise UserError(f'{folder}/{stem}-labels-idx1-ubyte: a class above 9, or no image at all')
    return ArraySource('mnist', DIGITS, len(images) if split == 'train' else 10_000, images, labels)


def _cifar(config: ml_collections.ConfigDict, split: str) -> ArraySource:
    """The author's files, or what tfds prepared; held in memory."""
    name, wanted = config.source, config.train_split if split == 'train' else config.eval_split
    found = cifar.find(name, pathlib.Path(config.dir)) if config.dir else None
    if found is not None:
        part = cifar.load(name, *found, wanted)
        return ArraySource(name, part.names, part.complete, part.images, part.labels)
    return _in_memory(TfdsSource(name, wanted, config.dir))


def _in_memory(source: Source) -> ArraySource:
    """A source of small images of one size, decoded. Raises DecodeError."""
    examples = [source[index] for index in range(len(source))]
    images = np.stack([decode.decode(example.image) for example in examples])
    labels = np.asarray([example.label for example in examples], np.int32)
    return ArraySource(source.name, source.classes, source.complete, images, labels)


def _idx(folder: pathlib.Path, name: str, of_one: tuple[int, ...]) -> np.ndarray:
    """An idx file (LeCun's format: big-endian sizes, then bytes), plain or gzipped: uint8 [N, ...].

    `of_one` is the shape of each of the N, which the header must give. Bounds: 256 MiB of numbers,
    no more than the header says (however much more a gzip file would give), read in pieces, so that
    no memory is taken for what is not there. Raises UserError.
    """
    for path in (folder / name, folder / f'{name}.gz'):
        if path.exists():
            break
    else:
        raise UserError(f'{folder}: no {name} and no {name}.gz')
    rank = 1 + len(of_one)
    kind = 'gzip file' if path.suffix == '.gz' else 'file'
    with files.open_regular(path) as raw, files.reading(path, kind):
        file = gzip.GzipFile(fileobj=raw) if path.suffix == '.gz' else raw
        start = file.read(4 + 4 * rank)
        if len(start) < 4 + 4 * rank or start[:4] != bytes([0, 0, 8, rank]):
            raise UserError(f'{path}: not an idx file of {rank} dimensions of bytes')
        shape = struct.unpack(f'>{rank}I', start[4:])
        if shape[1:] != of_one:
            size = ' x '.join(map(str, of_one)) or 'one number'
            raise UserError(f'{path}: its header says {shape}, MNIST has {size} each')
        expected = math.prod(shape)
        if expected > LARGEST_IDX:
            raise UserError(f'{path}: its header says {shape}: more than {LARGEST_IDX:,} bytes')
        data = io.BytesIO()
        while piece := file.read(min(1 << 20, expected + 1 - data.tell())):
            data.write(piece)
    if data.tell() != expected:
        found = 'more' if data.tell() > expected else f'{data.tell():,}'
        raise UserError(f'{path}: {found} bytes, but its header says {shape}')
    return np.frombuffer(data.getbuffer(), np.uint8).reshape(shape)


def _folder(directory: pathlib.Path, split: str, name: str) -> FileSource:
    found = folders.read(directory, split)
    return FileSource(
        name,
        found.classes,
        found.complete,
        found.root,
        found.names,
        found.labels,
        found.numbered,
        found.remarks,
    )
