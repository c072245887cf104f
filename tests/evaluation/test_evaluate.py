"""Every protocol against the slow loop; every image once, on any number of devices."""

import logging

import jax
import numpy as np
import pytest

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.data.sources import Example
from cnn_arch.errors import UserError
from cnn_arch.evaluation import evaluate as evaluation
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result
from tests.evaluation.common import (
    CLASSES,
    SIZES,
    Pictures,
    SlowLoop,
    mesh_of,
    random_variables,
    small_config,
)

# Pillow's resizing in the slow loop may round a pixel to the next grey level; a window one pixel
# off is ten times further away.
TOLERANCE = 6e-3
GOOGLENET_SCALES = (36, 40, 44, 48)


@pytest.fixture(scope='module')
def network():
    config = small_config()
    model = models.build(config.model)
    return model, random_variables(model, 32)


def assert_same(result: Result, posteriors: np.ndarray, tolerance: float) -> None:
    """The five classes and probabilities are those of [images, classes]."""
    best = np.argsort(-posteriors, axis=1, kind='stable')[:, :5]
    expected = np.take_along_axis(posteriors, best, axis=1)
    found = result.probabilities
    np.testing.assert_allclose(found, expected, atol=tolerance)
    by_class = np.take_along_axis(posteriors, result.classes.astype(int), axis=1)
    np.testing.assert_allclose(found, by_class, atol=tolerance)


@pytest.mark.parametrize(
    ('protocol', 'scales', 'views'),
    [
        ('center', (40,), ('center',)),
        ('ten_crop', (40,), ('ten_crop',)),
        ('vgg_150', (40, 72, 104), ('grid',)),
        ('googlenet_144', GOOGLENET_SCALES, ('googlenet',)),
        ('dense', (40,), ('whole',)),
        ('dense_multiscale', (36, 40, 44), ('whole',)),
        ('vgg_multicrop_and_dense', (36, 40, 44), ('grid', 'whole')),
    ],
)
def test_protocol_equals_the_slow_loop(network, protocol, scales, views):
    model, variables = network
    config = small_config(protocol)
    if len(scales) > 1 and protocol != 'vgg_150':  # that one tests around S = 72
        config.eval.scales = scales
    count = 4 if 'whole' in views else len(SIZES)
    if protocol == 'vgg_150':
        scales = (40, 72, 104)
    source = Pictures(SIZES[:count])
    slow = SlowLoop(config, variables)
    expected = slow.posteriors(source, scales, views)
    result = evaluate(model, variables, source, config, mesh_of(8))
    assert_same(result, expected, TOLERANCE)
    labels = np.asarray([example.label for example in source.examples])
    top1 = 100 * np.mean(expected.argmax(axis=1) != labels)
    assert result.n == len(source)
    assert result.top1_error == pytest.approx(top1)
    top5 = np.argsort(-expected, axis=1)[:, :5]
    assert result.top5_error == pytest.approx(100 * np.mean((top5 != labels[:, None]).all(axis=1)))


@pytest.mark.parametrize(
    ('protocol', 'scales', 'views'),
    [('densenet_10', (40,), ('corners',)), ('dense_multiscale', (36, 40), ('whole',))],
)
def test_scores_averaged_over_views_equal_the_slow_loop(network, protocol, scales, views):
    """Facebook's Torch code for ResNet sums scores over crops; any protocol can."""
    model, variables = network
    config = small_config(protocol)
    if protocol != 'densenet_10':
        config.eval.scales, config.eval.view_average = scales, 'scores'
    source = Pictures(SIZES[:4])
    expected = SlowLoop(config, variables, scores=True).posteriors(source, scales, views)
    result = evaluate(model, variables, source, config, mesh_of(1))
    assert_same(result, expected, TOLERANCE)
    # The comparison sees the difference: posteriors averaged are others.
    other = SlowLoop(config, variables).posteriors(source, scales, views)
    assert np.abs(other - expected).max() > 2 * TOLERANCE


