"""Xception: the author's weights in Keras Applications."""

from typing import Any

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

KEYS = recipes.reads((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), size=299, scale=342)


def _keras(model: Any) -> Names:
    names: Names = {'classifier': 'predictions'}
    for place in (1, 2):
        names[f'block1_conv{place}'] = f'block1_conv{place}'
        names[f'block1_conv{place}_bn'] = f'block1_conv{place}_bn'
    shortcuts = 0
    for block, layers in enumerate((*model.blocks, model.last), 2):
        if layers[-1] == 'pool':  # Keras numbers the shortcuts' layers through
            shortcuts += 1
            names[f'block{block}_shortcut'] = f'conv2d_{shortcuts}'
            names[f'block{block}_shortcut_bn'] = f'batch_normalization_{shortcuts}'
        for place in range(1, len(layers) + 1):
            layer = f'block{block}_sepconv{place}'
            names[f'{layer}/depthwise'] = f'{layer}:depthwise'
            names[f'{layer}/pointwise'] = f'{layer}:pointwise'
            names[f'{layer}_bn'] = f'{layer}_bn'
    return names


FAMILY = Family(
    first=('block1_conv1',),
    recipes=(Recipe('keras', 'keras', _keras, KEYS | {'model.batch_norm.epsilon': 1e-3}),),
    refused={
        'torch': 'the PyTorch ports of Xception pad its pooling on both sides, where the author '
        'pads after: another network',
    },
)
