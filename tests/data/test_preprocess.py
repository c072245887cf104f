"""The arithmetic on pixels, on the device: against numpy and against Pillow's ImageEnhance."""

import types

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cnn_arch.data import preprocess
from cnn_arch.data.augment import ORDERS
from configs import base

photometric = jax.jit(preprocess.photometric)


def images(count: int, channels: int = 3) -> np.ndarray:
    """Pictures with structure and all brightnesses, uint8 [N, 40, 48, C]."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    filter_ = Image.Resampling.BICUBIC
    pictures = [np.asarray(Image.fromarray(n).resize((48, 40), filter_)) for n in noise]
    return np.stack(pictures)[..., :channels]


def test_mean_and_scale():
    data = base.get_config().data
    data.std = (58.393, 57.12, 57.375)
    batch = {'image': images(3), 'label': np.zeros(3, np.int32)}
    result = jax.jit(lambda batch: preprocess.normalise(batch, data))(batch)
    assert result.dtype == np.float32
    expected = (batch['image'].astype(np.float64) - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_one_channel():
    data = types.SimpleNamespace(mean=(33.0,), std=(78.0,))
    batch = {'image': images(2, channels=1)}
    result = preprocess.normalise(batch, data)
    assert result.shape == (2, 40, 48, 1)
    np.testing.assert_allclose(result, (batch['image'] - 33.0) / 78.0, rtol=1e-5, atol=1e-6)


def test_colour_is_added_to_every_pixel_of_its_image_and_not_clipped():
    data = base.get_config().data
    colour = np.array([[1.5, -2.25, 300.0], [0.0, 4.0, -8.0]], np.float32)
    batch = {'image': images(2), 'colour': colour}
    result = preprocess.normalise(batch, data)
    expected = batch['image'] + colour[:, None, None] - np.array(data.mean)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('order', range(6))
def test_photometric_is_pillows_image_enhance(order):
    rng = np.random.default_rng(order)
    pictures = images(4)
    factors = rng.uniform(0.5, 1.5, (4, 3)).astype(np.float32)
    parameters = np.concatenate([factors, np.full((4, 1), order, np.float32)], axis=1)
    result = photometric(pictures.astype(np.float32), parameters)

    kinds = (ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Color)
    for picture, factor, ours in zip(pictures, factors, result, strict=True):
        expected = Image.fromarray(picture)
        for operation in ORDERS[order]:
            expected = kinds[operation](expected).enhance(float(factor[operation]))
        # Pillow cuts off to whole grey levels after each of the three.
        assert np.abs(np.asarray(ours) - np.asarray(expected)).max() < 5
        assert np.abs(np.asarray(ours) - np.asarray(expected)).mean() < 2


def test_orders_differ_and_are_each_images_own():
    picture = np.repeat(images(1), 6, axis=0).astype(np.float32)
    parameters = np.array([[1.5, 0.6, 1.4, order] for order in range(6)], np.float32)
    together = photometric(picture, parameters)
    for order in range(6):
        alone = photometric(picture[:1], parameters[order : order + 1])
        np.testing.assert_allclose(together[order], alone[0], rtol=1e-5, atol=1e-3)
    differences = [np.abs(together[0] - other).mean() for other in together[1:]]
    assert min(differences) > 0.1


def test_factors_of_one_change_nothing():
    pictures = images(6).astype(np.float32)
    parameters = np.array([[1, 1, 1, order] for order in range(6)], np.float32)
    np.testing.assert_allclose(photometric(pictures, parameters), pictures, rtol=1e-5, atol=1e-3)


def torch_transforms(image, factors, order, shift, mean, std):
    """ColorJitter, Lighting and ColorNormalize of fb.resnet.torch's transforms.lua, in float64.

    `image` [H, W, 3] in [0, 1]; `factors` by name; `order` names, first to last.
    """
    image = image.astype(np.float64).copy()
    for name in order:
        grey = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
        if name == 'brightness':
            other = np.zeros_like(image)
        elif name == 'contrast':
            other = np.full_like(image, grey.mean())
        else:
            other = np.stack([grey] * 3, axis=-1)
        image = factors[name] * image + (1 - factors[name]) * other
    return (image + shift - mean) / std


@pytest.mark.parametrize('order', range(6))
def test_colour_jitter_is_facebooks_torch_code(order):
    data = base.get_config().data
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    data.mean, data.std = tuple(255 * mean), tuple(255 * std)
    rng = np.random.default_rng(order)
    pictures = images(3)
    factors = rng.uniform(0.6, 1.4, (3, 3))
    shifts = rng.normal(0, 0.02, (3, 3))
    jitter = np.concatenate([factors, np.full((3, 1), order)], axis=1).astype(np.float32)
    batch = {'image': pictures, 'jitter': jitter, 'colour': (255 * shifts).astype(np.float32)}
    result = jax.jit(lambda batch: preprocess.normalise(batch, data))(batch)
    names = ('contrast', 'brightness', 'saturation')
    beyond = 0
    for picture, factor, shift, ours in zip(pictures, factors, shifts, result, strict=True):
        named = dict(zip(names, factor, strict=True))
        in_order = [names[operation] for operation in ORDERS[order]]
        expected = torch_transforms(picture / 255, named, in_order, shift, mean, std)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
        plain = (expected * std + mean - shift) * 255
        beyond += (plain.max() > 256) + (plain.min() < -1)
    assert beyond  # what Howard's clips and Torch does not is among the values


def test_photometric_comes_before_the_colour_noise():
    """Howard 2013: "we then add the random lighting noise"."""
    data = types.SimpleNamespace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    parameters = np.array([[1.2, 0.7, 1.3, 4]], np.float32)
    colour = np.array([[3.0, 4.0, 5.0]], np.float32)
    batch = {'image': images(1), 'photometric': parameters, 'colour': colour}
    expected = (
        preprocess.photometric(images(1).astype(np.float32), parameters) + colour[:, None, None]
    )
    np.testing.assert_allclose(preprocess.normalise(batch, data), expected, rtol=1e-5, atol=1e-3)
