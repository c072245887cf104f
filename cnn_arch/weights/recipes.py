"""How one publisher's weights of one family become ours."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# A layer of theirs; in Caffe a batch normalisation is two, of its statistics and of its scale.
Name = str | tuple[str, str]
Names = dict[str, Name]

# Grey levels, RGB.
CAFFE_MEAN = (123.68, 116.779, 103.939)  # of ILSVRC's training set, as the authors of VGG took it
CAFFE_ROUND_MEAN = (123.0, 117.0, 104.0)
TORCH_MEAN, TORCH_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ONES = (1.0, 1.0, 1.0)
RANDOM_AREA = {'data.augment.crop': 'random_resized'}  # how torchvision and timm train


def reads(
    mean: tuple[float, ...],
    std: tuple[float, ...] = ONES,
    size: int = 224,
    scale: int = 256,
    interpolation: str = 'bilinear',
) -> dict[str, Any]:
    """The keys that say what a network takes: `scale` pixels the shorter side, `size` the crop."""
    return {
        'data.mean': mean,
        'data.std': std,
        'data.augment.size': size,
        'eval.scale': scale,
        'eval.interpolation': interpolation,
    }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Of the files of one publisher.

    `names` gives, for a network, the layer of theirs for each of our layers; names of layers that
    a network does not have do no harm. `keys` are the configuration that the weights ask for.
    """

    source: str  # keras, torchvision, timm or caffe
    layout: str  # keras, torch or caffe
    names: Callable[[Any], Names]
    keys: Mapping[str, Any]
    bgr: bool = False  # the first layer reads blue first
    title: str = ''  # of the network in the file, where that tells two networks apart
    note: str = ''
    classes: tuple[str, ...] = ()  # their names in the classifier's order; () = ILSVRC's


@dataclasses.dataclass(frozen=True)
class Family:
    """What is known of one of our families' public weights."""

    first: tuple[str, ...]  # what the layer that reads the picture may be called
    recipes: tuple[Recipe, ...]
    # Fully connected layers over a map, and its size in places.
    windows: Callable[[Any], dict[str, tuple[int, int]]] = lambda model: {}
    # The normalisation that follows a convolution, which takes in the convolution's bias.
    norm_after: Callable[[str], str] | None = None
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)  # layout: why
