"""Copies the arrays of a Keras weight file to standard output: python -P h5_child.py FILE SECONDS.

The HDF5 library was not made for files of strangers: a damaged one can make it loop for ever, take
all memory, or crash. So it runs in this process alone, with a limit on each, and `keras_h5` reads
what comes out: the length of a JSON text (8 bytes), the text, then the numbers of each array.

The text is {"arrays": [[layer, name, dtype, shape], ...]} or {"error": why}.
"""

import contextlib
import errno
import json
import math
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

BASE_MEMORY = 1 << 30  # bytes of addresses, beside some times the file's size
EXPANSION = 16  # the arrays of a compressed file may be that many times as large as it
LARGEST_ATTRIBUTE = 1 << 24  # bytes: all names of layers
MOST_NAMES = 1 << 16
MOST_DIMENSIONS = 8


class Refused(Exception):
    """What is wrong with the file."""


def main(path: str, seconds: int) -> None:
    """Writes to standard output; its limits end the process where it goes beyond them."""
    size = os.stat(path).st_size
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, seconds)
    limit(resource.RLIMIT_AS, BASE_MEMORY + 4 * size)
    limit(resource.RLIMIT_FSIZE, LARGEST_ATTRIBUTE * 4 + EXPANSION * size)
    convert(path, sys.stdout.buffer)


def limit(kind: int, value: int) -> None:
    """Sets a limit where the system has it and allows it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def convert(path: str, out: BinaryIO) -> None:
    """The arrays of the file at `path`, or what is wrong with it, in the form described above."""
    try:
        with h5py.File(path, 'r') as file:
            arrays = listed(weights_of(file), EXPANSION * os.stat(path).st_size)
            entries = [
                (layer, name, dtype.str, array.shape) for layer, name, dtype, array in arrays
            ]
            answer(out, {'arrays': entries})
            for _, _, dtype, array in arrays:
                out.write(np.ascontiguousarray(array[()], dtype).tobytes())
            out.flush()
    except Exception as error:  # h5py has many for a damaged file
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        why = 'memory does not suffice' if isinstance(error, MemoryError) else str(error)
        out.seek(0)
        out.truncate()
        if not full:
            answer(out, {'error': why[:400] or type(error).__name__})
            out.flush()


def answer(out: BinaryIO, value: dict[str, Any]) -> None:
    """The JSON text and, before it, its length."""
    text = json.dumps(value).encode()
    text += b' ' * (-len(text) % 64)  # so that the numbers lie well
    out.write(struct.pack('<q', len(text)) + text)


def weights_of(file: h5py.File) -> h5py.Group:
    """The group with a group per layer, in a file of weights or of a whole model."""
    if 'layer_names' in file.attrs or 'layer_names0' in file.attrs:
        return file
    if 'model_weights' in file:
        return member(file, 'model_weights')
    if 'layers' in file or '_layer_checkpoint_dependencies' in file:
        raise Refused(
            "it is Keras 3's .weights.h5, in which layers have no names: load it with "
            "model.load_weights(FILE), then model.save('weights.h5')"
        )
    raise Refused('it has no layer_names')


def listed(weights: h5py.Group, most: int) -> list[tuple[str, str, np.dtype[Any], h5py.Dataset]]:
    """(layer, name, dtype, array) of all arrays, which together have at most `most` bytes."""
    found: list[tuple[str, str, np.dtype[Any], h5py.Dataset]] = []
    total = 0
    for layer in names(weights, 'layer_names'):
        group = member(weights, layer)
        for name in names(group, 'weight_names'):
            array = member(group, name)
            if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
                raise Refused(f'{layer}/{name} is not an array of this file')
            dtype = array.dtype.newbyteorder('<')
            if dtype.kind not in 'fiu' or dtype.itemsize > 8 or array.shape is None:
                raise Refused(f'{layer}/{name} holds no real numbers')
            if len(array.shape) > MOST_DIMENSIONS:
                raise Refused(f'{layer}/{name} has {len(array.shape)} dimensions')
            total += math.prod(array.shape) * dtype.itemsize
            if total > most or len(found) == MOST_NAMES:
                raise Refused(f'it claims more than {most:,} bytes of arrays, or too many')
            found.append((layer, name, dtype, array))
    return found


def names(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute's names; of too many for one attribute HDF5 wants parts: layer_names0, ..."""
    if attribute in group.attrs:
        parts = [attribute]
    else:
        parts = [f'{attribute}{n}' for n in range(len(group.attrs))]
        parts = [part for part in parts if part in group.attrs]
    if not parts:
        raise Refused(f'{group.name} has no {attribute}')
    found: list[str] = []
    for part in parts:
        stored = h5py.h5a.open(group.id, part.encode())
        size = stored.get_type().get_size() * math.prod(stored.shape)
        if size > LARGEST_ATTRIBUTE or math.prod(stored.shape) > MOST_NAMES:
            raise Refused(f'{group.name}: {part} of {size:,} bytes')
        for name in group.attrs[part]:
            text = name.decode() if isinstance(name, bytes) else name
            if not isinstance(text, str):
                raise Refused(f'{group.name}: {part} holds no names')
            found.append(text)
    return found


def member(group: h5py.Group, name: str) -> Any:
    """A member that lies in this file: links, of which some lead to other files, are refused."""
    for part in name.split('/'):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise Refused(f'{group.name}/{part} is absent, or a link that is not followed')
        group = group[part]
    return group


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
