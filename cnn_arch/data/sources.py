"""Where images come from: a source is a sequence of labelled, still encoded images."""

import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """One image: encoded bytes (JPEG, PNG) or uint8 [H, W, C], its class, and a name for messages."""

    image: bytes | np.ndarray
    label: int
    key: str


class Source(Protocol):
    """Random access to the examples of one split; safe to read from several threads."""

    name: str
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
