"""The papers' test protocols as data: which scales, which views of each scale, which average.

A scale Q is the shorter side of the resized image in pixels. A view is what the network sees at
once: a window of the crop size, a square resized to it, or the whole image. The network's
posteriors (softmax) of all views are averaged, or its scores, of which the softmax is then taken.
"""

import dataclasses
from typing import TypeVar

import ml_collections

from cnn_arch.errors import UserError

Entry = TypeVar('Entry')

# Relative places of a window: 0 = first pixel, 1/2 = centre, 1 = last; it starts at
# floor((size - window) * place) pixels.
CENTRE = ((0.5, 0.5),)
FIVE = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
GRID = tuple((i / 4, j / 4) for i in range(5) for j in range(5))


@dataclasses.dataclass(frozen=True)
class Views:
    """A set of views of an image of one scale, all of the same weight."""

    places: tuple[tuple[float, float], ...] = ()  # of windows, vertical and horizontal
    squares: tuple[float, ...] = ()  # regions of windows: squares along the longer side; () = all
    resized: bool = False  # each square, resized to the window, too
    whole: bool = False  # the whole image, with fully connected layers as convolutions
    mirror: bool = True  # each view also flipped left-right


VIEWS = {
    'center': Views(CENTRE, mirror=False),
    # Krizhevsky et al. 2012, section 4.1: four corners and the centre of the central square.
    'ten_crop': Views(FIVE, squares=(0.5,)),
    # Facebook's Torch code for ResNet, which DenseNet's authors used: those of the whole image.
    'corners': Views(FIVE),
    # Simonyan & Zisserman 2015, section 3.2: a 5x5 regular grid, 50 crops per scale.
    'grid': Views(GRID),
    # The same section, and He et al. 2016, section 3.4: the network slides over the whole image.
    'whole': Views(whole=True),
    # Szegedy et al. 2015, section 7: left, centre and right (or top, centre and bottom) squares;
    # of each the corners, the centre and the square itself resized: 36 crops per scale.
    'googlenet': Views(FIVE, squares=(0.0, 0.5, 1.0), resized=True),
}

# What is averaged over the places of a class score map. `scores`: scores are averaged, then comes
# the softmax (Simonyan & Zisserman, section 3.2: "the class score map is spatially averaged
# (sum-pooled)", then "the soft-max class posteriors of the original and flipped images are
# averaged"). `posteriors`: the softmax at each place is averaged.
AVERAGES = ('scores', 'posteriors')
# What is averaged over views and scales: the softmax of each, as most papers say, or the scores
# before it (Facebook's Torch code for ResNet sums the classifier's outputs over crops).
VIEW_AVERAGES = ('posteriors', 'scores')

# How a network whose classifier follows one pooling over the whole map, as ResNet's does, sees a
# larger image (He et al. 2016, section 3.4: "the fully-convolutional form"; the paper prints no
# more). `global`: it pools over the whole map. `sliding`: its 7x7 pooling slides over the map in
# steps of one place, which gives a class score map as VGG's fully connected layers do. As the
# classifier is linear, with averaged scores the two differ in weights alone: a place at the border
# of the map lies in fewer windows than one inside, so that sliding makes less of it.
GLOBAL, SLIDING = 'global', 'sliding'
SLIDING_NETWORKS = ('resnet',)

