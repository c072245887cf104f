"""LeNet-5's planar distortions against a slow loop, and how they are distributed."""

import math

import numpy as np
import pytest

from cnn_arch.data import planar


def slow_warp(image, forward, background):
    """Each new pixel looks up where it came from and mixes the four pixels around that place."""
    height, width = image.shape[:2]

    def pixel(y, x, c):
        inside = 0 <= y < height and 0 <= x < width
        return float(image[y, x, c]) if inside else float(background)

    inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    result = np.zeros(image.shape)
    for i, j, c in np.ndindex(image.shape):
        new = [j - (width - 1) / 2, i - (height - 1) / 2, 1]
        x = inverse[0] @ new + (width - 1) / 2
        y = inverse[1] @ new + (height - 1) / 2
        x0, y0 = math.floor(x), math.floor(y)
        for dy in (0, 1):
            for dx in (0, 1):
                share = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
                result[i, j, c] += share * pixel(y0 + dy, x0 + dx, c)
    return result


@pytest.mark.parametrize('shape', [(28, 28, 1), (9, 14, 3)])
@pytest.mark.parametrize('background', [0, 90])
def test_warp_against_a_slow_loop(shape, background):
    rng = np.random.default_rng(5)
    for _ in range(4):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        forward = planar.transformation(rng, strength=3.0)
        got = planar.warp(image, forward, background)
        assert got.dtype == np.uint8
        assert got.shape == shape
        want = slow_warp(image, forward, background)
        assert np.abs(got - want).max() <= 0.5 + 1e-6  # rounded, nothing else


def test_warp_moves_points_forward():
    """One bright pixel goes where the map says: right by 3, down by 2."""
    image = np.zeros((28, 28, 1), np.uint8)
    image[10, 12] = 200
    moved = planar.warp(image, np.array([[1.0, 0, 3], [0, 1, 2]]))
    want = np.zeros_like(image)
    want[12, 15] = 200
    np.testing.assert_array_equal(moved, want)


def test_warp_fills_with_background_from_all_sides():
    image = np.full((4, 4, 1), 50, np.uint8)
    for across, down in ((4, 0), (-4, 0), (0, 4), (0, -4), (100, -100)):
        moved = planar.warp(image, np.array([[1.0, 0, across], [0, 1, down]]), background=7)
        np.testing.assert_array_equal(moved, np.full_like(image, 7))


def test_strength_zero_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (28, 28, 1), dtype=np.uint8)
    for _ in range(5):
        np.testing.assert_array_equal(planar.distort(image, rng, 0.0), image)


def test_transformations_keep_to_their_bounds_and_are_centred():
    rng = np.random.default_rng(1)
    maps = np.array([planar.transformation(rng, 1.0) for _ in range(20_000)])
    original = (maps == np.eye(2, 3)).all(axis=(1, 2))
    np.testing.assert_allclose(original.mean(), 0.1, atol=0.01)

    width, shear, across, below, height, down = maps[~original].reshape(-1, 6).T
    assert (below == 0).all()
    quantities = {  # each evenly spread over its interval: see the deciles
        'across': (across, 1.5),
        'down': (down, 1.5),
        'scaling': (np.log(width * height) / 2, math.log(1.15)),
        'squeezing': (np.log(width / height) / 2, math.log(1.15)),
        'shearing': (shear / height, 0.3),
    }
    for name, (values, bound) in quantities.items():
        assert np.abs(values).max() <= bound + 1e-9
        deciles = np.quantile(values, np.linspace(0, 1, 11))
        want = bound * np.linspace(-1, 1, 11)
        np.testing.assert_allclose(deciles, want, atol=0.05 * bound, err_msg=name)
    together = np.corrcoef([values for values, _ in quantities.values()])
    assert np.abs(together - np.eye(5)).max() < 0.05


def test_strength_scales_all_of_them():
    weak = planar.transformation(np.random.default_rng(3), 0.5)
    full = planar.transformation(np.random.default_rng(3), 1.0)
    np.testing.assert_allclose(weak[:, 2], full[:, 2] / 2)
    np.testing.assert_allclose(np.log(weak[1, 1]), np.log(full[1, 1]) / 2)
    np.testing.assert_allclose(weak[0, 1] / weak[1, 1], full[0, 1] / full[1, 1] / 2)


def test_distortion_is_a_function_of_the_generator_and_as_long_for_all():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    np.testing.assert_array_equal(
        planar.distort(image, np.random.default_rng(7), 1.0),
        planar.distort(image, np.random.default_rng(7), 1.0),
    )
    # An original and a distorted digit use up the generator alike.
    following = set()
    for seed in range(30):
        rng, counted = np.random.default_rng(seed), np.random.default_rng(seed)
        planar.distort(image, rng, 1.0)
        counted.random(6)
        following.add(rng.random() == counted.random())
    assert following == {True}


def test_translation_grows_with_the_field():
    rng = np.random.default_rng(2)
    large = planar.transformation(rng, 1.0, unit=2.0)
    small = planar.transformation(np.random.default_rng(2), 1.0)
    np.testing.assert_allclose(large[:, 2], 2 * small[:, 2])
    np.testing.assert_allclose(large[:, :2], small[:, :2])
