"""LeNet-5's distorted digits: "combinations of planar affine transformations: horizontal and
vertical translations, scaling, squeezing (simultaneous horizontal compression and vertical
elongation, or the reverse), and horizontal shearing" (LeCun et al. 1998, section III-B).

The paper's set was 60,000 originals and 540,000 distorted digits, chosen at random, once. Here each
presentation is drawn anew, one in ten an original. It prints no amplitudes; those below are ours.
"""

import math

import numpy as np

# At strength 1, each drawn evenly between minus and plus this much.
TRANSLATION = 1.5  # pixels of a field of 28, in each direction
SCALING = math.log(1.15)  # of both sides
SQUEEZING = math.log(1.15)  # width times, height divided by
SHEARING = 0.3  # columns per row
ORIGINALS = 0.1  # share of presentations left as they are


def distort(
    image: np.ndarray, rng: np.random.Generator, strength: float, background: int = 0
) -> np.ndarray:
    """uint8 [H, W, C], distorted at random about its centre, with as many pixels."""
    return warp(image, transformation(rng, strength, image.shape[1] / 28), background)


def transformation(rng: np.random.Generator, strength: float, unit: float = 1.0) -> np.ndarray:
    """A random affine map [2, 3] of (x, y) from the centre; `unit`: pixels per translation's pixel.

    Six draws, whatever they give.
    """
    original = rng.random() < ORIGINALS
    draws = strength * rng.uniform(-1, 1, 5)
    if original:
        draws[:] = 0
    across, down = unit * TRANSLATION * draws[:2]
    scale, squeeze = np.exp(SCALING * draws[2]), np.exp(SQUEEZING * draws[3])
    width, height = scale * squeeze, scale / squeeze
    return np.array([[width, SHEARING * draws[4] * height, across], [0.0, height, down]])


def warp(image: np.ndarray, forward: np.ndarray, background: int = 0) -> np.ndarray:
    """The image uint8 [H, W, C] with each point (x, y), from the centre, moved to `forward` of it.

    Bilinear, rounded; beyond the image lies the background.
    """
    height, width, channels = image.shape
    (a, b, c, d), (across, down) = forward[:, :2].ravel(), forward[:, 2]
    x = np.arange(width) - (width - 1) / 2 - across
    y = (np.arange(height) - (height - 1) / 2 - down)[:, None]
    # The inverse map: where each new pixel comes from, in pixels from the first one's centre.
    determinant = a * d - b * c
    from_x = ((d * x - b * y) / determinant + (width - 1) / 2).clip(-1, width)
    from_y = ((a * y - c * x) / determinant + (height - 1) / 2).clip(-1, height)
    left, top = np.floor(from_x), np.floor(from_y)
    right_share, bottom_share = (from_x - left)[..., None], (from_y - top)[..., None]

    # A frame of background: one pixel before, two behind, where the clipped places end.
    framed = np.full((height + 3, width + 3, channels), background, np.float64)
    framed[1:-2, 1:-2] = image
    flat = framed.reshape(-1, channels)
    corner = ((top + 1) * (width + 3) + left + 1).astype(np.intp)
    upper = flat[corner] * (1 - right_share) + flat[corner + 1] * right_share
    corner += width + 3
    lower = flat[corner] * (1 - right_share) + flat[corner + 1] * right_share
    mixed = upper * (1 - bottom_share) + lower * bottom_share
    return np.rint(mixed).astype(np.uint8)
