"""Each paper's training operations: which part of an image is seen, at which scale, how coloured.

The host draws every random number and makes the geometry; the arithmetic on pixel values is left
to the device (`cnn_arch.data.preprocess`). Order of the draws from the sample's generator, each
only if its key is on: crop, interpolation, mirror, rotation, planar, PCA colour, pixel jitter,
photometric, colour jitter.
"""

import itertools
import math
from typing import Any

import numpy as np

from cnn_arch.data import decode
from cnn_arch.data.decode import Box
from cnn_arch.errors import UserError

# The orders of contrast (0), brightness (1) and colour, which Torch calls saturation (2).
ORDERS = tuple(itertools.permutations(range(3)))

# "random interpolation methods (bilinear, area, nearest neighbor and cubic, with equal
# probability)": GoogLeNet, section 6.
RANDOM_INTERPOLATIONS = ('bilinear', 'area', 'nearest', 'bicubic')


def train_example(
    image: bytes | np.ndarray, rng: np.random.Generator, augment: Any, channels: int = 3
) -> dict[str, np.ndarray]:
    """One training sample from encoded bytes or uint8 [H, W, C]; `augment` is config.data.augment.

    'image' uint8 [size, size, channels]; with pca_colour or pixel_jitter 'colour' float32 [3], the
    shift of RGB in grey levels; with photometric 'photometric' and with colour_jitter 'jitter',
    float32 [4] (see preprocess). A function of its arguments and the state of `rng` alone; safe in
    threads. Raises DecodeError.
    """
    height, width = decode.image_size(image)
    box = crop_box(height, width, rng, augment)
    interpolation = augment.interpolation
    if interpolation == 'random':
        interpolation = RANDOM_INTERPOLATIONS[rng.integers(len(RANDOM_INTERPOLATIONS))]
    mirror = augment.mirror and bool(rng.integers(2))

    if augment.rotation:
        degrees = rng.uniform(-augment.rotation, augment.rotation)
        pixels = turned_crop(image, box, degrees, augment.size, interpolation, channels)
        pixels = pixels[:, ::-1] if mirror else pixels
    else:
        size = (augment.size, augment.size)
        pixels = decode.crop_and_resize(image, box, size, interpolation, channels, mirror)
    if augment.planar:
        from cnn_arch.data import planar  # LeNet alone needs it

        pixels = planar.distort(pixels, rng, augment.planar)
    sample = {'image': np.ascontiguousarray(pixels)}
    coloured = augment.pca_colour or augment.pixel_jitter
    if channels != 3 and (coloured or augment.photometric or augment.colour_jitter):
        raise UserError(
            'data.augment.pca_colour, .pixel_jitter, .photometric and .colour_jitter need '
            'data.channels=3'
        )
    if coloured:
        sample['colour'] = colour_shift(rng, augment)
    if augment.photometric:
        sample['photometric'] = photometric_parameters(rng, 0.5)
    if augment.colour_jitter:
        sample['jitter'] = photometric_parameters(rng, augment.colour_jitter)
    return sample


