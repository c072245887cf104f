"""Where each array of one of our layers stands in a file, and how it is turned into ours.

Ours: convolution kernels [h, w, in, out], fully connected ones [inputs, outputs] with the inputs
flattened from [h, w, c]; batch normalisation has scale, bias, and the running mean and var.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from cnn_arch.weights.recipes import Name

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """One array of ours: the arrays of theirs it is made of, and how."""

    names: tuple[str, ...]
    convert: Callable[..., np.ndarray] = lambda array: array


def sources(
    layout: str, name: Name, leaves: Mapping[str, Shape], window: tuple[int, int]
) -> dict[str, Source]:
    """For each array of a layer (its name and our shape) where it comes from."""
    return LAYOUTS[layout](name, leaves, window)


def bias_name(layout: str, name: Name) -> str:
    """What the bias of a convolution would be called."""
    assert isinstance(name, str)
    return {'keras': f'{name}/bias', 'torch': f'{name}.bias', 'caffe': f'{name}/1'}[layout]


def ignored(layout: str, name: str) -> bool:
    """Whether a tensor says nothing about the network."""
    counters = ('num_batches_tracked', 'n_averaged')  # of batch normalisation; of AveragedModel
    return layout == 'torch' and name.rpartition('.')[2] in counters


KERAS = {'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'}
TORCH = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def _keras(name: Name, leaves: Mapping[str, Shape], window: tuple[int, int]) -> dict[str, Source]:
    assert isinstance(name, str)
    if 'scale' in leaves:
        return {leaf: Source((f'{name}/{KERAS[leaf]}',)) for leaf in leaves}
    result = {leaf: Source((f'{name}/{leaf}',)) for leaf in leaves}
    layer, _, part = name.rpartition(':')  # half of a separable convolution
    if part == 'depthwise':  # [h, w, channels, 1]
        result['kernel'] = Source((f'{layer}/depthwise_kernel',), lambda a: a.swapaxes(2, 3))
    elif part == 'pointwise':
        result['kernel'] = Source((f'{layer}/pointwise_kernel',))
    return result


def _torch(name: Name, leaves: Mapping[str, Shape], window: tuple[int, int]) -> dict[str, Source]:
    if 'scale' in leaves:
        return {leaf: Source((f'{name}.{TORCH[leaf]}',)) for leaf in leaves}
    result = {leaf: Source((f'{name}.{leaf}',)) for leaf in leaves}
    result['kernel'] = Source((f'{name}.weight',), _kernel(leaves['kernel'], window))
    return result


def _caffe(name: Name, leaves: Mapping[str, Shape], window: tuple[int, int]) -> dict[str, Source]:
    if 'scale' in leaves:
        assert isinstance(name, tuple)
        statistics, scale = name
        factor = f'{statistics}/2'  # the sums are divided by it
        return {
            'mean': Source((f'{statistics}/0', factor), _unscaled),
            'var': Source((f'{statistics}/1', factor), _unscaled),
            'scale': Source((f'{scale}/0',), np.ravel),
            'bias': Source((f'{scale}/1',), np.ravel),
        }
    result = {'kernel': Source((f'{name}/0',), _kernel(leaves['kernel'], window))}
    if 'bias' in leaves:
        result['bias'] = Source((f'{name}/1',), np.ravel)
    return result


LAYOUTS: dict[str, Callable[..., dict[str, Source]]] = {
    'keras': _keras, 'torch': _torch, 'caffe': _caffe
}  # fmt: skip


def _kernel(ours: Shape, window: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """[out, in, h, w] or [out, in] of PyTorch and Caffe (there also [1, 1, out, in]) to ours."""

    def convert(array: np.ndarray) -> np.ndarray:
        if len(ours) == 4:
            return array.transpose(2, 3, 1, 0)
        out = ours[-1]
        maps = array.reshape(out, -1, *window)  # flattened from [c, h, w]
        return maps.transpose(2, 3, 1, 0).reshape(-1, out)

    return convert


def _unscaled(sums: np.ndarray, factor: np.ndarray) -> np.ndarray:
    (divisor,) = factor.ravel()
    return np.ravel(sums) / divisor if divisor else np.zeros(sums.size, sums.dtype)
