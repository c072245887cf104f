"""SE-BN-Inception: the authors' (Caffe)."""

from typing import Any

from cnn_arch.models.bn_inception import FIGURE_5
from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

BRANCHES = ('1x1', '3x3_reduce', '3x3', 'double3x3_reduce', 'double3x3a', 'double3x3b', 'pool_proj')


def _caffe(model: Any) -> Names:
    pairs = {'conv1': 'conv1/7x7_s2', 'conv2_reduce': 'conv2/3x3_reduce', 'conv2': 'conv2/3x3'}
    names: Names = {'fc': 'classifier'}
    for label in FIGURE_5:
        module = f'inception_{label}'
        pairs |= {f'{module}/{part}': f'{module}/{part}' for part in BRANCHES}
        names[f'{module}_se/down'] = f'{module}_1x1_down'
        names[f'{module}_se/up'] = f'{module}_1x1_up'
    for ours, theirs in pairs.items():
        names[f'{ours}/conv'] = theirs
        names[f'{ours}/bn'] = (f'{theirs}/bn', f'{theirs}/bn/scale')
    return names


FAMILY = Family(
    first=('conv1/conv',),
    recipes=(
        Recipe(
            'caffe', 'caffe', _caffe,
            recipes.reads(recipes.CAFFE_ROUND_MEAN) | recipes.RANDOM_AREA, bgr=True,
        ),
    ),
)  # fmt: skip
