"""Each paper's training operations: which part of an image is seen, at which scale, how coloured.

The host draws every random number and makes the geometry; the arithmetic on pixel values is left
to the device (`cnn_arch.data.preprocess`). Order of the draws from the sample's generator, each
only if its key is on: crop, interpolation, mirror, rotation, planar, PCA colour, photometric.
"""

import math
from typing import Any

import numpy as np
from PIL import Image

from cnn_arch.data import colour, decode

Box = tuple[float, float, float, float]  # top, left, height, width in source pixels
INTERPOLATIONS = ('bilinear', 'bicubic')


def train_example(
    image: bytes | np.ndarray, rng: np.random.Generator, augment: Any, channels: int = 3
) -> dict[str, np.ndarray]:
    """One training sample from encoded bytes or uint8 [H, W, C]; `augment` is config.data.augment.

    'image' uint8 [size, size, channels]; with pca_colour 'colour' float32 [3], the shift of RGB in
    grey levels; with photometric 'photometric' float32 [4] (see preprocess.photometric). A function
    of its arguments and the state of `rng` alone; safe in threads. Raises DecodeError.
    """
    height, width = decode.image_size(image)
    box = crop_box(height, width, rng, augment)
    interpolation = augment.interpolation
    if interpolation == 'random':
        interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    mirror = augment.mirror and bool(rng.integers(2))
    degrees = rng.uniform(-augment.rotation, augment.rotation) if augment.rotation else 0.0

    size = (augment.size, augment.size)
    if degrees:
        pixels = rotated_crop(image, (height, width), box, degrees, size, interpolation, channels)
    else:
        pixels = decode.crop_and_resize(image, box, size, interpolation, channels)
    if mirror:
        pixels = pixels[:, ::-1]
    if augment.planar:
        from cnn_arch.data import planar  # LeNet alone needs it

        pixels = planar.distort(pixels, rng, augment.planar)
    sample = {'image': np.ascontiguousarray(pixels)}
    if augment.pca_colour:
        sample['colour'] = colour.shift(rng.normal(0.0, augment.pca_colour, 3))
    if augment.photometric:
        sample['photometric'] = photometric_parameters(rng)
    return sample


def crop_box(height: int, width: int, rng: np.random.Generator, augment: Any) -> Box:
    """Where the sample is cut from an image of that size, by the key `crop`."""
    if augment.crop == 'none':
        return (0.0, 0.0, float(height), float(width))
    if augment.crop == 'random_resized':
        return random_resized_box(height, width, rng, augment)
    if augment.crop not in ('isotropic', 'central_square'):
        raise ValueError(f'data.augment.crop={augment.crop!r} is not a kind of crop')

    shorter = int(rng.integers(augment.scale_min, augment.scale_max + 1))
    resized = decode.isotropic_size(height, width, shorter)
    if augment.crop == 'central_square':  # AlexNet, section 2
        corner = ((resized[0] - shorter) // 2, (resized[1] - shorter) // 2)
        room = (shorter - augment.size,) * 2
    else:  # VGG, section 3.1
        corner = (0, 0)
        room = (resized[0] - augment.size, resized[1] - augment.size)
    top = corner[0] + int(rng.integers(room[0] + 1))
    left = corner[1] + int(rng.integers(room[1] + 1))
    scale = (height / resized[0], width / resized[1])  # source pixels per resized pixel
    return (top * scale[0], left * scale[1], augment.size * scale[0], augment.size * scale[1])


def random_resized_box(height: int, width: int, rng: np.random.Generator, augment: Any) -> Box:
    """GoogLeNet, section 6: "size distributed evenly between 8% and 100% of the image area and
    aspect ratio chosen randomly between 3/4 and 4/3". Whole pixels; after ten misses the largest
    central box of an allowed aspect. The aspect is drawn evenly on the logarithmic scale, so that
    3/4 and 4/3 are alike; the paper does not say.
    """
    for _ in range(10):
        area = rng.uniform(augment.area_min, augment.area_max) * height * width
        aspect = math.exp(rng.uniform(math.log(augment.aspect_min), math.log(augment.aspect_max)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return (float(top), float(left), float(box_height), float(box_width))
    aspect = min(max(width / height, augment.aspect_min), augment.aspect_max)
    box_width = min(width, max(1, round(height * aspect)))
    box_height = min(height, max(1, round(width / aspect)))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return (float(top), float(left), float(box_height), float(box_width))


def rotated_crop(
    image: bytes | np.ndarray,
    source: tuple[int, int],
    box: Box,
    degrees: float,
    size: tuple[int, int],
    interpolation: str,
    channels: int,
) -> np.ndarray:
    """The box turned about its centre, uint8 [*size, channels]; black outside of the image.

    The surroundings that the turned window needs are resized with antialiasing first, at the scale
    of the crop, and turned after.
    """
    top, left, box_height, box_width = box
    scale = (box_height / size[0], box_width / size[1])
    angle = math.radians(degrees)
    reach = (abs(math.sin(angle)) + math.cos(angle)) / 2
    # Whole output pixels around the crop's own grid, as far as the picture goes.
    margin = [math.ceil(reach * max(size) - min(size) / 2) + 2] * 2
    before = (min(margin[0], int(top / scale[0])), min(margin[1], int(left / scale[1])))
    after = (
        min(margin[0], int((source[0] - top - box_height) / scale[0] + 1e-6)),
        min(margin[1], int((source[1] - left - box_width) / scale[1] + 1e-6)),
    )
    larger = (size[0] + before[0] + after[0], size[1] + before[1] + after[1])
    around = (
        top - before[0] * scale[0],
        left - before[1] * scale[1],
        larger[0] * scale[0],
        larger[1] * scale[1],
    )
    pixels = decode.crop_and_resize(image, around, larger, interpolation, channels)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    cos, sin = math.cos(angle), math.sin(angle)
    centre = (before[1] + size[1] / 2, before[0] + size[0] / 2)
    matrix = (
        cos,
        sin,
        centre[0] - cos * size[1] / 2 - sin * size[0] / 2,
        -sin,
        cos,
        centre[1] + sin * size[1] / 2 - cos * size[0] / 2,
    )
    turned = picture.transform(
        (size[1], size[0]), Image.Transform.AFFINE, matrix, decode.FILTERS[interpolation]
    )
    return np.asarray(turned).reshape(*size, channels)


def photometric_parameters(rng: np.random.Generator) -> np.ndarray:
    """Howard 2013: factors of contrast, brightness and colour in [0.5, 1.5], in random order."""
    factors = rng.uniform(0.5, 1.5, 3)
    return np.array([*factors, rng.integers(len(colour.ORDERS))], np.float32)