def test_one_pixel_is_seen_by_the_comparison(network):
    _, variables = network
    config = small_config()
    slow, source = SlowLoop(config, variables), Pictures()
    for index in range(3):
        image = slow.resized(source[index].image, 40)
        moved = slow.center(image[:, 2:])  # its centre is one pixel to the right
        assert np.abs(moved - slow.center(image)).max() > 10 * TOLERANCE


@pytest.mark.parametrize('protocol', ['center', 'dense'])
def test_any_number_of_devices(network, protocol):
    model, variables = network
    config, source = small_config(protocol), Pictures()
    one, eight = (evaluate(model, variables, source, config, mesh_of(n)) for n in (1, 8))
    np.testing.assert_array_equal(one.classes, eight.classes)
    np.testing.assert_allclose(one.probabilities, eight.probabilities, rtol=1e-5)
    assert one.counted.all()


def test_many_rounds_and_late_sizes(network, monkeypatch):
    """Images of later rounds that fit on no canvas of the first are run at the end."""
    model, variables = network
    config, source = small_config('dense'), Pictures()
    expected = evaluate(model, variables, source, config, mesh_of(1))
    monkeypatch.setattr(evaluation, 'ROUND', 3)
    result = evaluate(model, variables, source, config, mesh_of(1))
    np.testing.assert_allclose(result.probabilities, expected.probabilities, rtol=1e-5)
    assert result.counted.all()


@pytest.mark.parametrize('protocol', ['ten_crop', 'dense'])
def test_compiled_once(network, protocol, monkeypatch):
    model, variables = network
    config, source = small_config(protocol), Pictures()
    name = 'dense_posteriors' if protocol == 'dense' else 'posteriors'
    traced = []
    function = getattr(networks.Network, name)
    monkeypatch.setattr(
        networks.Network, name, lambda *args: traced.append(args) or function(*args)
    )
    config.data.mean = (1.0, 2.0, 3.0)  # not compiled by another test
    evaluate(model, variables, source, config, mesh_of(8))
    first = len(traced)
    again = models.build(config.model)
    result = evaluate(again, variables, source, config.copy_and_resolve_references(), mesh_of(8))
    assert first > 0
    assert len(traced) == first
    config.data.mean = (3.0, 2.0, 1.0)
    other = evaluate(model, variables, source, config, mesh_of(8))
    assert not np.array_equal(result.probabilities, other.probabilities)


def test_devices_need_not_talk(network):
    """Nothing compiled for a batch over eight devices has a collective in it."""
    model, variables = network
    config, mesh = small_config('dense'), mesh_of(8)
    source = networks.Network.create(model, config, protocols.resolve(config), mesh)
    batch = {
        'images': np.zeros((8, 40, 56, 3), np.uint8),
        'corners': np.zeros((8, 2, 2), np.int32),
        'total': np.zeros((8, CLASSES), np.float32),
        'widths': np.full(8, 50, np.int32),
        'facts': source.ragged().facts(np.full((8, 2), 40)),
    }
    batch = meshes.to_devices(mesh, batch, 8)
    placed = meshes.place(mesh, variables)
    images, weight = batch['images'], np.float32(1)
    windows = networks.cut_window(images, batch['corners'], 0, np.bool_(True), 32, mesh)
    lowered = [
        networks.cut_window.lower(images, batch['corners'], 0, np.bool_(True), 32, mesh),
        networks.mirror.lower(images, batch['widths'], mesh),
        networks.add_windows.lower(batch['total'], weight, placed, windows, source),
        networks.add_whole.lower(batch['total'], weight, placed, images, batch['facts'], source),
    ]
    for one in lowered:
        text = one.compile().as_text()
        assert 'num_partitions=8' in text
        for name in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute'):
            assert name not in text


def test_grey_images_of_the_test_scale_are_not_resampled():
    """28 x 28 digits at eval.scale = 28: the network sees the stored pixels."""
    config = small_config()
    with config.unlocked():
        config.data.channels, config.data.mean, config.data.std = 1, (0.0,), (255.0,)
        config.model.name, config.model.variant = 'lenet1', 'LeNet-1'
        config.model.options = {}
        config.model.num_classes = 10
    config.data.augment.size = config.eval.scale = 28
    model = models.build(config.model)
    variables = random_variables(model, 28, channels=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)

    class Digits:
        name, num_classes, complete = 'digits', 10, 5

        def __len__(self):
            return 5

        def __getitem__(self, index):
            return Example(images[index], index, f'digit{index}')

    result = evaluate(model, variables, Digits(), config, mesh_of(8))
    logits, _ = model.apply(variables, images.astype(np.float32) / 255)
    expected = np.asarray(jax.nn.softmax(logits))
    assert_same(result, expected, 1e-5)


