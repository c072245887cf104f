"""The resize against its definition, in dense float64 and in whole numbers, and against Pillow."""

import numpy as np
import pytest
from PIL import Image

from cnn_arch.data import resize


def definition(start: float, extent: float, limit: int, size: int, interpolation: str):
    """Weights [size, limit] of the pixels for each output, float64, from the formulas alone."""
    scale = extent / size
    stretch = max(scale, 1.0)
    centres = start + (np.arange(size)[:, None] + 0.5) * scale
    x = np.abs(np.arange(limit) + 0.5 - centres)
    if interpolation == 'nearest':
        weights = (np.arange(limit) == np.floor(centres)).astype(float)
    elif interpolation == 'area':
        low, high = centres - stretch / 2, centres + stretch / 2
        pixel = np.arange(limit)
        weights = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    elif interpolation == 'bilinear':
        weights = np.clip(1 - x / stretch, 0, None)
    else:
        x = x / stretch
        inner = 1.5 * x**3 - 2.5 * x**2 + 1
        outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, inner, np.where(x < 2, outer, 0))
    return weights / weights.sum(1, keepdims=True)


def dense(pixels, box, size, interpolation):
    """The result in float64, without any rounding."""
    rows = definition(box[0], box[2], pixels.shape[0], size[0], interpolation)
    columns = definition(box[1], box[3], pixels.shape[1], size[1], interpolation)
    exact = np.einsum('yh,hwc,xw->yxc', rows, pixels.astype(float), columns, optimize=True)
    return np.clip(exact, 0, 255)


def cases(number: int, interpolation: str):
    """Random pictures, boxes and sizes: enlarged, reduced a little and much, down to one pixel."""
    rng = np.random.default_rng(len(interpolation))
    for _ in range(number):
        height, width = rng.integers(1, 120, 2)
        pixels = rng.integers(0, 256, (height, width, rng.choice([1, 3])), dtype=np.uint8)
        extent = np.array([height, width]) * rng.uniform(0.05, 1, 2)
        start = (np.array([height, width]) - extent) * rng.uniform(0, 1, 2)
        size = tuple(int(n) for n in rng.integers(1, 50, 2))
        yield pixels, (*start, *extent), size


@pytest.mark.parametrize('interpolation', resize.INTERPOLATIONS)
def test_follows_the_definition(interpolation):
    for pixels, box, size in cases(60, interpolation):
        result = resize.resize(pixels, len(pixels), box, size, interpolation)
        assert result.shape == (*size, pixels.shape[2])
        error = np.abs(result - dense(pixels, box, size, interpolation))
        if interpolation == 'nearest':
            assert error.max() == 0
        # Half a grey level is the rounding of the result; a little more, that of the weights.
        assert error.max() < 0.75


@pytest.mark.parametrize('interpolation', resize.INTERPOLATIONS)
def test_every_sum_is_exact(interpolation):
    """The same in whole numbers of 64 bits gives the same bits."""
    for pixels, box, size in cases(60, interpolation):
        one_y, one_x = (unit // (2 if interpolation == 'bicubic' else 1) for unit in resize.UNITS)
        rows = whole(box[0], box[2], len(pixels), size[0], interpolation, resize.UNITS[0], one_y)
        columns = whole(
            box[1], box[3], pixels.shape[1], size[1], interpolation, resize.UNITS[1], one_x
        )
        lines = np.einsum('yh,hwc->ywc', rows, pixels.astype(np.int64))
        lines = np.rint(resize.BETWEEN * (lines / one_y + 0.5)).astype(np.int64)
        sums = np.einsum('ywc,xw->yxc', lines, columns)
        assert np.abs(sums).max() < 2**24
        expected = np.clip(sums // (resize.BETWEEN * one_x), 0, 255)
        for mirror in (False, True):
            result = resize.resize(pixels, len(pixels), box, size, interpolation, mirror)
            np.testing.assert_array_equal(result[:, ::-1] if mirror else result, expected)


def whole(start, extent, limit, size, interpolation, units, one) -> np.ndarray:
    """The weights of `taps` as a matrix of whole units, int64 [size, limit]; rows sum to one."""
    first, weights = resize.taps(start, extent, limit, size, interpolation, units)
    scaled = weights.astype(np.float64) * one
    assert (scaled == np.round(scaled)).all()
    assert (scaled.sum(1) == one).all()
    matrix = np.zeros((size, limit + weights.shape[1]), np.int64)
    for output, (place, row) in enumerate(zip(first, scaled, strict=True)):
        matrix[output, place : place + len(row)] = row
    assert not matrix[:, limit:].any()
    return matrix[:, :limit]


@pytest.mark.parametrize(('interpolation', 'filter_'), [('bilinear', 2), ('bicubic', 3)])
def test_agrees_with_pillow(interpolation, filter_):
    rng = np.random.default_rng(3)
    # Smooth, as pictures are; and Pillow rounds to whole grey levels between its two passes.
    noise = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    picture = noise.resize((400, 300), Image.Resampling.BICUBIC)
    for box, size in [
        ((0.0, 0.0, 300.0, 400.0), (224, 224)),
        ((10.3, 20.7, 200.2, 333.3), (100, 64)),
        ((50.0, 60.0, 100.5, 90.25), (224, 224)),
        ((0.0, 0.0, 300.0, 400.0), (7, 9)),
    ]:
        top, left, height, width = box
        ours = resize.resize(np.asarray(picture), 300, box, size, interpolation)
        edges = (left, top, left + width, top + height)
        theirs = picture.resize(size[::-1], Image.Resampling(filter_), box=edges)
        error = np.abs(ours.astype(int) - np.asarray(theirs))
        assert error.max() <= 2
        assert error.mean() < 0.4


def test_reads_no_row_below_the_lower_edge():
    rng = np.random.default_rng(4)
    for interpolation in resize.INTERPOLATIONS:
        for pixels, box, size in cases(60, interpolation):
            expected = resize.resize(pixels, len(pixels), box, size, interpolation)
            edge = resize.lower_edge(box[0], box[2], len(pixels), size[0], interpolation)
            assert 1 <= edge <= len(pixels)
            upper = resize.resize(pixels[:edge], len(pixels), box, size, interpolation)
            np.testing.assert_array_equal(upper, expected)
            below = pixels.copy()
            below[edge:] = rng.integers(0, 256, below[edge:].shape)
            np.testing.assert_array_equal(
                resize.resize(below, len(pixels), box, size, interpolation), expected
            )


def test_same_size_is_the_same_picture():
    pixels = np.random.default_rng(5).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    for interpolation in resize.INTERPOLATIONS:
        result = resize.resize(pixels, 37, (0.0, 0.0, 37.0, 23.0), (37, 23), interpolation)
        np.testing.assert_array_equal(result, pixels)


def test_white_stays_white_and_black_black():
    for value in (0, 255):
        pixels = np.full((90, 70, 3), value, np.uint8)
        for interpolation in resize.INTERPOLATIONS:
            for size in ((224, 224), (13, 50), (1, 1)):
                box = (3.3, 4.4, 80.1, 60.2)
                assert (resize.resize(pixels, 90, box, size, interpolation) == value).all()
