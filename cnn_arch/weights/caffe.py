"""Weights of Caffe networks: .caffemodel, a protocol buffer of which few fields matter.

A tensor is called `<layer>/<number of its blob>`. Both spellings of layers are read: `layer` of
2014 and later, and `layers` (V1) before it. The wire format is decoded here, without Caffe and
without its 1,500-line schema; the file is mapped, not loaded.

Bounds, each checked before memory is taken: 2**20 fields (some seconds), names of 4 KiB, blobs of
32 dimensions, as Caffe has them. No more is held than the file has.
"""

import math
import mmap
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from cnn_arch import files
from cnn_arch.errors import UserError, shown
from cnn_arch.files import Refused
from cnn_arch.weights.tensors import Tensor, WeightFile

# Field numbers of caffe.proto.
NET_NAME, NET_V1_LAYERS, NET_LAYERS = 1, 2, 100
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_V0_LAYER, V1_NAME, V1_BLOBS = 1, 4, 6
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
SHAPE_DIMENSIONS = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

WHAT = '.caffemodel'
MOST_FIELDS = 1 << 20  # of the whole file; a network has some thousands
LONGEST_NAME = 1 << 12  # bytes
MOST_DIMENSIONS = 32

Span = tuple[int, int]  # first and last byte + 1 in the file


# ---- the wire format


class _Message:
    """The bytes of a file, read as nested messages; counts the fields that it has seen."""

    def __init__(self, data: mmap.mmap):
        self._data, self._seen = data, 0

    def __len__(self) -> int:
        return len(self._data)

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: a number for varints, else the bytes' place."""
        place, stop = span
        while place < stop:
            self._seen += 1
            if self._seen > MOST_FIELDS:
                raise Refused(f'more than {MOST_FIELDS:,} fields, which no network has')
            tag, place = self.varint(place, stop)
            field, wire = tag >> 3, tag & 7
            if wire == VARINT:
                value, place = self.varint(place, stop)
                yield field, value
                continue
            if wire == BYTES:
                length, place = self.varint(place, stop)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                raise Refused(f'no protocol buffer: wire type {wire}')
            if length > stop - place:
                raise Refused(f'{length - (stop - place)} bytes are missing')
            yield field, (place, place + length)
            place += length

    def varint(self, place: int, stop: int) -> tuple[int, int]:
        """The number at a place, and the place behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= stop:
                raise Refused('it ends within a number')
            byte = self._data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
        raise Refused('no protocol buffer: an endless number')

    def text(self, value: int | Span) -> str:
        """A name."""
        start, stop = _span(value)
        if stop - start > LONGEST_NAME:
            raise Refused(f'a name of {stop - start:,} bytes')
        return self._data[start:stop].decode('utf-8', 'replace')


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise Refused('no .caffemodel: a number where a message is expected')
    return value


# ---- the messages


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or is something else."""
    with (
        files.open_regular(path) as file,
        files.reading(path, WHAT),
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        title, tensors = _network(path, _Message(data))
    if not tensors:
        raise UserError(f'{path}: a .caffemodel without any weights')
    return WeightFile(path, 'caffe', title, tensors)


def _network(path: pathlib.Path, data: _Message) -> tuple[str, dict[str, Tensor]]:
    title, tensors = '', {}
    for field, value in data.fields((0, len(data))):
        if field == NET_NAME:
            title = data.text(value)
        elif field in (NET_LAYERS, NET_V1_LAYERS):
            name, blobs = _layer(data, _span(value), field == NET_LAYERS)
            for number, blob in enumerate(blobs):
                key = f'{name}/{number}'
                if key in tensors:
                    raise Refused(f'two layers are called {shown(name)}')
                tensors[key] = _blob(path, data, blob, key)
    return title, tensors


def _layer(data: _Message, span: Span, new: bool) -> tuple[str, list[Span]]:
    name_field, blobs_field = (LAYER_NAME, LAYER_BLOBS) if new else (V1_NAME, V1_BLOBS)
    name, blobs = '', []
    for field, value in data.fields(span):
        if field == name_field:
            name = data.text(value)
        elif field == blobs_field:
            blobs.append(_span(value))
        elif field == V1_V0_LAYER and not new:
            raise Refused("of 2013: convert it with Caffe's upgrade_net_proto_binary")
    return name, blobs


def _blob(path: pathlib.Path, data: _Message, span: Span, key: str) -> Tensor:
    old: dict[int, int] = {}
    shape: tuple[int, ...] | None = None
    runs: list[Span] = []
    kinds = set()
    for field, value in data.fields(span):
        if field in BLOB_OLD_SHAPE and isinstance(value, int):
            old[field] = value
        elif field == BLOB_SHAPE:
            shape = _dimensions(data, _span(value))
        elif field in (BLOB_DATA, BLOB_DOUBLES):
            runs.append(_span(value))
            kinds.add(field)
    if len(kinds) > 1:
        raise Refused(f'{shown(key)} holds numbers of 4 and of 8 bytes: which ones are meant?')
    dtype = np.dtype('<f8' if BLOB_DOUBLES in kinds else '<f4')
    if shape is None:
        shape = tuple(old.get(field, 1) for field in BLOB_OLD_SHAPE) if old else ()
    held = sum(stop - start for start, stop in runs)
    if held != math.prod(shape) * dtype.itemsize:
        raise Refused(f'{shown(key)} of shape {list(shape)} holds {held} bytes')
    return Tensor(shape, _reader(path, runs, shape, dtype))


def _reader(
    path: pathlib.Path, runs: list[Span], shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read_array() -> np.ndarray:
        with files.open_regular(path) as file, files.reading(path, WHAT):
            parts = []
            for start, stop in runs:
                file.seek(start)
                parts.append(file.read(stop - start))
            return np.frombuffer(b''.join(parts), dtype).reshape(shape)

    return read_array


def _dimensions(data: _Message, span: Span) -> tuple[int, ...]:
    dimensions: list[int] = []
    for field, value in data.fields(span):
        if field != SHAPE_DIMENSIONS:
            continue
        if isinstance(value, int):
            dimensions.append(value)
        else:  # packed
            place, stop = value
            while place < stop and len(dimensions) <= MOST_DIMENSIONS:
                dimension, place = data.varint(place, stop)
                dimensions.append(dimension)
        if len(dimensions) > MOST_DIMENSIONS:
            raise Refused(f'a blob of more than {MOST_DIMENSIONS} dimensions')
    return tuple(dimensions)