class TestBadImages:
    def source(self) -> Pictures:
        source = Pictures()
        truncated = source.examples[3].image[:400]
        source.examples[3] = Example(truncated, 0, 'truncated.JPEG')
        source.examples[5] = Example(b'not a picture', 0, 'text.JPEG')
        return source

    @pytest.mark.parametrize('protocol', ['center', 'dense_multiscale'])
    def test_skipped_and_marked(self, network, caplog, protocol):
        model, variables = network
        config = small_config(protocol)
        config.eval.scales = (36, 40)
        good = evaluate(model, variables, Pictures(), config, mesh_of(1))
        config.data.on_bad_image = 'skip'
        with caplog.at_level(logging.WARNING):
            result = evaluate(model, variables, self.source(), config, mesh_of(1))
        assert result.n == len(SIZES) - 2
        assert result.images == '9 of 11'
        assert 'n = 9 of 11' in str(result)
        kept = [i for i in range(len(SIZES)) if i not in (3, 5)]
        np.testing.assert_array_equal(result.counted, np.isin(np.arange(len(SIZES)), kept))
        np.testing.assert_allclose(result.probabilities[kept], good.probabilities[kept], rtol=1e-5)
        assert {'truncated.JPEG', 'text.JPEG'} == {
            word.rstrip(':') for word in caplog.text.split() if 'JPEG' in word
        }

    @pytest.mark.parametrize('protocol', ['center', 'dense'])
    def test_stop_names_the_image(self, network, protocol):
        model, variables = network
        with pytest.raises(UserError, match=r'text\.JPEG: not a picture.*on_bad_image=skip'):
            evaluate(model, variables, self.source(), small_config(protocol), mesh_of(1))
        source = self.source()
        del source.examples[5]
        with pytest.raises(UserError, match=r'truncated\.JPEG'):
            evaluate(model, variables, source, small_config(protocol), mesh_of(1))

    def test_nothing_left(self, network):
        model, variables = network
        config, source = small_config(), Pictures([])
        with pytest.raises(UserError, match='not one image'):
            evaluate(model, variables, source, config, mesh_of(1))

    def test_one_pixel_wide(self, network):
        model, variables = network
        for protocol in ('center', 'dense'):
            source = Pictures([(3, 1), (40, 50)])
            result = evaluate(model, variables, source, small_config(protocol), mesh_of(1))
            assert result.n == 2


def test_user_errors(network):
    model, variables = network
    config, source = small_config(), Pictures()
    source.examples[7] = Example(source.examples[7].image, CLASSES, 'off.JPEG')
    with pytest.raises(UserError, match=r'off\.JPEG: class 7 is out of range.* 7 classes'):
        evaluate(model, variables, source, config, mesh_of(1))
    config.eval.batch_size = 6
    with pytest.raises(UserError, match=r'eval\.batch_size = 6 does not divide over 8'):
        evaluate(model, variables, Pictures(), config, mesh_of(8))
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(UserError, match='not finite'):
        evaluate(model, broken, Pictures(), small_config(), mesh_of(1))


def test_result_formats():
    labels = np.asarray([1, 2, 3, 0])
    classes = np.asarray([[1, 0, 2, 3, 4], [1, 0, 2, 3, 4], [0, 1, 2, 4, 5], [3, 1, 2, 4, 0]])
    counted = np.asarray([True, True, True, False])
    result = Result('center', 50_000, labels, classes, np.zeros((4, 5)), counted, np.zeros((4, 2)))
    assert result.top1_error == pytest.approx(200 / 3)
    assert result.top5_error == pytest.approx(100 / 3)
    assert str(result) == 'top-1 error 66.67 %  top-5 error 33.33 %  n = 3 of 50,000'
