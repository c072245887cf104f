"""Which pixels a unit sees, by arithmetic: from the traced network, without computing it.

Every array of the trace carries, for each of its places, the first and the last row (and column) of
pixels that can reach it. A convolution or a pooling takes the least and the greatest over its
window, an addition or a concatenation over its operands; so branches, strides, padding and borders
come out as they are, for any network.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from cnn_arch.evaluation import ragged

# First and last pixel, int [..., 2]; the axes before are those of the array, of length 1 where all
# places are alike. What does not see the image has the first behind the last.
Extent = np.ndarray
NOTHING = (np.iinfo(np.int64).max, -1)


@dataclasses.dataclass(frozen=True)
class Fields:
    """Receptive fields of a layer's places, clipped to the image: of all its maps together."""

    maps: int
    rows: Extent  # [h, 2]
    columns: Extent  # [w, 2]

    @property
    def places(self) -> int:
        """Of one map."""
        return len(self.rows) * len(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of the largest field: the field of a unit that no border clips."""
        rows, columns = (int((x[:, 1] - x[:, 0]).max()) + 1 for x in (self.rows, self.columns))
        return rows, columns

    def corner(self, place: int) -> tuple[int, int]:
        """Top and left pixel of a window of `shape` around the field of a flat place h * W + w.

        It lies before the first pixel where the border clips the field there.
        """
        row, column = divmod(place, len(self.columns))
        ends = zip((self.rows[row], self.columns[column]), self.shape, strict=True)
        top, left = (int(x[0]) if x[0] > 0 else int(x[1]) + 1 - size for x, size in ends)
        return top, left


def of_layers(
    layers: Callable[..., dict[str, jax.Array]],
    variables: Any,
    pixels: Any,
    missing: Sequence[bool],
) -> dict[str, Fields]:
    """Fields of `layers(variables, pixels)`, [1, h, w, maps] each, that need nothing `missing`.

    `variables` and `pixels` are shapes and dtypes; `missing` has an entry for each variable.
    """
    names: list[str] = []  # in the network's order, which a dictionary's leaves have lost

    def listed(variables: Any, pixels: Any) -> list[jax.Array]:
        found = layers(variables, pixels)
        names.extend(found)
        return list(found.values())

    program = ragged.Program(jax.make_jaxpr(listed)(variables, pixels))
    *weights, image = program.inputs
    lost = {number for number, gone in zip(weights, missing, strict=True) if gone}
    height, width = pixels.shape[1:3]
    extents = {image: (_pixels(height)[None, :, None, None], _pixels(width)[None, None, :, None])}
    _run(program, program.ops, extents, lost)
    return {
        name: _fields(program.shapes[output], *extents[output])
        for name, output in zip(names, program.outputs, strict=True)
        if output not in lost
    }


def _pixels(count: int) -> Extent:
    return np.repeat(np.arange(count)[:, None], 2, axis=1)


def _fields(shape: tuple[int, ...], rows: Extent, columns: Extent) -> Fields:
    _, height, width, maps = shape
    rows, columns = _reduced(rows, (0, 2, 3)), _reduced(columns, (0, 1, 3))
    return Fields(maps, np.broadcast_to(rows, (height, 2)), np.broadcast_to(columns, (width, 2)))


def _run(
    program: ragged.Program,
    ops: Iterable[ragged.Op],
    extents: dict[int, tuple[Extent, Extent]],
    lost: set[int],
) -> None:
    """Fills in what the operations give; `lost` grows by what needs lost values."""
    for op in ops:
        known = [x for x in op.operands if not isinstance(x, ragged.Constant)]
        if lost.intersection(known):
            lost.update(op.results)
        if op.branches:  # by platform, all of one meaning; the last is the plain one
            _, inside, outputs = op.branches[-1]
            _run(program, inside, extents, lost)
            given = {
                r: extents[o] for r, o in zip(op.results, outputs, strict=True) if o in extents
            }
            extents.update(given)
            continue
        seeing = [x for x in known if x in extents]
        if not seeing:
            continue
        shapes = [program.shapes[x] if isinstance(x, int) else () for x in op.operands]
        for result in op.results:
            rows, columns = (
                _result(op, [extents[x][side] for x in seeing], shapes, program.shapes[result])
                for side in (0, 1)
            )
            extents[result] = rows, columns


def _result(
    op: ragged.Op, extents: list[Extent], shapes: list[tuple[int, ...]], shape: tuple[int, ...]
) -> Extent:
    """The extents of what an operation gives, from those of its operands that see the image.

    `shapes` are all operands', `shape` is the result's.
    """
    first, params = extents[0], op.params
    if op.name == 'conv_general_dilated':
        numbers = params['dimension_numbers']
        for place, axis in enumerate(numbers.lhs_spec[2:]):
            kernel = shapes[1][numbers.rhs_spec[2 + place]]
            padding = (*params['padding'][place], params['lhs_dilation'][place] - 1)
            first = _slid(
                first, axis, shapes[0][axis], padding, kernel,
                params['window_strides'][place], params['rhs_dilation'][place],
            )  # fmt: skip
        return _reduced(first, numbers.lhs_spec[1], keep=True)
    if op.name.startswith('reduce_window'):
        for axis, window in enumerate(params['window_dimensions']):
            padding = (*params['padding'][axis], params['base_dilation'][axis] - 1)
            first = _slid(
                first, axis, shapes[0][axis], padding, window,
                params['window_strides'][axis], params['window_dilation'][axis],
            )  # fmt: skip
        return first
    if op.name == 'pad':
        for axis, config in enumerate(params['padding_config']):
            first = _slid(first, axis, shapes[0][axis], config, 1, 1, 1)
        return first
    if op.name == 'slice':
        strides = params['strides'] or (1,) * len(shape)
        ends = zip(params['start_indices'], params['limit_indices'], strides, strict=True)
        for axis, (start, limit, stride) in enumerate(ends):
            if first.shape[axis] > 1:
                first = np.take(first, range(start, limit, stride), axis=axis)
        return first
    if op.name == 'concatenate' and any(x.shape[params['dimension']] > 1 for x in extents):
        axis = params['dimension']
        parts = [np.repeat(x, 1 if x.shape[axis] > 1 else s[axis], axis)
                 for x, s in zip(extents, shapes, strict=True)]  # fmt: skip
        return np.concatenate(parts, axis=axis)
    if op.name in ('reduce_sum', 'reduce_max', 'reduce_min'):
        return _reduced(first, params['axes'])
    if op.name == 'transpose':
        return first.transpose(*params['permutation'], len(shape))
    if op.name == 'broadcast_in_dim':
        lengths = dict(zip(params['broadcast_dimensions'], first.shape, strict=False))
        return first.reshape(*(lengths.get(axis, 1) for axis in range(len(shape))), 2)
    if op.name in ('reshape', 'squeeze'):
        return _unrepeated(np.broadcast_to(first, (*shapes[0], 2)).reshape(*shape, 2))
    if op.name in ragged.ELEMENTWISE or op.name == 'concatenate':
        return _met(extents)
    everything = _met([_reduced(x, range(x.ndim - 1)) for x in extents])
    return everything.reshape(*(1,) * len(shape), 2)


def _slid(
    extent: Extent,
    axis: int,
    length: int,
    padding: tuple[int, int, int],
    window: int,
    stride: int,
    dilation: int,
) -> Extent:
    """What windows along an axis see; padding before, after and between places sees nothing."""
    if extent.shape[axis] == 1 < length:  # all places are alike
        return extent
    extent = np.moveaxis(extent, axis, 0)
    before, after, between = padding
    spread = np.full((len(extent) + between * (len(extent) - 1), *extent.shape[1:]), NOTHING)
    spread[:: between + 1] = extent
    spread = spread[max(-before, 0) : len(spread) - max(-after, 0)]
    ends = [np.full((max(n, 0), *extent.shape[1:]), NOTHING) for n in (before, after)]
    padded = np.concatenate([ends[0], spread, ends[1]])
    count = (len(padded) - (window - 1) * dilation - 1) // stride + 1
    steps = [padded[dilation * i :][: (count - 1) * stride + 1 : stride] for i in range(window)]
    return np.moveaxis(_met(steps), 0, axis)


def _met(extents: Sequence[Extent]) -> Extent:
    """Place by place, from the first pixel of any to the last of any."""
    result = extents[0]
    for extent in extents[1:]:
        low = np.minimum(result[..., 0], extent[..., 0])
        result = np.stack([low, np.maximum(result[..., 1], extent[..., 1])], axis=-1)
    return result


def _reduced(extent: Extent, axes: int | Sequence[int], keep: bool = False) -> Extent:
    axes = axes if isinstance(axes, int) else tuple(axes)
    low, high = (
        extent[..., 0].min(axis=axes, keepdims=keep),
        extent[..., 1].max(axes, keepdims=keep),
    )
    return np.stack([low, high], axis=-1)


def _unrepeated(extent: Extent) -> Extent:
    """With axes of length 1 along which all places are alike."""
    for axis in range(extent.ndim - 1):
        one = np.take(extent, [0], axis=axis)
        if np.array_equal(np.broadcast_to(one, extent.shape), extent):
            extent = one
    return extent
