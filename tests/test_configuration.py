"""Every configuration of the papers: found by name, complete, locked, valid."""

import pathlib

import ml_collections
import pytest

from cnn_arch import configuration, models
from cnn_arch.errors import UserError
from cnn_arch.models import build, xception
from cnn_arch.models.layers import BatchNormSettings
from configs import base

NAMES = [
    f'{path}:{variant}'
    for path in configuration.papers()
    for variant in configuration.variants(path)
]


@pytest.mark.parametrize('name', NAMES, ids=lambda name: pathlib.Path(name).name)
def test_each_is_locked_valid_and_complete(name):
    config = configuration.load(name)
    assert config.is_locked
    configuration.validate(config)
    build(config.model)
    reference = base.get_config()
    for key, value in reference.items():
        if isinstance(value, ml_collections.ConfigDict):
            assert set(config[key]) == set(value), key
    assert set(config) == set(reference)


@pytest.mark.parametrize('path', configuration.papers(), ids=lambda path: path.stem)
def test_each_file_makes_its_claim(path):
    module = configuration.load(str(path))  # without a variant: the file's own choice
    assert module.is_locked
    text = path.read_text()
    for word in ('Command:', 'Hardware:', 'Expected:', 'Departures:'):
        assert text.count(word) >= 1, f'{path.name} has no {word}'
    assert f'configs/{path.name}' in text


def test_a_file_may_lie_anywhere(tmp_path):
    own = tmp_path / 'mine.py'
    own.write_text(
        'from configs import vgg\n'
        "VARIANTS = ('narrow',)\n"
        "def get_config(variant='narrow'):\n"
        "    config = vgg.get_config('A')\n"
        '    with config.unlocked():\n'
        '        config.model.options.fc_units = 64\n'
        '    return config\n'
    )
    assert configuration.load(f'{own}:narrow').model.options.fc_units == 64
    with pytest.raises(UserError, match=r"mine.py has no variant 'D': choose one of narrow"):
        configuration.load(f'{own}:D')


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        ({'colour_jitter': 1.5}, 'colour_jitter = 1.5: it must be a finite number, 0 or more'),
        ({'colour_jitter': -0.4}, 'colour_jitter = -0.4: it must be a finite number, 0 or more'),
        ({'colour_jitter': 0.4, 'photometric': True}, 'both change contrast'),
        ({'crop': 'random'}, "crop = 'random': choose one of"),
    ],
)
def test_impossible_augmentation_is_one_line(keys, message):
    config = configuration.load('configs/vgg.py:D')
    config.data.augment.update(keys)
    with pytest.raises(UserError, match=message) as caught:
        configuration.validate(config)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', NAMES, ids=lambda name: pathlib.Path(name).name)
def test_batch_normalisation_is_that_of_the_models_file(name):
    """A network built by hand and one built from its config normalise alike."""
    config = configuration.load(name).model
    cls, variants = models.MODELS[config.name]
    built = build(config)
    if getattr(built, 'batch_norm', None) is None:
        return
    by_hand = cls(**variants[config.variant]).batch_norm
    for key in ('momentum', 'epsilon'):
        assert getattr(built.batch_norm, key) == getattr(by_hand, key), key


def test_batch_normalisation_has_one_source(monkeypatch):
    other = BatchNormSettings(momentum=0.5, epsilon=0.25)
    monkeypatch.setattr(xception, 'BATCH_NORM', other)
    built = build(configuration.load('configs/xception.py:xception').model)
    assert (built.batch_norm.momentum, built.batch_norm.epsilon) == (0.5, 0.25)
    monkeypatch.setattr(BatchNormSettings, 'epsilon', 0.125)
    assert base.get_config().model.batch_norm.epsilon == 0.125