def crop_box(height: int, width: int, rng: np.random.Generator, augment: Any) -> Box:
    """Where the sample is cut from an image of that size, by the key `crop`."""
    if augment.crop == 'none':
        return (0.0, 0.0, float(height), float(width))
    if augment.crop == 'random_resized':
        return random_resized_box(height, width, rng, augment)
    if augment.crop == 'random_sized':
        return random_sized_box(height, width, rng, augment)
    if augment.crop not in ('isotropic', 'central_square'):
        raise UserError(
            f'data.augment.crop = {augment.crop!r}: isotropic, central_square, random_resized, '
            'random_sized, none'
        )
    shorter = int(rng.integers(augment.scale_min, augment.scale_max + 1))
    resized = decode.isotropic_size(height, width, shorter)
    if augment.crop == 'central_square':  # AlexNet, section 2
        corner = ((resized[0] - shorter) // 2, (resized[1] - shorter) // 2)
        room = (shorter - augment.size, shorter - augment.size)
    else:  # VGG, section 3.1
        corner = (0, 0)
        room = (resized[0] - augment.size, resized[1] - augment.size)
    top = corner[0] + int(rng.integers(room[0] + 1))
    left = corner[1] + int(rng.integers(room[1] + 1))
    scale = (height / resized[0], width / resized[1])  # source pixels per resized pixel
    return (top * scale[0], left * scale[1], augment.size * scale[0], augment.size * scale[1])


def random_resized_box(height: int, width: int, rng: np.random.Generator, augment: Any) -> Box:
    """GoogLeNet, section 6: patches "whose size is distributed evenly between 8% and 100% of the
    image area and whose aspect ratio is chosen randomly between 3/4 and 4/3". Whole pixels; after
    ten misses the largest central box of an allowed aspect. The aspect (width / height) is drawn
    evenly on a logarithmic scale, so that upright and lying boxes are alike; the paper does not
    say.
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


def random_sized_box(height: int, width: int, rng: np.random.Generator, augment: Any) -> Box:
    """The same as Facebook's Torch code for ResNet draws it (`RandomSizedCrop`), which DenseNet's
    authors used: the aspect evenly between its bounds, then upright or lying with probability 1/2;
    after ten misses the central square of the shorter side.
    """
    for _ in range(10):
        area = rng.uniform(augment.area_min, augment.area_max) * height * width
        aspect = rng.uniform(augment.aspect_min, augment.aspect_max)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rng.integers(2):
            box_width, box_height = box_height, box_width
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return (float(top), float(left), float(box_height), float(box_width))
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return (float(top), float(left), float(side), float(side))


def turned_crop(
    image: bytes | np.ndarray,
    box: Box,
    degrees: float,
    size: int,
    interpolation: str,
    channels: int,
) -> np.ndarray:
    """What lies under the box turned counter-clockwise about its centre, uint8 [size, size, C].

    SENet's authors (their README) turn by up to 10 degrees. The surroundings are resized first, at
    the scale of the crop and with antialiasing, and turned then, bilinearly; black where the image
    ends.
    """
    from cnn_arch.data import resize  # as in decode: only who resizes waits for the compiler

    source = decode.image_size(image)
    angle = math.radians(degrees)
    wider = math.cos(angle) + abs(math.sin(angle)) - 1
    margin = math.ceil(wider * size / 2) + 2  # output pixels; 2 for the interpolation
    before, after, around = [], [], []
    for start, extent, limit in zip(box[:2], box[2:], source, strict=True):
        scale = extent / size
        # As many whole output pixels as the image still has.
        before.append(min(margin, math.floor(start / scale + 1e-6)))
        after.append(min(margin, math.floor((limit - start - extent) / scale + 1e-6)))
        around.append((max(0.0, start - before[-1] * scale), scale))
    larger = (before[0] + size + after[0], before[1] + size + after[1])
    surroundings = decode.crop_and_resize(
        image,
        (around[0][0], around[1][0], larger[0] * around[0][1], larger[1] * around[1][1]),
        larger,
        interpolation,
        channels,
    )
    centre = (before[0] + size / 2, before[1] + size / 2)
    return resize.turn(surroundings, centre, angle, (size, size))


def colour_shift(rng: np.random.Generator, augment: Any) -> np.ndarray:
    """What is added to R, G and B of all pixels, in grey levels: float32 [3].

    AlexNet's components of colour (section 4.1; see cnn_arch.data.colour), and the "pixel jitter"
    of SENet's authors, whose README gives its range alone.
    """
    shift = np.zeros(3)
    if augment.pca_colour:
        alphas = rng.normal(0.0, augment.pca_colour, 3)
        scaled = np.multiply(augment.pca_eigenvalues, alphas)
        shift += 255.0 * (np.asarray(augment.pca_eigenvectors) @ scaled)
    if augment.pixel_jitter:
        shift += rng.uniform(-augment.pixel_jitter, augment.pixel_jitter, 3)
    return shift.astype(np.float32)


def photometric_parameters(rng: np.random.Generator, reach: float) -> np.ndarray:
    """Factors of contrast, brightness and colour, even in 1 +- reach, and their random order.

    Howard 2013 has a reach of 0.5, Facebook's Torch code for ResNet one of 0.4.
    """
    factors = rng.uniform(1 - reach, 1 + reach, 3)
    return np.array([*factors, rng.integers(len(ORDERS))], np.float32)
