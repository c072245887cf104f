"""Batches drawn as arrays: equal to a slow loop, and to the reader of single images."""

import pathlib
import types

import numpy as np
import pytest

from cnn_arch import configuration
from cnn_arch.data import arrays, loader, preprocess, sources
from cnn_arch.errors import UserError

IMAGES, SIDE = 24, 9


def source_of(side: int = SIDE) -> sources.ArraySource:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    return sources.ArraySource(
        'noise', sources.DIGITS, IMAGES, images, np.arange(IMAGES, dtype=np.int32) % 10
    )


def config_of(**augment):
    config = configuration.load('configs/resnet.py:cifar-20')
    with config.unlocked():
        config.data.augment.update({'size': SIDE, 'padding': 2, **augment})
    return config


def test_a_sample_is_a_window_of_the_padded_normalised_image() -> None:
    """The paper's words in a slow loop: subtract, pad with zeros, cut, flip."""
    config, source, step = config_of(), source_of(), 3
    batch = loader.host_batch(loader.reader_of(source, config), 8, slice(0, 8), step)
    ours = np.asarray(preprocess.normalise(batch, config.data), np.float64)
    seen = set()
    for row, position in enumerate(range(step * 8, step * 8 + 8)):
        epoch, place = divmod(position, IMAGES)
        index = loader.permutation(config.seed, epoch, IMAGES)[place]
        assert batch['label'][row] == source.labels[index]
        words = np.random.Philox(key=config.seed, counter=[position, 0, 0, 3]).random_raw(4)
        top, left, mirror = int(words[0]) % 5, int(words[1]) % 5, int(words[2]) % 2
        image = source.images[index] - np.float64(config.data.mean)
        padded = np.zeros((SIDE + 4, SIDE + 4, 3))
        padded[2 : 2 + SIDE, 2 : 2 + SIDE] = image
        window = padded[top : top + SIDE, left : left + SIDE]
        np.testing.assert_allclose(ours[row], window[:, ::-1] if mirror else window, atol=1e-5)
        seen.add((top, left, mirror))
    assert len(seen) > 4


def test_every_place_and_both_directions_are_equally_likely() -> None:
    corners, mirrored = arrays.windows(0, range(90_000), 1)
    assert abs(mirrored.mean() - 0.5) < 0.01
    places = (corners[:, 0] + 1) * 3 + corners[:, 1] + 1
    np.testing.assert_allclose(np.bincount(places, minlength=9) / 90_000, 1 / 9, atol=0.005)


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_the_stream_is_the_same_for_any_number_of_hosts(hosts: int) -> None:
    """Also over the end of an epoch, which lies within a batch here."""
    config, source = config_of(), source_of()
    reader, part = loader.reader_of(source, config), 16 // hosts
    one = loader.host_batch(reader, 16, slice(0, 16), 1)
    several = [
        loader.host_batch(reader, 16, slice(h * part, (h + 1) * part), 1) for h in range(hosts)
    ]
    for key, value in one.items():
        np.testing.assert_array_equal(value, np.concatenate([piece[key] for piece in several]))


def test_as_they_are_images_are_those_of_the_other_reader() -> None:
    config, source = config_of(crop='none', mirror=False), source_of()
    reader = loader.reader_of(source, config)
    assert isinstance(reader, arrays.ArrayReader)
    one = reader.batch(range(5, 40))
    other = loader.SampleReader(source, config).batch(range(5, 40))
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key])
        assert value.dtype == other[key].dtype


@pytest.mark.parametrize('augment', [{'crop': 'none'}, {'crop': 'none', 'size': 8}])
def test_whatever_else_is_drawn_is_drawn_image_by_image(augment) -> None:
    config = config_of(**augment)
    assert isinstance(loader.reader_of(source_of(), config), loader.SampleReader)


def test_what_padding_does_not_go_with() -> None:
    augment = config_of().data.augment
    arrays.check(source_of(), augment)
    with pytest.raises(UserError, match='9 pixels'):
        arrays.check(source_of(side=12), augment)
    files = sources.FileSource('folder', ('a',), 1, pathlib.Path(), [], [])
    with pytest.raises(UserError, match='not folder'):
        arrays.check(files, augment)
    with pytest.raises(UserError, match='pca_colour'):
        arrays.check(source_of(), config_of(pca_colour=0.1).data.augment)


def test_without_padding_nothing_is_zeroed() -> None:
    data = types.SimpleNamespace(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    images = source_of().images[:2]
    plain = np.asarray(preprocess.normalise({'image': images}, data))
    corner = np.zeros((2, 2), np.int32)
    np.testing.assert_array_equal(
        plain, preprocess.normalise({'image': images, 'corner': corner}, data)
    )
