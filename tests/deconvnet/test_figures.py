"""What occlusion and invariance measure, against NumPy on copies made one by one."""

import functools

import jax
import numpy as np
import pytest

from cnn_arch.deconvnet import invariance, occlusion
from cnn_arch.deconvnet.subject import Subject
from tests.deconvnet.common import random_images, small_config, small_network
from tests.deconvnet.test_top import pictures_of


@pytest.fixture(scope='module')
def subject():
    config = small_config()
    network, variables = small_network(config)
    images = random_images(3, network)
    return Subject(network, variables, pictures_of(images, config), 8), images


@functools.partial(jax.jit, static_argnames='network')
def jitted(variables, pixels, network):
    return network.layers(variables, pixels)


def layers_of(subject, pixels):
    return jitted(subject.variables, np.float32(pixels), subject.network)


def test_occlusion_is_that_of_copies_with_a_square(subject, monkeypatch):
    monkeypatch.setattr(occlusion, 'PLACES', 3)
    subject, images = subject
    (result,) = occlusion.measure(subject, 'conv2_1', [1], 8, 'deconvnet')
    pixels = np.asarray(subject.network.pixels(images[1:2]))
    maps = np.asarray(layers_of(subject, pixels)['conv2_1']).sum((0, 1, 2))
    assert result.map == maps.argmax()
    for i, top in enumerate((0, 8, 16)):
        for j, left in enumerate((0, 8, 16)):
            copy = pixels.copy()
            copy[0, top : top + 8, left : left + 8] = 0  # the mean colour
            found = layers_of(subject, copy)
            total = np.asarray(found['conv2_1'])[0, ..., result.map].sum()
            np.testing.assert_allclose(result.activation[i, j], total, rtol=1e-4)
            posteriors = np.asarray(jax.nn.softmax(found['logits'][0, 0, 0]))
            np.testing.assert_allclose(result.probability[i, j], posteriors[0], rtol=1e-4)
            assert result.classes[i, j] == posteriors.argmax()


def test_transformations_move_pixels_where_they_should():
    image = random_images(1, small_network()[0])[0]
    colour = (1.0, 2.0, 3.0)
    down = invariance.transformed(image, invariance._shift(5, 24), colour)
    np.testing.assert_array_equal(down[5:], image[:-5])
    assert (down[:5] == (1, 2, 3)).all()
    turned = invariance.transformed(image, invariance._turn(90, 24), colour)
    np.testing.assert_allclose(turned.astype(int), np.rot90(image).astype(int), atol=1)
    same = invariance.transformed(image, invariance._scale(1.0, 24), colour)
    np.testing.assert_array_equal(same, image)
    smooth = np.tile(np.linspace(0, 230, 24)[None, :, None], (24, 1, 3)).astype(np.uint8)
    doubled = invariance.transformed(smooth, invariance._scale(2.0, 24), colour)
    wanted = np.interp((np.arange(24) - 11.5) / 2 + 11.5, np.arange(24), smooth[0, :, 0])
    np.testing.assert_allclose(doubled[12, :, 0], wanted, atol=1.5)


def test_invariance_is_the_distance_of_features(subject):
    subject, images = subject
    curves = list(invariance.measure(subject, ('conv1_1', 'fc7'), [0, 2]))
    assert [(c.key, c.transformation.name) for c in curves] == [
        (f'random[{index}]', name)
        for name in ('translation', 'scale', 'rotation')
        for index in (0, 2)
    ]
    still = {'translation': 12, 'scale': 0, 'rotation': 0}  # where nothing is moved
    for curve in curves:
        at = still[curve.transformation.name]
        for distances in curve.distances.values():
            assert distances[at] < 1e-4 * distances.max()
    curve, amount = curves[1], 7
    affine = invariance._shift(float(curve.amounts[amount]), 24)
    moved = invariance.transformed(images[2], affine, subject.network.data.mean)
    both = layers_of(subject, subject.network.pixels(np.stack([images[2], moved])))
    for name in ('conv1_1', 'fc7'):
        one, two = np.float64(both[name])
        np.testing.assert_allclose(
            curve.distances[name][amount], np.linalg.norm(one - two), rtol=1e-3
        )
    posteriors = np.asarray(jax.nn.softmax(both['logits'][1, 0, 0]))
    np.testing.assert_allclose(curve.probability[amount], posteriors[0], rtol=1e-3)
