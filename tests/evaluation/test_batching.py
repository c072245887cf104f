"""The sequence of batches: few canvases, little waste, every image once."""

import itertools

import numpy as np
import pytest

from cnn_arch.evaluation.batching import Queues, choose_canvases, fitting, rows_of


def padded(shapes, canvases):
    return sum(min(c[0] * c[1] for c in canvases if c[0] >= h and c[1] >= w) for h, w in shapes)


def test_canvases_are_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    shapes = [(40, 40 + int(w)) for w in rng.integers(0, 60, 9)]
    shapes += [(40 + int(h), 40) for h in rng.integers(1, 60, 5)]
    wide, tall = sorted({s for s in shapes if s[0] == 40}), sorted(
        {s for s in shapes if s[0] > 40}
    )  # fmt: skip
    for most in (2, 3, 4):
        found = choose_canvases(shapes, most)
        assert len(found) <= most
        possible = [
            padded(shapes, chosen)
            for count in range(2, most + 1)
            for chosen in itertools.combinations(wide + tall, count)
            if wide[-1] in chosen and tall[-1] in chosen
        ]
        used = sum(h * w for h, w in shapes)
        assert padded(shapes, found) <= max(min(possible), used / 0.95)


def test_no_more_canvases_than_needed():
    assert choose_canvases([(224, 224)] * 50, 6) == [(224, 224)]
    near = [(256, 336 + n % 8) for n in range(100)]
    assert choose_canvases(near, 6) == [(256, 343)]
    assert choose_canvases([(256, 256), (512, 256)], 1) == [(256, 256), (512, 256)]
    assert choose_canvases([], 6) == []


def test_share_of_wasted_pixels_on_ordinary_aspects():
    """Six canvases for aspects as cameras have them, with the odd panorama."""
    rng = np.random.default_rng(1)
    aspects = rng.choice([1, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3], 2000)
    aspects *= np.exp(0.03 * rng.standard_normal(2000))
    aspects[:5] = [4, 6, 0.2, 2.5, 0.3]
    shapes = [(256, round(256 * a)) if a >= 1 else (round(256 / a), 256) for a in aspects]
    canvases = choose_canvases(shapes, 6)
    waste = 1 - sum(h * w for h, w in shapes) / padded(shapes, canvases)
    assert waste < 0.12


def test_fitting():
    canvases = [(40, 60), (40, 100), (90, 40)]
    assert fitting((40, 60), canvases) == (40, 60)
    assert fitting((40, 61), canvases) == (40, 100)
    assert fitting((41, 40), canvases) == (90, 40)
    assert fitting((41, 41), canvases) is None


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_every_image_once(groups):
    rng = np.random.default_rng(groups)
    shapes = [(40, int(w)) for w in rng.integers(40, 120, 203)]
    canvases = choose_canvases(shapes, 4)
    queues = Queues(groups)
    queues.set_canvases(7, {canvas: 8 for canvas in canvases})
    batches = []
    for index, shape in enumerate(shapes):
        canvas = queues.canvas_of(7, shape)
        queues.add(7, canvas, index % groups, index)
        batches += queues.full()
        assert all((batch.indices >= 0).all() for batch in batches)
    whole = len(batches)
    batches += queues.rest()
    seen = np.concatenate([batch.indices.ravel() for batch in batches])
    assert sorted(seen[seen >= 0]) == list(range(203))
    if groups == 1:
        assert len(batches) - whole <= len(canvases)
    for batch in batches:
        assert batch.indices.shape == (groups, 8 // groups)
        for group, indices in enumerate(batch.indices):
            assert all(index % groups == group for index in indices if index >= 0)
        for index in batch.indices[batch.indices >= 0]:
            assert shapes[index][1] <= batch.canvas[1]


def test_half_empty_batches_are_merged():
    queues = Queues(1)
    queues.set_canvases(7, {(40, 50): 8, (40, 60): 8, (50, 40): 8})
    for index, canvas in enumerate([(40, 50)] * 3 + [(40, 60)] * 5 + [(50, 40)]):
        queues.add(7, canvas, 0, index)
    batches = list(queues.rest())
    assert [(b.canvas, (b.indices >= 0).sum()) for b in batches] == [((40, 60), 8), ((50, 40), 1)]


def test_rows_of():
    assert rows_of((224, 224), 224, 64, 8) == 64
    assert rows_of((256, 341), 224, 64, 8) == 32
    assert rows_of((640, 2000), 224, 64, 8) == 8
    assert rows_of((224, 224), 224, 6, 3) == 6
