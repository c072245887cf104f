"""The README's picture is what its command makes of the real weights and pictures."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from cnn_arch.deconvnet import __main__ as command
from cnn_arch.weights import importer
from tests.shared import ROOT, shared_data

README = (ROOT / 'README.md').read_text()


def words_of_the_readme():
    text = re.search(r'^python -m cnn_arch\.deconvnet (--config=.*?[^\\])\n', README, re.M | re.S)[
        1
    ]
    return shlex.split(text.replace('\\\n', ' '))


def test_the_picture_is_small_and_its_command_is_complete():
    assert (ROOT / 'docs' / 'deconvnet_alexnet.jpg').stat().st_size < 400_000
    words = words_of_the_readme()
    assert '--show=projections' in words  # photographs are not for us to publish
    assert {word.partition('=')[0] for word in words} >= {'--config', '--weights', '--out'}


@pytest.mark.slow
def test_the_command_makes_the_picture(tmp_path):
    config = 'configs/alexnet.py:one_tower'
    source = shared_data('weights') / 'alexnet_torchvision_features.safetensors'
    importer.import_weights(source, '', config, [], tmp_path / 'weights', partial=True)
    places = {'WEIGHTS': tmp_path / 'weights', 'PICTURES': shared_data('ilsvrc_sample'),
              'gallery': tmp_path / 'gallery'}  # fmt: skip
    words = [
        f'{option}={places.get(value, value)}'
        for option, _, value in (word.partition('=') for word in words_of_the_readme())
    ]
    assert command.main(words) == 0
    made, shown = (
        np.asarray(Image.open(path).convert('RGB')).astype(int)
        for path in (tmp_path / 'gallery' / 'overview.jpg', ROOT / 'docs' / 'deconvnet_alexnet.jpg')
    )
    assert made.shape == shown.shape
    assert np.abs(made - shown).mean() < 2, 'docs/deconvnet_alexnet.jpg is stale: run the command'
