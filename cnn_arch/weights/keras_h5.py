"""Weights of Keras Applications: HDF5, one group per layer, read with h5py in another process.

A tensor is called `<layer>/<kind>` with the kind as Keras 3 calls it: kernel, bias, gamma, beta,
moving_mean, moving_variance, depthwise_kernel, pointwise_kernel. Of older files the names differ
(`block1_conv1_W_1:0`), the arrays do not.

Bounds: the process has 20 s, and 1 s per 10 MB of the file, of computing; 60 s, and 1 s per MB, in
all; 1 GiB and four times the file of memory. The arrays may have 16 times the bytes of the file;
until this process forgets them they lie in an unnamed file in the folder of temporary files.
"""

import json
import math
import mmap
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from cnn_arch import files
from cnn_arch.errors import UserError, shown
from cnn_arch.files import Refused
from cnn_arch.weights.tensors import Tensor, WeightFile

WHAT = "weight file in Keras Applications' layout"
CHILD = pathlib.Path(__file__).with_name('h5_child.py')
COMPUTING, WALL = 20, 60  # seconds, beside those for the file's size
DTYPES = {f'<{kind}{size}' for kind, sizes in (('f', '248'), ('i', '248'), ('u', '248'))
          for size in sizes} | {'|i1', '|u1'}  # fmt: skip
LARGEST_HEADER = 1 << 26  # bytes
# The HDF5 library loads no filters from the system's folders because a file asks for them.
ENVIRONMENT = {'HDF5_PLUGIN_PRELOAD': '::', 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}

KIND = re.compile(
    r'(depthwise_kernel|pointwise_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance'
    r'|running_mean|running_std|W|b)(?:_\d+)?(?::0)?$'
)
OLD = {  # Keras 1
    'W': 'kernel', 'b': 'bias', 'running_mean': 'moving_mean', 'running_std': 'moving_variance'
}  # fmt: skip
# Layers that Keras names by a counter, whose start differs from file to file.
COUNTED = re.compile(r'(conv2d|batch_normalization)(?:_(\d+))?$')


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or is something else."""
    files.open_regular(path).close()
    with files.reading(path, WHAT):
        copy = _copied(path)
        entries = _listed(copy)
        renamed = _renamed(list(dict.fromkeys(layer for layer, *_ in entries)))
        tensors = {}
        for layer, name, dtype, shape, place in entries:
            match = KIND.search(name)
            if not match:
                raise Refused(f'{shown(layer)} has a weight of unknown kind, {shown(name)}')
            key = f'{renamed[layer]}/{OLD.get(match[1], match[1])}'
            if key in tensors:
                raise Refused(f'two arrays are called {shown(key)}')
            tensors[key] = Tensor(shape, _reader(path, copy, dtype, shape, place))
    return WeightFile(path, 'keras', '', tensors)


def _copied(path: pathlib.Path) -> mmap.mmap:
    """What the other process makes of the file; goes when nobody holds it any more."""
    size = path.stat().st_size
    seconds = COMPUTING + size // 10**7
    with tempfile.TemporaryFile() as copy:
        try:
            ended = subprocess.run(
                [sys.executable, '-P', str(CHILD), os.path.abspath(path), str(seconds)],
                stdin=subprocess.DEVNULL,
                stdout=copy,
                stderr=subprocess.DEVNULL,
                timeout=WALL + size // 10**6,
                env={**os.environ, **ENVIRONMENT},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(f'reading it had not ended after {error.timeout:.0f} s') from None
        if ended.returncode < 0:
            name = signal.Signals(-ended.returncode).name
            late = name in ('SIGXCPU', 'SIGKILL')
            why = f'no end after {seconds} s' if late else name
            raise Refused(f'the HDF5 library fails on it: {why}')
        if copy.seek(0, os.SEEK_END) == 0:
            raise UserError(
                f'{path}: its arrays find no room in {tempfile.gettempdir()}, or h5py does not '
                'run; set TMPDIR to a folder with more'
            )
        return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)


def _listed(copy: mmap.mmap) -> list[tuple[str, str, np.dtype, tuple[int, ...], int]]:
    """(layer, name, dtype, shape, place of the numbers) of each array, all of them checked."""
    (length,) = struct.unpack('<q', copy[:8])
    if not 0 <= length <= min(len(copy) - 8, LARGEST_HEADER):
        raise Refused('its names are cut off')
    found = json.loads(copy[8 : 8 + length])
    if 'error' in found:
        raise Refused(found['error'])
    entries = []
    place = 8 + length
    for layer, name, kind, shape in found['arrays']:
        if not (isinstance(layer, str) and isinstance(name, str) and kind in DTYPES):
            raise Refused('an array of another kind')
        if len(shape) > 8 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in shape):
            raise Refused('an array of impossible shape')
        dtype = np.dtype(kind)
        entries.append((layer, name, dtype, tuple(shape), place))
        place += math.prod(shape) * dtype.itemsize
    if place != len(copy):
        raise Refused('an array was not read to its end')
    return entries


def _reader(
    path: pathlib.Path, copy: mmap.mmap, dtype: np.dtype, shape: tuple[int, ...], place: int
) -> Callable[[], np.ndarray]:
    def read_array() -> np.ndarray:
        with files.reading(path, WHAT):
            return np.frombuffer(copy, dtype, math.prod(shape), place).reshape(shape)

    return read_array


def _renamed(layers: list[str]) -> dict[str, str]:
    """Slashes of old names as underscores; counted names counted from 1 within the file."""
    counters: dict[str, int] = {}
    names = {}
    for layer in sorted(layers, key=lambda name: int((COUNTED.match(name) or [0, 0, 0])[2] or 0)):
        match = COUNTED.match(layer)
        if match:
            counters[match[1]] = counters.get(match[1], 0) + 1
            names[layer] = f'{match[1]}_{counters[match[1]]}'
        else:
            names[layer] = layer.replace('/', '_')
    return names
