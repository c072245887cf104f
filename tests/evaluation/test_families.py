"""The views of every protocol against the slow loop, for a network of each family.

test_evaluate.py holds each protocol by itself, with a VGG; here all kinds of views are averaged in
one evaluation: the centre, ten crops, the grid of 25, GoogLeNet's squares, and the whole image.
"""

import jax
import numpy as np
import pytest

from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.protocols import VIEWS
from cnn_arch.evaluation.store import Store
from cnn_arch.models import bn_inception, googlenet
from tests.evaluation import test_ragged
from tests.evaluation.common import CLASSES, Pictures, SlowLoop, mesh_of, random_variables
from tests.evaluation.common import small_config as vgg_config

# Of posteriors: Pillow's resizing in the slow loop may round a pixel to the next grey level.
TOLERANCE = 1e-2


def undecided(model, size):
    """Random variables whose posteriors are neither all alike nor 0 and 1: logits of about 5."""
    variables = random_variables(model, size)
    pixels = np.random.default_rng(0).uniform(-120, 130, (2, size, size, 3)).astype(np.float32)
    logits, _ = jax.jit(model.apply)(variables, pixels)
    factor = 5 / np.abs(logits).max()

    def scaled(path, leaf):
        is_last = path[-1].key == 'kernel' and leaf.shape[-1] == CLASSES
        return factor * leaf if is_last else leaf

    return jax.tree_util.tree_map_with_path(scaled, variables)


@pytest.mark.slow
@pytest.mark.parametrize('family', test_ragged.FAMILIES)
def test_all_views_equal_the_slow_loop(family: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(googlenet, 'TABLE_1', test_ragged.NARROW_GOOGLENET)
    monkeypatch.setattr(bn_inception, 'FIGURE_5', test_ragged.NARROW_BN_INCEPTION)
    model, size = test_ragged.FAMILIES[family]
    config = vgg_config('googlenet_144')
    config.data.augment.size = size
    config.eval.scales, config.eval.views = (size + 8, size + 16), tuple(VIEWS)
    source = Pictures([(size + 20, size + 55), (size + 70, size + 11)])
    variables = undecided(model, size)
    store = Store(tmp_path, len(source), CLASSES)
    evaluate(model, variables, source, config, mesh_of(1), store=store)
    slow = SlowLoop(config, variables, model)
    expected = slow.posteriors(source, config.eval.scales, config.eval.views)
    error = np.abs(store.posteriors - expected).max()
    assert error < TOLERANCE

    # The comparison sees what it is for: one kind of view left out.
    changes = []
    for missing in VIEWS:
        others = [view for view in VIEWS if view != missing]
        less = slow.posteriors(source, config.eval.scales, others, count=1)
        changes.append(np.abs(less[0] - expected[0]).max())
    assert max(changes) > 3 * error
