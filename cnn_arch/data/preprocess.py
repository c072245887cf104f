"""The arithmetic on pixels, on the device inside the jitted step: colour, mean, scale.

Departure: AlexNet and ResNet subtract the mean image; here, as in VGG and all later work, the mean
colour is subtracted.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from cnn_arch.data.augment import ORDERS

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, what Pillow's grey is


def normalise(batch: dict[str, Any], data: Any) -> Array:
    """uint8 [N, H, W, C] -> float32 [N, H, W, C]: colours, + colour shift, - mean, / std.

    With 'corner' int32 [N, 2], the crop's first row and column in an image of its own size, what
    lies beyond the image is zero afterwards: the mean colour.
    """
    images = jnp.asarray(batch['image'], jnp.float32)
    if 'photometric' in batch:
        images = photometric(images, batch['photometric'])
    if 'jitter' in batch:
        images = photometric(images, batch['jitter'], clip=False)
    if 'colour' in batch:
        images = images + batch['colour'][:, None, None, :]
    images = (images - jnp.asarray(data.mean, jnp.float32)) / jnp.asarray(data.std, jnp.float32)
    if 'corner' in batch:
        images = jnp.where(_inside(batch['corner'], images.shape), images, 0.0)
    return images


def _inside(corners: Array, shape: tuple[int, ...]) -> Array:
    """Which pixels of crops [N, H, W, C] lie in their images, bool [N, H, W, 1]."""
    rows = jnp.arange(shape[1]) + corners[:, :1]
    columns = jnp.arange(shape[2]) + corners[:, 1:]
    rows, columns = ((x >= 0) & (x < size) for x, size in ((rows, shape[1]), (columns, shape[2])))
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def photometric(images: Array, parameters: Array, clip: bool = True) -> Array:
    """Contrast, brightness and colour of float [N, H, W, 3] in [0, 255], in each image's own order.

    `parameters` float [N, 4]: the three factors (1 = unchanged) and the index of the order in
    ORDERS. What each does is Pillow's ImageEnhance (Howard 2013 used it), except that values
    are clipped but not rounded between the steps. Without `clip` it is what Facebook's Torch code
    for ResNet does: the same three operations, and values may leave [0, 255].
    """
    order = jnp.asarray(ORDERS)[parameters[:, 3].astype(jnp.int32)]  # [N, 3]
    luma = jnp.asarray(LUMA, images.dtype)
    for step in range(3):
        operation = order[:, step]
        factor = jnp.take_along_axis(parameters, operation[:, None], axis=1)[:, None, None, :]
        grey = (images * luma).sum(-1, keepdims=True)  # [N, H, W, 1]
        mean = grey.mean((1, 2), keepdims=True)
        which = operation[:, None, None, None]
        towards = jnp.where(which == 0, mean, jnp.where(which == 1, 0.0, grey))
        images = towards + factor * (images - towards)
        images = jnp.clip(images, 0.0, 255.0) if clip else images
    return images
