"""GoogLeNet: Caffe's replication, with both side classifiers."""

from typing import Any

from cnn_arch.models.googlenet import TABLE_1
from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

BRANCHES = ('1x1', '3x3_reduce', '3x3', '5x5_reduce', '5x5', 'pool_proj')
# See alexnet.py for the constants.
KEYS = recipes.reads((123.0, 117.0, 104.0)) | {
    'model.options.lrn_k': 1.0, 'model.options.lrn_alpha': 2e-5
}  # fmt: skip


def _caffe(model: Any) -> Names:
    names: Names = {
        'conv1': 'conv1/7x7_s2',
        'conv2_reduce': 'conv2/3x3_reduce',
        'conv2': 'conv2/3x3',
        'linear': 'loss3/classifier',
    }
    for head in ('loss1', 'loss2'):
        names |= {
            f'{head}/conv': f'{head}/conv',
            f'{head}/fc': f'{head}/fc',
            f'{head}/linear': f'{head}/classifier',
        }
    modules = [module for module, *row in TABLE_1 if row]
    return names | {
        f'{module}/{part}': f'{module}/{part}' for module in modules for part in BRANCHES
    }


FAMILY = Family(
    first=('conv1',),
    windows=lambda model: {'loss1/fc': (4, 4), 'loss2/fc': (4, 4)},
    recipes=(
        Recipe(
            'caffe', 'caffe', _caffe, KEYS, bgr=True,
            note='trained on pictures warped to 256x256; here the shorter side is 256',
        ),
    ),
    refused={
        'torch': "torchvision's GoogLeNet is another network: its 5x5 convolutions are 3x3",
    },
)  # fmt: skip
