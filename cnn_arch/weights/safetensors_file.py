"""Weights of torchvision and timm as .safetensors.

Bounds: a header of 16 MiB, some hundred times that of the largest network here. That sizes and
places fit each other and the file is checked by the safetensors library before any is read.
"""

import pathlib
import struct
from collections.abc import Callable

import numpy as np
import safetensors

from cnn_arch import files
from cnn_arch.errors import UserError, shown
from cnn_arch.files import Refused
from cnn_arch.weights.tensors import Tensor, WeightFile

WHAT = 'safetensors file'
LARGEST_HEADER = 1 << 24  # bytes
# The kinds of numbers that NumPy, or ml_dtypes for it, has an array of.
KINDS = {'F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8', 'BOOL',
         'C64'}  # fmt: skip


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or is something else."""
    with files.open_regular(path) as header, files.reading(path, WHAT):
        size = header.read(8)
        if len(size) < 8 or struct.unpack('<Q', size)[0] > LARGEST_HEADER:
            raise Refused('its header is cut off, or longer than 16 MiB')
        with safetensors.safe_open(path, framework='numpy') as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                part = file.get_slice(name)
                if part.get_dtype() not in KINDS:
                    raise UserError(
                        f'{path}: {shown(name)} is stored as {part.get_dtype()}, in which weights '
                        'mean something only together with their scale: store them as F32'
                    )
                tensors[name] = Tensor(tuple(part.get_shape()), _reader(path, name))
    return WeightFile(path, 'torch', '', tensors)


def _reader(path: pathlib.Path, name: str) -> Callable[[], np.ndarray]:
    def read_array() -> np.ndarray:
        with (
            files.reading(path, WHAT),
            safetensors.safe_open(path, framework='numpy') as file,
        ):
            return file.get_tensor(name)

    return read_array
