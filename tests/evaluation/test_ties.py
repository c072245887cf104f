"""Equal and broken scores: what decides, and what is said of it."""

import functools
import io
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_arch.data.sources import Example
from cnn_arch.errors import UserError
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result, ensemble, rank_of
from cnn_arch.evaluation.store import Store, best_of
from cnn_arch.models.layers import global_average_pool
from cnn_arch.training import step as steps
from tests.evaluation.common import CLASSES, Pictures, mesh_of, small_config


class Scored(nn.Module):
    """Scores `function(pixel)` [N, H, W, classes] of each pixel's first channel, or their mean."""

    function: Any
    pooled: bool = True
    num_classes: int = CLASSES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> tuple[Any, dict[str, Any]]:
        scores = self.function(images[..., :1] * jnp.ones(CLASSES))
        return (global_average_pool(scores) if self.pooled else scores), {}


def raw_config(protocol: str) -> Any:
    """The network reads the grey levels themselves."""
    config = small_config(protocol)
    config.data.mean, config.data.std = (0.0,) * 3, (1.0,) * 3
    return config


def plain_pictures(levels: list[int], sizes: Any = ((40, 57), (61, 44), (50, 50))) -> Pictures:
    """A picture of one grey level each, labels 0, 1, 2, ..."""
    source = Pictures([])
    for label, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        file = io.BytesIO()
        Image.fromarray(np.full((*size, 3), level, np.uint8)).save(file, 'PNG')
        source.examples.append(Example(file.getvalue(), label, f'level{level}.PNG'))
    source.complete = len(source)
    return source


# Networks are told apart by their text, so functions are not made on the way.


def equal(x: Any) -> Any:
    return 0 * x


def growing(x: Any) -> Any:
    return x * jnp.arange(CLASSES) / 1000


def infinite_where_black(x: Any) -> Any:
    return jnp.arange(CLASSES) / x


def with_a_bad_class(bad: float, x: Any) -> Any:
    return jnp.where((x == 100) & (jnp.arange(CLASSES) == 3), bad, x / 255)


def run(function: Any, levels: list[int], protocol: str, store: Store | None = None) -> Result:
    model = Scored(function, pooled=protocol == 'center')
    source = plain_pictures(levels)
    return evaluate(model, {}, source, raw_config(protocol), mesh_of(1), store=store)


@pytest.mark.parametrize('protocol', ['center', 'dense'])
def test_equal_scores_go_by_class_number_and_say_so(protocol, tmp_path):
    stores = [Store(tmp_path / name, 3, CLASSES) for name in ('one', 'two')]
    result = run(equal, [50, 100, 150], protocol, stores[0])
    np.testing.assert_array_equal(result.classes, [range(5)] * 3)
    assert result.top1_error == pytest.approx(200 / 3)  # the labels are 0, 1 and 2
    assert result.top5_error == 0
    said = (
        'ties, decided by class number: 3 images at rank 1, 3 at rank 5; the top-1 error lies '
        'between 0.00 and 100.00 %, the top-5 error lies between 0.00 and 100.00 %'
    )
    assert result.ties == said
    # Kept answers and ensembles of them say the same.
    assert run(equal, [50, 100, 150], protocol, stores[0]).ties == said
    run(equal, [50, 100, 150], protocol, stores[1])
    assert ensemble(stores, protocol, 3).ties == said


def test_members_that_number_their_classes_otherwise_are_no_ensemble(tmp_path):
    """As where the names of one's classes are not known, and their order is another."""
    stores = [Store(tmp_path / name, 3, CLASSES) for name in ('one', 'two')]
    for store, labels in zip(stores, ((0, 1, 2), (0, 2, 1)), strict=True):
        for index, label in enumerate(labels):
            store.add(index, label, np.full(CLASSES, 1 / CLASSES, np.float32))
    with pytest.raises(UserError, match=r'network 2 .* otherwise .* image 1 has class 2, not 1'):
        ensemble(stores, 'center', 3)


def test_without_ties_nothing_is_said():
    result = run(growing, [50, 100, 150], 'center')
    assert result.ties == ''
    np.testing.assert_array_equal(result.classes, [[6, 5, 4, 3, 2]] * 3)