TEST_SCALE = 'eval.scale'
# {S - 32, S, S + 32} for training at one scale S, {Smin, 0.5 (Smin + Smax), Smax} after scale
# jitter (Simonyan & Zisserman, section 4.2).
AROUND_TRAINING = 'around the training scale'


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Scales in pixels (or the rule that gives them), sets of views of equal weight, averages."""

    scales: tuple[int, ...] | str
    views: tuple[str, ...]
    average: str = 'scores'
    view_average: str = 'posteriors'
    pooling: str = GLOBAL


PROTOCOLS = {
    'center': Protocol(TEST_SCALE, ('center',)),
    'ten_crop': Protocol(TEST_SCALE, ('ten_crop',)),
    'dense': Protocol(TEST_SCALE, ('whole',)),
    'dense_multiscale': Protocol(AROUND_TRAINING, ('whole',)),
    'vgg_dense': Protocol(TEST_SCALE, ('whole',)),  # tables 3 and 6
    'vgg_dense_multiscale': Protocol(AROUND_TRAINING, ('whole',)),  # table 4
    'vgg_150': Protocol(AROUND_TRAINING, ('grid',)),  # table 5, "multi-crop"
    'vgg_multicrop_and_dense': Protocol(AROUND_TRAINING, ('grid', 'whole')),  # table 5
    # Table 3; how its one and ten crops were cut is not printed: AlexNet's way, at the first scale.
    'googlenet_1': Protocol((256,), ('center',)),
    'googlenet_10': Protocol((256,), ('ten_crop',)),
    'googlenet_144': Protocol((256, 288, 320, 352), ('googlenet',)),
    # Table 3, "10-crop": as the authors' code tests.
    'densenet_10': Protocol(TEST_SCALE, ('corners',), view_average='scores'),
    # Table 4, in both readings; mirroring, which is not printed, as in VGG.
    'resnet_multiscale': Protocol((224, 256, 384, 480, 640), ('whole',)),
    'resnet_multiscale_sliding': Protocol((224, 256, 384, 480, 640), ('whole',), pooling=SLIDING),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A protocol for one config: scales and side of a window in pixels."""

    protocol: str
    scales: tuple[int, ...]
    views: tuple[str, ...]
    average: str
    view_average: str
    crop: int
    mirror: bool
    pooling: str = GLOBAL


def resolve(config: ml_collections.ConfigDict, name: str | None = None) -> Plan:
    """What `config.eval` declares, with the protocol called `name` in place of its own.

    `eval.views`, `eval.average` and `eval.view_average` take the place of the named protocol's own.
    Raises UserError for what does not exist, for averages that do not go together, and for windows
    larger than the smallest scale.
    """
    name = name or config.eval.protocol
    protocol = known('eval.protocol', name, PROTOCOLS)
    scales: tuple[int, ...]
    if protocol.scales == TEST_SCALE:
        scales = (config.eval.scale,)
    elif config.eval.scales:
        scales = tuple(config.eval.scales)
    elif isinstance(protocol.scales, str):
        scales = _around_training(name, config.data.augment)
    else:
        scales = protocol.scales
    views = tuple(config.eval.views) or protocol.views
    average = config.eval.average or protocol.average
    if average not in AVERAGES:
        raise UserError(f'eval.average = {average!r}: choose one of {", ".join(AVERAGES)}')
    view_average = config.eval.view_average or protocol.view_average
    if view_average not in VIEW_AVERAGES:
        raise UserError(
            f'eval.view_average = {view_average!r}: choose one of {", ".join(VIEW_AVERAGES)}'
        )
    whole = any(known('eval.views', view, VIEWS).whole for view in views)
    if whole and (average, view_average) == ('posteriors', 'scores'):
        raise UserError(
            'eval.average = posteriors leaves no scores of a whole image, over which '
            'eval.view_average = scores could average: set both to the same'
        )
    crop = config.eval.crop or config.data.augment.size
    windows = any(known('eval.views', view, VIEWS).places for view in views)
    if windows and crop > min(scales):
        raise UserError(
            f'protocol {name}: windows of {crop} pixels do not fit into images of scale '
            f'{min(scales)}: change eval.scale (or eval.scales), or eval.crop'
        )
    if protocol.pooling == SLIDING and config.model.name not in SLIDING_NETWORKS:
        raise UserError(
            f'protocol {name} is for {", ".join(SLIDING_NETWORKS)}: {config.model.name} has no '
            'pooling of 7x7 that could slide; use resnet_multiscale or dense'
        )
    return Plan(
        name, scales, views, average, view_average, crop, config.eval.mirror, protocol.pooling
    )


def _around_training(name: str, augment: ml_collections.ConfigDict) -> tuple[int, ...]:
    if augment.crop not in ('isotropic', 'central_square'):
        raise UserError(
            f'protocol {name} tests around the training scale S, which data.augment.crop = '
            f'{augment.crop!r} does not have: give eval.scales'
        )
    low, high = augment.scale_min, augment.scale_max
    return (low - 32, low, low + 32) if low == high else (low, (low + high) // 2, high)


def known(key: str, name: str, table: dict[str, Entry]) -> Entry:
    """The entry of a table. Raises UserError that lists the names there are."""
    if name not in table:
        raise UserError(f'{key} = {name!r}: choose one of {", ".join(table)}')
    return table[name]
