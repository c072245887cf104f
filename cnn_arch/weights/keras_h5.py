"""Weights of Keras Applications: HDF5, one group per layer, read with h5py.

A tensor is called `<layer>/<kind>` with the kind as Keras 3 calls it: kernel, bias, gamma, beta,
moving_mean, moving_variance, depthwise_kernel, pointwise_kernel. Of older files the names differ
(`block1_conv1_W_1:0`), the arrays do not.
"""

import pathlib
import re
from typing import Any

import h5py
import numpy as np

from cnn_arch.errors import UserError
from cnn_arch.weights.tensors import Tensor, WeightFile

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
    try:
        with h5py.File(path, 'r') as file:
            group = file['model_weights'] if 'layer_names' not in file.attrs else file
            tensors = _tensors(path, group)
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a complete weight file in Keras Applications' layout ({error})"
        ) from error
    return WeightFile(path, 'keras', '', tensors)


def _tensors(path: pathlib.Path, file: h5py.Group) -> dict[str, Tensor]:
    tensors = {}
    layers = [_text(name) for name in file.attrs['layer_names']]
    renamed = _renamed(layers)
    for layer in layers:
        group = _member(path, file, layer)
        for name in map(_text, group.attrs['weight_names']):
            match = KIND.search(name)
            if not match:
                raise UserError(f'{path}: {layer} has a weight of unknown kind, {name}')
            dataset = _member(path, group, name)
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise UserError(f'{path}: {layer}/{name} is not an array of this file')
            kind = OLD.get(match[1], match[1])
            key = f'{renamed[layer]}/{kind}'
            if key in tensors:
                raise UserError(f'{path}: two arrays are called {key}')
            tensors[key] = Tensor(dataset.shape, _reader(path, dataset.name))
    return tensors


def _reader(path: pathlib.Path, name: str) -> Any:
    def read_array() -> np.ndarray:
        try:
            with h5py.File(path, 'r') as file:
                return np.asarray(file[name])
        except (OSError, RuntimeError) as error:
            raise UserError(f'{path}: {name} is not readable ({error})') from error

    return read_array


def _member(path: pathlib.Path, group: h5py.Group, name: str) -> Any:
    """A member that lies in this file: links to other files are refused."""
    for part in name.split('/'):
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise UserError(
                f'{path}: {group.name}/{part} is absent, or a link that is not followed'
            )
        group = group[part]
    return group


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


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
