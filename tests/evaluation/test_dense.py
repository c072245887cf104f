"""Fully connected layers as convolutions: the same numbers, window by window."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_arch import models
from cnn_arch.errors import UserError
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.dense import to_convolutional
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.models import resnet, vgg
from tests.evaluation.common import CLASSES, Pictures, mesh_of, random_variables, small_config

NARROW_D = (4, 4, 'M', 8, 8, 'M', 8, 8, 8, 'M', 16, 16, 16, 'M', 16, 16, 16, 'M')


@pytest.fixture(scope='module')
def network():
    model = vgg.VGG(NARROW_D, CLASSES, fc_units=32)
    return model, random_variables(model, 224)


def fully_connected(params, name, x):
    return x @ np.asarray(params[name]['kernel'], np.float64) + params[name]['bias']


def class_score_map(params, pool5):
    """fc6, fc7 and fc8 as matrices, applied to each 7x7 window of one image's map."""
    rows = []
    for top in range(pool5.shape[0] - 6):
        row = []
        for left in range(pool5.shape[1] - 6):
            x = pool5[top : top + 7, left : left + 7].reshape(-1).astype(np.float64)
            for name in ('fc6', 'fc7'):
                x = np.maximum(fully_connected(params, name, x), 0)
            row.append(fully_connected(params, 'fc8', x))
        rows.append(row)
    return np.asarray(rows)


def test_same_scores_at_the_training_size(network):
    model, variables = network
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    dense, dense_variables = to_convolutional(model, variables, 224)
    assert dense_variables['params']['fc6']['kernel'].shape == (7, 7, 16, 32)
    expected, _ = jax.jit(model.apply)(variables, images)
    found, _ = jax.jit(dense.apply)(dense_variables, images)
    assert found.shape == (2, 1, 1, CLASSES)
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(257, 391), (288, 225)])
def test_class_score_map_window_by_window(network, size):
    model, variables = network
    image = np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)
    dense, dense_variables = to_convolutional(model, variables, 224)
    scores, endpoints = jax.jit(dense.apply)(dense_variables, image)
    expected = class_score_map(variables['params'], np.asarray(endpoints['pool5'][0]))
    assert scores.shape[1:3] == (size[0] // 32 - 6, size[1] // 32 - 6)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-5)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize('average', ['scores', 'posteriors'])
def test_evaluation_is_the_mean_of_the_map_and_of_the_flips(network, average):
    """On 257 x 391 pixels, through the whole of `evaluate`."""
    model, variables = network
    source = Pictures([(257, 391)])
    config = small_config('dense')
    config.model.options.layers, config.model.options.fc_units = NARROW_D, 32
    config.model.options.input_size = config.data.augment.size = 224
    config.eval.scale, config.eval.average, config.eval.batch_size = 257, average, 1
    result = evaluate(models.build(config.model), variables, source, config, mesh_of(1))

    picture = np.asarray(source_pixels(source), np.float64)
    pixels = (picture - np.asarray(config.data.mean)) / np.asarray(config.data.std)
    dense, dense_variables = to_convolutional(model, variables, 224)
    posteriors = []
    for view in (pixels, pixels[:, ::-1]):
        view = view[None].astype(np.float32)
        _, endpoints = jax.jit(dense.apply)(dense_variables, view)
        scores = class_score_map(variables['params'], np.asarray(endpoints['pool5'][0]))
        if average == 'scores':
            posteriors.append(softmax(scores.mean(axis=(0, 1))))
        else:
            posteriors.append(softmax(scores).mean(axis=(0, 1)))
    expected = np.mean(posteriors, axis=0)
    np.testing.assert_array_equal(result.classes[0], np.argsort(-expected)[:5])
    np.testing.assert_allclose(result.probabilities[0], np.sort(expected)[::-1][:5], rtol=1e-4)


def source_pixels(source):
    return Image.open(io.BytesIO(source[0].image)).convert('RGB')


def test_network_without_fully_connected_layers_stays_as_it_is():
    model = resnet.ResNet((1, 1, 1, 1), bottleneck=False, num_classes=CLASSES)
    variables = random_variables(model, 32)
    same, kept = to_convolutional(model, variables, 32)
    assert same is model
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b or (a == b).all(), kept, variables))


def test_too_small_images_are_named():
    config = small_config('dense')
    config.eval.scale = 24
    model = models.build(config.model)
    network = networks.Network.create(model, config, protocols.resolve(config), mesh_of(1))
    variables = random_variables(model, 32)
    with pytest.raises(Exception, match=r'smaller than|too small|takes 32x32'):
        jax.eval_shape(network.dense_posteriors, variables, jnp.zeros((1, 24, 40, 3), jnp.uint8))


@pytest.fixture(scope='module')
def pooled():
    model = resnet.ResNet((1, 1, 1, 1), bottleneck=False, num_classes=CLASSES)
    return model, random_variables(model, 64)


class TestSliding:
    """ResNet's 7x7 pooling in steps of one place, held against a loop over the windows."""

    def scores(self, variables, place):
        """float64 scores of each 7x7 window of one image's last map."""
        kernel, bias = (np.asarray(variables['params']['fc'][k], np.float64)
                        for k in ('kernel', 'bias'))  # fmt: skip
        rows, columns = place.shape[0] - 6, place.shape[1] - 6
        return np.asarray([
            [place[t : t + 7, s : s + 7].astype(np.float64).mean(axis=(0, 1)) @ kernel + bias
             for s in range(columns)] for t in range(rows)
        ])  # fmt: skip

    @pytest.mark.parametrize('average', ['scores', 'posteriors'])
    def test_windows_one_by_one_also_on_a_canvas(self, pooled, average) -> None:
        model, variables = pooled
        config = small_config('resnet_multiscale_sliding')
        config.model.name, config.eval.average = 'resnet', average
        config.data.augment.size = 224
        plan = protocols.resolve(config)
        assert plan.average == average
        made = networks.Network.create(model, config, plan, mesh_of(1))
        sizes = [(230, 300), (289, 225)]
        rng, canvas = np.random.default_rng(0), np.zeros((2, 289, 300, 3), np.uint8)
        expected = []
        for row, (height, width) in enumerate(sizes):
            image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            canvas[row, :height, :width] = image
            pixels = (image - np.float32(config.data.mean)) / np.float32(config.data.std)
            _, endpoints = jax.jit(model.apply)(variables, pixels[None].astype(np.float32))
            scores = self.scores(variables, np.asarray(endpoints['conv5_1'][0]))
            assert scores.shape[:2] == (-(-height // 32) - 6, -(-width // 32) - 6)
            if average == 'scores':
                expected.append(softmax(scores.mean(axis=(0, 1))))
            else:
                expected.append(softmax(scores).mean(axis=(0, 1)))
        ragged = made.ragged()
        facts = ragged.facts(np.asarray(sizes))
        found = jax.jit(ragged)(variables, canvas, facts)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    def test_other_networks_have_no_such_pooling(self) -> None:
        with pytest.raises(UserError, match='is for resnet: vgg has no pooling of 7x7'):
            protocols.resolve(small_config('resnet_multiscale_sliding'))
