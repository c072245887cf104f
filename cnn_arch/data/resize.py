"""Antialiased resizing of a part of a picture, separable, compiled by numba.

The filters: a triangle (bilinear) and Keys' cubic with a = -1/2 (bicubic), as Pillow has them; the
share of each pixel under the output (area); the pixel at the centre (nearest). All but the last are
widened by the factor of reduction and cut off at the edge of the picture.

Every sum is exact: the weights are whole numbers of units, and between the two passes the values
are rounded, so that all products and partial sums are whole numbers below 2**24 of a common unit,
which float32 holds. So the result is the same bits on every processor, in whatever order it adds.

Why not numpy: as two series of small matrix products the same arithmetic takes three times as long,
most of it in a hundred calls per picture, at each of which the loader's threads meet.
"""

import math

import numba
import numpy as np

INTERPOLATIONS = ('bilinear', 'bicubic', 'area', 'nearest')
UNITS = 2**16, 2**12  # of the vertical and the horizontal weights to one
BETWEEN = 16  # units to a grey level, between the two passes: 255.5 * 16 * 2**12 < 2**24


def resize(
    pixels: np.ndarray,
    height: int,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: str = 'bilinear',
    mirror: bool = False,
) -> np.ndarray:
    """Box (top, left, height, width; in pixels, maybe fractions) of uint8 [H, W, C] -> [*size, C].

    The picture is `height` pixels high, of which `pixels` has at least the rows above `lower_edge`.
    The box must lie within the picture; the filter reads across the box's edges. `mirror` flips the
    result left to right. Lets other threads run.
    """
    _, width, channels = pixels.shape
    (top, left, box_height, box_width), (rows, columns) = box, size
    first_y, weights_y = taps(top, box_height, height, rows, interpolation, UNITS[0])
    first_x, weights_x = taps(left, box_width, width, columns, interpolation, UNITS[1])
    if mirror:
        first_x, weights_x = first_x[::-1].copy(), weights_x[::-1].copy()
    result = np.empty((rows, columns, channels), np.uint8)
    _separable(
        np.ascontiguousarray(pixels),
        first_y,
        weights_y,
        first_x,
        weights_x,
        result,
        interpolation == 'bicubic',  # overshoots
        (0,) * channels,
        (0,) * weights_x.shape[1] if weights_x.shape[1] <= 6 else (),
    )
    return result


def turn(
    pixels: np.ndarray, centre: tuple[float, float], angle: float, size: tuple[int, int]
) -> np.ndarray:
    """The window uint8 [*size, C] of uint8 [H, W, C] about (y, x), turned counter-clockwise.

    `angle` in radians; bilinear; black beyond the pixels. Lets other threads run.
    """
    result = np.empty((*size, pixels.shape[2]), np.uint8)
    _turned(np.ascontiguousarray(pixels), *centre, math.cos(angle), math.sin(angle), result)
    return result


def lower_edge(start: float, extent: float, limit: int, size: int, interpolation: str) -> int:
    """The last pixel + 1 of a line of `limit` that `taps` gives a weight."""
    scale = extent / size
    return min(limit, math.ceil(start + extent - scale / 2 + _reach(scale, interpolation)))


