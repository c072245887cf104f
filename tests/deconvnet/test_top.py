"""The streamed top nine against a sort of everything, and its memory."""

import gc

import jax
import numpy as np
import pytest

from cnn_arch.data.sources import ArraySource
from cnn_arch.deconvnet import top
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.subject import Subject
from cnn_arch.errors import UserError
from tests.deconvnet.common import random_images, small_config, small_network


def pictures_of(images, config):
    source = ArraySource(
        'random', tuple('abcde'), len(images), images, np.zeros(len(images), np.int32)
    )
    return Pictures(source, config)


def found_by(devices, images, batch):
    config = small_config()
    network, variables = small_network(config, devices)
    layers = {name: network.fields(variables)[name] for name in ('conv1_1', 'conv3_1', 'logits')}
    found = top.strongest(Subject(network, variables, pictures_of(images, config), batch), layers)
    return network, variables, found


@pytest.mark.parametrize('devices', [1, 8])
def test_are_those_of_a_full_sort(devices):
    images = random_images(43, small_network()[0])
    images[11] = images[3]  # equal activations: the earlier image comes first
    network, variables, found = found_by(devices, images, 8)
    everything = jax.jit(network.layers)(variables, network.pixels(images))
    for name, best in found.items():
        flat = np.asarray(everything[name]).reshape(43, -1, best.values.shape[1])
        strongest = flat.max(axis=1)
        order = np.argsort(-strongest, axis=0, kind='stable')[:9]
        values = np.take_along_axis(strongest, order, axis=0)
        np.testing.assert_allclose(best.values, values, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(best.images, order)
        places = flat.argmax(axis=1)[order, np.arange(order.shape[1])]
        np.testing.assert_array_equal(best.places, places)


def test_images_that_do_not_decode_are_left_out_or_stop(caplog):
    config = small_config()
    config.data.on_bad_image = 'skip'
    images = list(random_images(12, small_network()[0]))
    images[5] = b'no picture'
    network, variables = small_network(config)
    layers = {'conv1_1': network.fields(variables)['conv1_1']}
    with caplog.at_level('INFO'):
        best = top.strongest(Subject(network, variables, pictures_of(images, config), 8), layers)[
            'conv1_1'
        ]
    assert 5 not in best.images
    assert 'left out: random[5]' in caplog.text
    config.data.on_bad_image = 'stop'
    with pytest.raises(UserError, match=r'random\[5\].*on_bad_image=skip'):
        top.strongest(Subject(network, variables, pictures_of(images, config), 8), layers)


def test_fewer_images_than_nine():
    with pytest.raises(UserError, match=r'random has 8 images: the top nine of a map need .* 9'):
        found_by(1, random_images(8, small_network()[0]), 8)


def test_memory_does_not_grow_with_the_stream(monkeypatch):
    """Arrays alive on the devices, and images read but not yet used, at every batch."""

    class Stream(Pictures):
        def __len__(self):
            return count

        def read(self, index):
            nonlocal reading
            reading = max(reading, index)
            return images[index % len(images)]

    config = small_config()
    network, variables = small_network(config)
    images = random_images(16, network)
    layers = {'conv1_1': network.fields(variables)['conv1_1']}
    peaks = []
    merge = top.merge

    def watched(*arguments):
        nonlocal ahead
        result = merge(*arguments)
        live.append(sum(array.nbytes for array in jax.live_arrays()))
        last = int(np.asarray(arguments[3]).max())
        ahead = max(ahead, reading - last)
        return result

    monkeypatch.setattr(top, 'merge', watched)
    for count in (64, 640):
        live, reading, ahead = [], 0, 0
        gc.collect()
        stream = Stream(pictures_of(images, config).source, config)
        top.strongest(Subject(network, variables, stream, 8), layers)
        assert len(live) == count // 8
        peaks.append((max(live), ahead))
    (short, ahead_short), (long, ahead_long) = peaks
    assert long <= short + 8 * images[0].nbytes  # at most one batch more on its way
    assert ahead_long <= 2 * 32 + 8
    assert ahead_short > 0
