"""The principal components of colours, against numpy and against the published ones."""

import numpy as np
import pytest

from cnn_arch.data import colour, sources
from cnn_arch.errors import UserError
from configs import base
from tests.shared import shared_data


def source_of(images) -> sources.ArraySource:
    return sources.ArraySource(
        'test', ('a', 'b'), len(images), images, np.zeros(len(images), np.int32)
    )


def test_moments_and_components():
    rng = np.random.default_rng(0)
    mixing = np.array([[60, 10, 3], [55, -2, -6], [50, -9, 4]])
    values = 128 + rng.uniform(-1, 1, (5, 40, 30, 3)) @ mixing.T
    images = values.round().astype(np.uint8)
    mean, deviation, eigenvalues, vectors = colour.components(source_of(images), 5)
    flat = images.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(mean, flat.mean(0))
    np.testing.assert_allclose(deviation, flat.std(0))
    covariance = np.cov((flat / 255).T, bias=True)
    np.testing.assert_allclose(vectors @ np.diag(eigenvalues) @ vectors.T, covariance, atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert eigenvalues[0] > eigenvalues[1] > eigenvalues[2] > 0


def test_of_real_pictures_they_are_about_the_published_ones():
    """The unit too: eigenvalues of the covariance, not standard deviations, of pixels in [0, 1]."""
    config = base.get_config()
    config.data.source, config.data.dir = 'folder', str(shared_data('ilsvrc_sample'))
    source = sources.open_source(config.data, 'train')
    mean, deviation, eigenvalues, vectors = colour.components(source, 100)
    augment = config.data.augment
    assert np.abs(mean - config.data.mean).max() < 12
    assert np.abs(deviation - 255 * np.array([0.229, 0.224, 0.225])).max() < 20
    np.testing.assert_allclose(eigenvalues, augment.pca_eigenvalues, rtol=0.35)
    cosines = np.abs((vectors * np.array(augment.pca_eigenvectors)).sum(0))
    assert cosines.min() > 0.98


def test_command(capsys, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    monkeypatch.setattr(sources, 'open_source', lambda *_: source_of(images))
    colour.main(['--config=configs/vgg.py:D', '--images=3'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'of 3 images of test:'
    flags = [line.replace("'", '') for line in lines[1:]]
    # What it prints can be given to train.py as it stands.
    colour.main(['--config=configs/vgg.py:D', '--images=3', *flags])


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--config=configs/vgg.py:D', '--images=0'], 'at least one'),
        (['--config=configs/lenet.py:lenet5'], 'channels=3'),
    ],
)
def test_mistakes(flags, message):
    with pytest.raises(UserError, match=message):
        colour.main(flags)