def taps(
    start: float, extent: float, limit: int, size: int, interpolation: str, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """How `size` outputs over [start, start + extent) weigh the `limit` pixels of a line.

    Returns the first pixel of each output, int64 [size], and the weights of it and its followers,
    float32 [size, T]: multiples of 1 / units (2 / units: bicubic) that sum to one. What lies beyond
    the line has weight zero.
    """
    scale = extent / size
    reach = _reach(scale, interpolation)
    count = math.ceil(2 * reach)  # pixel centres within reach
    if interpolation == 'bicubic':
        units //= 2  # its negative weights make the others larger
    first = np.empty(size, np.int64)
    weights = np.zeros((size, count), np.float32)
    kind = INTERPOLATIONS.index(interpolation)
    _fill(start, scale, limit, reach, units, kind, first, weights)
    return first, weights


def _reach(scale: float, interpolation: str) -> float:
    """Half the width of the filter in pixels, at `scale` pixels per output."""
    stretch = max(scale, 1.0)
    return {
        'bilinear': stretch,
        'bicubic': 2 * stretch,
        'area': (stretch + 1) / 2,
        'nearest': 0.5,
    }[interpolation]


def _compiled(function):
    """Compiled by numba, without the interpreter's lock; on disk for the next process if it may."""
    try:
        return numba.njit(nogil=True, cache=True, error_model='numpy')(function)
    except RuntimeError:  # no folder to write to
        return numba.njit(nogil=True, error_model='numpy')(function)


@_compiled
def _weight(kind: int, distance: float, stretch: float) -> float:
    """Of a pixel `distance` away from the centre of an output `stretch` wide, up to a factor."""
    if kind == 0:
        return max(0.0, stretch - distance)
    if kind == 1:
        x = distance / stretch
        if x < 1.0:
            return (1.5 * x - 2.5) * x * x + 1.0
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0
    if kind == 2:
        return min(1.0, max(0.0, (stretch + 1.0) / 2.0 - distance))
    return 1.0


@_compiled
def _fill(start, scale, limit, reach, units, kind, first, weights):
    """The loops of `taps`. The running sums are rounded, not the weights: so these still sum to
    one, and the error of an output is the rounding times the differences of neighbouring pixels.
    """
    stretch = max(scale, 1.0)
    for output in range(len(first)):
        centre = start + (output + 0.5) * scale
        begin = min(max(0, math.floor(centre - reach + 0.5)), limit - 1)
        end = min(limit, math.floor(centre - reach + 0.5) + weights.shape[1])
        first[output] = begin
        total = 0.0
        for pixel in range(begin, end):
            total += _weight(kind, abs(pixel + 0.5 - centre), stretch)
        running, before = 0.0, 0.0
        for pixel in range(begin, end):
            running += _weight(kind, abs(pixel + 0.5 - centre), stretch)
            now = np.rint(running / total * units)
            weights[output, pixel - begin] = (now - before) / units
            before = now


@_compiled
def _separable(pixels, first_y, weights_y, first_x, weights_x, result, clamped, channels, unrolled):
    """Each row of the result: the sum of rows of the picture, then sums along it.

    The lengths of `channels` and `unrolled` are types to the compiler, which unrolls the loops over
    them; `unrolled` is empty or as long as the sums along a row.
    """
    depth = len(channels)
    rows, columns, _ = result.shape
    taps_y, taps_x = weights_y.shape[1], weights_x.shape[1]
    start = min(first_x[0], first_x[-1])
    end = max(first_x[0], first_x[-1]) + taps_x
    left, right = start * depth, min(end, pixels.shape[1]) * depth
    used = right - left
    last_y = len(pixels) - 1
    source = pixels.reshape(pixels.shape[0], -1)
    target = result.reshape(rows, -1)
    offsets = ((first_x - start) * depth).astype(np.uintp)  # unsigned: no check for negative ones
    line = np.zeros((end - start) * depth, np.float32)
    between = np.float32(BETWEEN)
    for y in range(rows):
        for t in range(0, taps_y, 2):  # two rows at a time; beyond the picture there are none
            above = source[min(first_y[y] + t, last_y), left:right]
            below = source[min(first_y[y] + t + 1, last_y), left:right]
            weight = weights_y[y, t]
            other = weights_y[y, t + 1] if t + 1 < taps_y else np.float32(0.0)
            if t == 0:  # a half, so that cutting off rounds
                for j in range(used):
                    line[j] = (
                        np.float32(0.5)
                        + weight * np.float32(above[j])
                        + other * np.float32(below[j])
                    )
            elif weight != 0.0 or other != 0.0:
                for j in range(used):
                    line[j] += weight * np.float32(above[j]) + other * np.float32(below[j])
        for j in range(used):
            line[j] = np.rint(line[j] * between) / between
        out = target[y]
        place = np.uintp(0)
        for x in range(columns):
            for c in range(depth):
                at = offsets[x] + np.uintp(c)
                total = np.float32(0.0)
                for t in range(len(unrolled) or taps_x):
                    total += weights_x[x, t] * line[at]
                    at += np.uintp(depth)
                value = np.int32(total)
                if clamped:
                    if value < 0:
                        value = np.int32(0)
                    elif value > 255:
                        value = np.int32(255)
                out[place] = np.uint8(value)
                place += np.uintp(1)


@_compiled
def _turned(pixels, centre_y, centre_x, cos, sin, result):
    height, width, channels = pixels.shape
    rows, columns, _ = result.shape
    for row in range(rows):
        for column in range(columns):
            down, across = row + 0.5 - rows / 2, column + 0.5 - columns / 2
            y = centre_y - sin * across + cos * down - 0.5
            x = centre_x + cos * across + sin * down - 0.5
            top, left = math.floor(y), math.floor(x)
            for channel in range(channels):
                value = 0.5
                for i in range(max(0, -top), min(2, height - top)):
                    for j in range(max(0, -left), min(2, width - left)):
                        weight = (1.0 - abs(y - top - i)) * (1.0 - abs(x - left - j))
                        value += weight * pixels[top + i, left + j, channel]
                result[row, column, channel] = np.uint8(value)
