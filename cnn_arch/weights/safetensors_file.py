"""Weights of torchvision and timm as .safetensors."""

import pathlib
from collections.abc import Callable

import numpy as np
import safetensors

from cnn_arch.errors import UserError
from cnn_arch.weights.tensors import Tensor, WeightFile


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or is something else."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            tensors = {
                name: Tensor(tuple(file.get_slice(name).get_shape()), _reader(path, name))
                for name in file.keys()  # noqa: SIM118 - not a dictionary
            }
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f'{path}: not a complete safetensors file ({error})') from error
    return WeightFile(path, 'torch', '', tensors)


def _reader(path: pathlib.Path, name: str) -> Callable[[], np.ndarray]:
    def read_array() -> np.ndarray:
        try:
            with safetensors.safe_open(path, framework='numpy') as file:
                return file.get_tensor(name)
        except (OSError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f'{path}: {name} is not readable ({error})') from error

    return read_array
