"""The papers' protocols: how many views, of which scales, where, with which weights."""

import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.evaluation.protocols import PROTOCOLS, resolve
from cnn_arch.evaluation.views import bounding_box, views_of
from tests.evaluation.common import small_config


def imagenet_config(**augment):
    config = small_config()
    config.data.augment.size = 224
    config.data.augment.scale_min = config.data.augment.scale_max = 256
    config.data.augment.update(augment)
    config.model.name, config.eval.scale = 'resnet', 256  # of which every protocol is possible
    return config


@pytest.mark.parametrize(
    ('name', 'scales', 'views'),
    [
        ('center', 1, 1),
        ('ten_crop', 1, 10),  # Krizhevsky et al. 2012, section 4.1
        ('vgg_150', 3, 50),  # Simonyan & Zisserman 2015, section 3.2
        ('vgg_dense', 1, 2),
        ('vgg_dense_multiscale', 3, 2),
        ('vgg_multicrop_and_dense', 3, 52),
        ('googlenet_1', 1, 1),
        ('googlenet_10', 1, 10),
        ('densenet_10', 1, 10),  # fb.resnet.torch, TenCrop
        ('googlenet_144', 4, 36),  # Szegedy et al. 2015, section 7
        ('resnet_multiscale', 5, 2),
        ('resnet_multiscale_sliding', 5, 2),
        ('dense', 1, 2),
        ('dense_multiscale', 3, 2),
    ],
)
def test_counts_and_weights(name, scales, views):
    plan = resolve(imagenet_config(), name)
    found = views_of(plan)
    assert (len(plan.scales), len(found)) == (scales, views)
    assert sum(view.weight for view in found) * scales == pytest.approx(1)


def test_all_protocols_are_tested():
    names = {values[0] for values in test_counts_and_weights.pytestmark[0].args[1]}
    assert names == PROTOCOLS.keys()


def test_scales():
    config = imagenet_config()
    assert resolve(config, 'googlenet_144').scales == (256, 288, 320, 352)
    assert resolve(config, 'resnet_multiscale').scales == (224, 256, 384, 480, 640)
    assert resolve(config, 'vgg_dense_multiscale').scales == (224, 256, 288)
    config.data.augment.scale_min = config.data.augment.scale_max = 384
    assert resolve(config, 'vgg_150').scales == (352, 384, 416)
    config.data.augment.scale_min, config.data.augment.scale_max = 256, 512
    assert resolve(config, 'vgg_150').scales == (256, 384, 512)
    assert resolve(config, 'vgg_dense').scales == (256,)
    config.eval.scales = (240, 300)
    assert resolve(config, 'vgg_150').scales == (240, 300)
    assert resolve(config, 'resnet_multiscale').scales == (240, 300)
    assert resolve(config, 'center').scales == (256,)


def test_multicrop_and_dense_weigh_the_same():
    views = views_of(resolve(imagenet_config(), 'vgg_multicrop_and_dense'))
    dense = sum(view.weight for view in views if view.kind == 'whole')
    assert dense * 3 == pytest.approx(1 / 2)


def test_composed_in_the_config():
    config = imagenet_config()
    config.eval.views, config.eval.average = ('ten_crop', 'whole'), 'posteriors'
    plan = resolve(config, 'googlenet_144')
    assert (plan.scales, plan.views) == ((256, 288, 320, 352), ('ten_crop', 'whole'))
    assert plan.average == 'posteriors'
    config.eval.mirror = False
    assert len(views_of(resolve(config, 'googlenet_144'))) == 6


class TestPlaces:
    def boxes(self, name, size, crop=224):
        views = views_of(resolve(imagenet_config(), name))
        return [view.box(size, crop) for view in views if not view.mirrored], views

    def test_center_starts_at_floor_of_half_the_rest(self):
        assert self.boxes('center', (256, 341))[0] == [(16, 58, 224, 224)]  # (341 - 224) / 2 = 58.5
        assert self.boxes('center', (227, 227))[0] == [(1, 1, 224, 224)]

    def test_ten_crop_of_the_central_square(self):
        boxes, views = self.boxes('ten_crop', (256, 341))
        assert {box[:2] for box in boxes} == {(0, 42), (0, 74), (32, 42), (32, 74), (16, 58)}
        assert bounding_box(views, (256, 341), 224) == (0, 42, 256, 256)

    def test_corners_are_those_of_the_whole_image(self):
        """fb.resnet.torch: at 0 and w - size, 0 and h - size, and the centre, each mirrored."""
        boxes, views = self.boxes('densenet_10', (256, 341))
        assert {box[:2] for box in boxes} == {(0, 0), (0, 117), (32, 0), (32, 117), (16, 58)}
        assert all(box[2:] == (224, 224) for box in boxes)
        assert bounding_box(views, (256, 341), 224) == (0, 0, 256, 341)
        plan = resolve(imagenet_config(), 'densenet_10')
        assert plan.view_average == 'scores'
        assert resolve(imagenet_config(), 'ten_crop').view_average == 'posteriors'

    def test_grid_over_the_whole_image(self):
        boxes, views = self.boxes('vgg_150', (256, 341))
        assert sorted({box[0] for box in boxes}) == [0, 8, 16, 24, 32]
        assert sorted({box[1] for box in boxes}) == [0, 29, 58, 87, 117]
        assert len(set(boxes)) == 25
        assert bounding_box(views, (256, 341), 224) == (0, 0, 256, 341)

    @pytest.mark.parametrize(
        ('size', 'starts'), [((256, 341), (0, 42, 85)), ((400, 256), (0, 72, 144))]
    )
    def test_googlenet_squares(self, size, starts):
        boxes, _ = self.boxes('googlenet_144', size)
        side = int(np.argmax(size))
        squares = [box for box in boxes if box[2] == 256]
        assert [box[side] for box in squares] == list(starts)
        assert all(box[1 - side] == 0 for box in squares)
        windows = [box for box in boxes if box[2] == 224]
        assert {box[side] for box in windows} == {s + d for s in starts for d in (0, 16, 32)}
        assert len(boxes) == 18

    def test_mirrored_views_come_in_pairs(self):
        for name in ('ten_crop', 'vgg_150', 'googlenet_144', 'dense'):
            views = views_of(resolve(imagenet_config(), name))
            assert sum(view.mirrored for view in views) * 2 == len(views)


def test_user_errors():
    config = imagenet_config()
    with pytest.raises(
        UserError, match=r"eval\.protocol = 'tencrop': choose one of center, ten_cr"
    ):
        resolve(config, 'tencrop')
    config.eval.scale = 200
    with pytest.raises(UserError, match=r'windows of 224 pixels do not fit .* scale 200'):
        resolve(config, 'ten_crop')
    assert resolve(config, 'dense').scales == (200,)
    config.eval.views = ('everything',)
    with pytest.raises(UserError, match=r"eval\.views = 'everything': choose one of"):
        resolve(config, 'center')
    config.eval.views, config.eval.average = (), 'median'
    with pytest.raises(UserError, match=r"eval\.average = 'median'"):
        resolve(config, 'dense')
    config.eval.average, config.eval.view_average = '', 'votes'
    with pytest.raises(UserError, match=r"eval\.view_average = 'votes': choose one of posteriors"):
        resolve(config, 'dense')
    config.eval.average, config.eval.view_average = 'posteriors', 'scores'
    with pytest.raises(UserError, match=r'leaves no scores of a whole image'):
        resolve(config, 'dense')
    config = imagenet_config(crop='random_resized')
    with pytest.raises(UserError, match=r'does not have: give eval\.scales'):
        resolve(config, 'vgg_dense_multiscale')