def test_bounds_are_those_of_all_ways_to_decide():
    """Against sorting with the label put before, and behind, all that is as probable."""
    rng = np.random.default_rng(0)
    posteriors = rng.integers(0, 4, (200, 9)) / 16.0
    labels = rng.integers(0, 9, 200).astype(np.int32)
    ranks = np.asarray([rank_of(int(i), row) for i, row in zip(labels, posteriors, strict=True)])
    classes = np.stack([best_of(row, 5)[0] for row in posteriors])
    result = Result('center', 200, labels, classes, np.zeros((200, 5)), np.ones(200, bool), ranks)

    def errors(bonus: float, top: int) -> np.ndarray:
        moved = posteriors.copy()
        moved[np.arange(200), labels] += bonus
        best = np.argsort(-moved, axis=1, kind='stable')[:, :top]
        return (best != labels[:, None]).all(axis=1)

    for top, error in ((1, result.top1_error), (5, result.top5_error)):
        low, high = errors(+0.01, top), errors(-0.01, top)
        assert f'{(low != high).sum()} ' in result.ties
        words = f'top-{top} error lies between {100 * low.mean():.2f} and {100 * high.mean():.2f} %'
        assert words in result.ties
        assert 100 * low.mean() < error < 100 * high.mean()


@pytest.mark.parametrize('protocol', ['center', 'dense'])
@pytest.mark.parametrize('bad', [-np.inf, np.inf, np.nan])
def test_scores_that_are_not_finite_name_the_image(bad, protocol):
    """One class of one image; a softmax makes 0 of minus infinity."""
    with pytest.raises(UserError, match=r'image level100\.PNG: the scores .* not finite'):
        run(functools.partial(with_a_bad_class, bad), [50, 100, 150], protocol)


@pytest.mark.parametrize('protocol', ['center', 'dense'])
def test_what_fills_up_a_batch_may_be_anything(protocol):
    """Rows without an image and what lies beyond an image are black: infinite scores here."""
    result = run(infinite_where_black, [50, 100, 150], protocol)
    np.testing.assert_array_equal(result.classes, [[6, 5, 4, 3, 2]] * 3)
    powers = np.exp(np.arange(CLASSES) / np.asarray([[50], [100], [150]]))
    expected = (powers / powers.sum(axis=1, keepdims=True))[:, 6]
    np.testing.assert_allclose(result.probabilities[:, 0], expected, rtol=1e-5)


def trained(scores: Any) -> dict[str, float]:
    """The metrics of one step of a network with these scores, of the labels 0, 1, 2 and 2."""

    class Constant(nn.Module):
        num_classes: int = 4

        @nn.compact
        def __call__(self, images: Any, train: bool = False) -> tuple[Any, dict[str, Any]]:
            bias = self.param('bias', nn.initializers.zeros, (4,))
            return jnp.asarray(scores) + bias * jnp.ones((len(images), 1)), {}

    config = small_config()
    config.model.num_classes = 4
    state = jax.jit(lambda: steps.init_state(Constant(), config))()
    batch = {'image': np.zeros((4, 32, 32, 3), np.uint8), 'label': np.asarray([0, 1, 2, 2])}
    _, metrics = jax.jit(steps.make_train_step(Constant(), config, 1.0))(state, batch)
    return {name: float(value) for name, value in metrics.items()}


def test_in_training_the_first_of_equal_scores_is_the_answer():
    assert trained([1.0, 1.0, 1.0, 0.0])['top1_error'] == 75
    assert trained([0.0, 1.0, 1.0, 0.0])['top1_error'] == 75
    assert trained([0.0, 0.0, 1.0, 0.0])['top1_error'] == 50


def test_a_step_whose_scores_are_not_finite_is_not_taken():
    """Minus infinity for a class that no image has, too."""
    for bad in (-np.inf, np.inf, np.nan):
        assert trained([0.0, 0.0, 0.0, bad])['bad_updates'] == 1
    assert trained([0.0, 0.0, 0.0, -1.0])['bad_updates'] == 0
