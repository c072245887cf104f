"""VGG: the authors' 16 and 19 layers (Keras Applications, Caffe), retrained ones (torchvision)."""

from typing import Any

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

HEAD = ('fc6', 'fc7', 'fc8')
# The authors' public networks are those of scale jitter (Simonyan & Zisserman 2015, section 3.1).
AUTHORS = recipes.reads(recipes.CAFFE_MEAN) | {
    'data.augment.crop': 'isotropic', 'data.augment.scale_min': 256, 'data.augment.scale_max': 512
}  # fmt: skip
RETRAINED = recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD) | recipes.RANDOM_AREA


def _convolutions(model: Any) -> list[tuple[int, int, int]]:
    """Of each convolution its stage, its place there, and its place in torchvision's sequence."""
    result = []
    stage, place, position = 1, 1, 0
    for layer in model.layers:
        if layer == 'M':
            stage, place, position = stage + 1, 1, position + 1
        elif layer != 'LRN':
            result.append((stage, place, position))
            place, position = place + 1, position + 2  # the ReLU counts
    return result


def _keras(model: Any) -> Names:
    names: Names = dict(zip(HEAD, ('fc1', 'fc2', 'predictions'), strict=True))
    return names | {f'conv{s}_{i}': f'block{s}_conv{i}' for s, i, _ in _convolutions(model)}


def _torchvision(model: Any) -> Names:
    names: Names = dict(zip(HEAD, ('classifier.0', 'classifier.3', 'classifier.6'), strict=True))
    return names | {
        f'conv{s}_{i}': f'features.{position}' for s, i, position in _convolutions(model)
    }


def _timm(model: Any) -> Names:
    head = ('pre_logits.fc1', 'pre_logits.fc2', 'head.fc')
    return _torchvision(model) | dict(zip(HEAD, head, strict=True))


def _caffe(model: Any) -> Names:
    return {name: name for name in (*HEAD, *(f'conv{s}_{i}' for s, i, _ in _convolutions(model)))}


def _window(model: Any) -> dict[str, tuple[int, int]]:
    side = model.input_size // 2 ** sum(layer == 'M' for layer in model.layers)
    return {'fc6': (side, side)}


FAMILY = Family(
    first=('conv1_1',),
    windows=_window,
    recipes=(
        Recipe('keras', 'keras', _keras, AUTHORS, bgr=True),
        Recipe('torchvision', 'torch', _torchvision, RETRAINED),
        Recipe('timm', 'torch', _timm, RETRAINED),
        Recipe('caffe', 'caffe', _caffe, AUTHORS, bgr=True),
    ),
)
