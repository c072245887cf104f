"""Whole-image evaluation of 300 real pictures in their own aspect ratios, family by family.

Each must get the posteriors that it gets when run alone at its own size: decoded and resized like
any other, but never padded, in a program compiled for its shape.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_arch import configuration, models
from cnn_arch.data import decode, sources
from cnn_arch.data.sources import Example
from cnn_arch.evaluation import dense
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.store import Store
from cnn_arch.models import bn_inception, googlenet
from tests.evaluation import test_ragged
from tests.evaluation.common import CLASSES, mesh_of, random_variables, small_config
from tests.shared import shared_data

pytestmark = pytest.mark.slow
MOST_COMPILATIONS = 8  # for one scale
TOLERANCE = 1e-4


class Unlabelled:
    """The pictures of a source, all of the first class."""

    name = 'real pictures'
    num_classes = CLASSES

    def __init__(self, folder: pathlib.Path):
        self.files = sorted(folder.rglob('*.JPEG'))
        self.complete = len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.files[index].read_bytes(), 0, self.files[index].name)


def alone(model, variables, config, source) -> np.ndarray:
    """[images, classes]: each picture and its mirror image by itself, through fresh arithmetic."""
    network, reshaped = dense.to_convolutional(model, variables, config.data.augment.size)

    # What compiles fast is another program than the one under test, too.
    @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
    def run(pixels: jax.Array) -> jax.Array:
        scores, _ = network.apply(reshaped, pixels)
        return scores if scores.ndim == 2 else scores.mean((1, 2))

    result = []
    for index in range(len(source)):
        encoded = source[index].image
        height, width = decode.image_size(encoded)
        size = decode.isotropic_size(height, width, config.eval.scale)
        image = decode.crop_and_resize(encoded, (0, 0, height, width), size)
        pixels = (image.astype(np.float32) - config.data.mean) / np.asarray(config.data.std)
        both = [run(jnp.asarray(view[None], jnp.float32)) for view in (pixels, pixels[:, ::-1])]
        result.append(np.mean([jax.nn.softmax(scores[0]) for scores in both], axis=0))
    return np.stack(result)


def check(model, variables, config, source, folder: pathlib.Path) -> None:
    assert len(source) >= 250
    store = Store(folder, len(source), config.model.num_classes)
    result = evaluate(model, variables, source, config, mesh_of(1), store=store)
    (usage,) = result.usage
    print(usage)
    assert result.n == len(source)
    assert len(usage.shapes) > 50  # in thousands on ILSVRC's 50,000
    assert len(usage.canvases) <= MOST_COMPILATIONS
    expected = alone(model, variables, config, source)
    # The network tells pictures apart by far more than what may differ below.
    assert np.std(expected, axis=0).max() > 10 * TOLERANCE * expected.max()
    assert test_ragged.error(np.asarray(store.posteriors), expected) < TOLERANCE


@pytest.mark.parametrize('family', test_ragged.FAMILIES)
def test_families(family: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks with all the parts of the family's; shorter sides of 72 (or 232) pixels."""
    monkeypatch.setattr(googlenet, 'TABLE_1', test_ragged.NARROW_GOOGLENET)
    monkeypatch.setattr(bn_inception, 'FIGURE_5', test_ragged.NARROW_BN_INCEPTION)
    model, base = test_ragged.FAMILIES[family]
    config = small_config('dense')
    config.data.augment.size, config.eval.scale, config.eval.batch_size = base, base + 8, 16
    source = Unlabelled(shared_data('ilsvrc_sample'))
    check(model, random_variables(model, base), config, source, tmp_path / 'kept')


def test_alexnet_in_full(tmp_path: pathlib.Path) -> None:
    """The paper's widths, 1,000 classes and test scale."""
    config = configuration.load('configs/alexnet.py:two_tower')
    with config.unlocked():
        config.data.source, config.data.dir = 'folder', str(shared_data('ilsvrc_sample'))
    config.eval.protocol, config.eval.batch_size = 'dense', 8
    model = models.build(config.model)
    source = sources.open_for(config, 'eval')
    check(model, random_variables(model, 224), config, source, tmp_path / 'kept')
