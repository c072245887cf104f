"""Weights of Caffe networks: .caffemodel, a protocol buffer of which few fields matter.

A tensor is called `<layer>/<number of its blob>`. Both spellings of layers are read: `layer` of
2014 and later, and `layers` (V1) before it. The wire format is decoded here, without Caffe and
without its 1,500-line schema; the file is mapped, not loaded.
"""

import math
import mmap
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from cnn_arch.errors import UserError
from cnn_arch.weights.tensors import Tensor, WeightFile

# Field numbers of caffe.proto.
NET_NAME, NET_V1_LAYERS, NET_LAYERS = 1, 2, 100
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_V0_LAYER, V1_NAME, V1_BLOBS = 1, 4, 6
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8
SHAPE_DIMENSIONS = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Span = tuple[int, int]  # first and last byte + 1 in the file


class Broken(Exception):
    """The file ends early, or holds something else."""


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or is something else."""
    try:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            title, tensors = _network(path, data)
    except (OSError, ValueError, Broken) as error:
        raise UserError(f'{path}: not a complete .caffemodel ({error})') from error
    if not tensors:
        raise UserError(f'{path}: a .caffemodel without any weights')
    return WeightFile(path, 'caffe', title, tensors)


def _network(path: pathlib.Path, data: mmap.mmap) -> tuple[str, dict[str, Tensor]]:
    title, tensors = '', {}
    for field, value in _fields(data, (0, len(data))):
        if field == NET_NAME:
            title = _text(data, value)
        elif field in (NET_LAYERS, NET_V1_LAYERS):
            name, blobs = _layer(data, _span(value), field == NET_LAYERS)
            for number, blob in enumerate(blobs):
                key = f'{name}/{number}'
                if key in tensors:
                    raise Broken(f'two layers are called {name}')
                tensors[key] = _blob(path, data, blob, key)
    return title, tensors


def _layer(data: mmap.mmap, span: Span, new: bool) -> tuple[str, list[Span]]:
    name_field, blobs_field = (LAYER_NAME, LAYER_BLOBS) if new else (V1_NAME, V1_BLOBS)
    name, blobs = '', []
    for field, value in _fields(data, span):
        if field == name_field:
            name = _text(data, value)
        elif field == blobs_field:
            blobs.append(_span(value))
        elif field == V1_V0_LAYER and not new:
            raise Broken("of 2013: convert it with Caffe's upgrade_net_proto_binary")
    return name, blobs


def _blob(path: pathlib.Path, data: mmap.mmap, span: Span, key: str) -> Tensor:
    old: dict[int, int] = {}
    shape: tuple[int, ...] | None = None
    runs: list[Span] = []
    dtype = np.dtype('<f4')
    for field, value in _fields(data, span):
        if field in BLOB_OLD_SHAPE and isinstance(value, int):
            old[field] = value
        elif field == BLOB_SHAPE:
            shape = _dimensions(data, _span(value))
        elif field in (BLOB_DATA, BLOB_DOUBLES):
            runs.append(_span(value))
            dtype = np.dtype('<f4' if field == BLOB_DATA else '<f8')
    if shape is None:
        shape = tuple(old.get(field, 1) for field in BLOB_OLD_SHAPE) if old else ()
    held = sum(stop - start for start, stop in runs)
    if held != math.prod(shape) * dtype.itemsize:
        raise Broken(f'{key} of shape {list(shape)} holds {held} bytes')
    return Tensor(shape, _reader(path, runs, shape, dtype))


def _reader(
    path: pathlib.Path, runs: list[Span], shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read_array() -> np.ndarray:
        with path.open('rb') as file:
            parts = []
            for start, stop in runs:
                file.seek(start)
                parts.append(file.read(stop - start))
        return np.frombuffer(b''.join(parts), dtype).reshape(shape)

    return read_array


def _dimensions(data: mmap.mmap, span: Span) -> tuple[int, ...]:
    dimensions: list[int] = []
    for field, value in _fields(data, span):
        if field != SHAPE_DIMENSIONS:
            continue
        if isinstance(value, int):
            dimensions.append(value)
        else:  # packed
            place, stop = value
            while place < stop:
                dimension, place = _varint(data, place, stop)
                dimensions.append(dimension)
    return tuple(dimensions)


# ---- the wire format


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """The fields of a message: a number for varints, else the bytes' place."""
    place, stop = span
    while place < stop:
        tag, place = _varint(data, place, stop)
        field, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(data, place, stop)
            yield field, value
            continue
        if wire == BYTES:
            length, place = _varint(data, place, stop)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise Broken(f'no protocol buffer: wire type {wire}')
        if length > stop - place:
            raise Broken(f'{length - (stop - place)} bytes are missing')
        yield field, (place, place + length)
        place += length


def _varint(data: mmap.mmap, place: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            raise Broken('it ends within a number')
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise Broken('no protocol buffer: an endless number')


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise Broken('no .caffemodel: a number where a message is expected')
    return value


def _text(data: mmap.mmap, value: int | Span) -> str:
    start, stop = _span(value)
    return data[start:stop].decode('utf-8', 'replace')
