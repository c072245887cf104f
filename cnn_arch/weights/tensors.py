"""The tensors of a weight file: names and shapes at once, numbers only when asked for."""

import dataclasses
import math
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a file."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds. `layout` is how its tensors are called and laid out, see layouts.py."""

    path: pathlib.Path
    layout: str  # keras, torch or caffe
    title: str  # what the file calls its network, if anything
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # what was chosen in reading it


def is_real(dtype: np.dtype) -> bool:
    """Whether arrays of it hold floating-point numbers, which weights are.

    Complex numbers would lose a part on their way, integers are those of a quantised network, which
    mean something only together with their scale.
    """
    return dtype.kind == 'f' or dtype == ml_dtypes.bfloat16
