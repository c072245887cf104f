"""DenseNet: the authors' weights in Keras Applications, torchvision and timm."""

from typing import Any

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

# All of them are the authors' arrays, trained as configs/densenet.py says.
TRAINED = {'data.augment.crop': 'random_sized'}
READS = recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD) | TRAINED


def _keras(classifier: str) -> Any:
    def names(model: Any) -> Names:
        result: Names = {
            'conv1': 'conv1_conv', 'conv1_bn': 'conv1_bn', 'bn': 'bn', 'classifier': classifier
        }  # fmt: skip
        for block, layers in enumerate(model.blocks, 1):
            for layer in range(1, layers + 1):
                ours, theirs = f'block{block}_layer{layer}', f'conv{block + 1}_block{layer}'
                for place in (1, 2):
                    result[f'{ours}/bn{place}'] = f'{theirs}_{place - 1}_bn'
                    result[f'{ours}/conv{place}'] = f'{theirs}_{place}_conv'
            result[f'transition{block}_bn'] = f'pool{block + 1}_bn'
            result[f'transition{block}_conv'] = f'pool{block + 1}_conv'
        return result

    return names


def _torchvision(model: Any) -> Names:
    names: Names = {
        'conv1': 'features.conv0', 'conv1_bn': 'features.norm0',
        'bn': 'features.norm5', 'classifier': 'classifier',
    }  # fmt: skip
    for block, layers in enumerate(model.blocks, 1):
        for layer in range(1, layers + 1):
            ours = f'block{block}_layer{layer}'
            theirs = f'features.denseblock{block}.denselayer{layer}'
            for place in (1, 2):
                names[f'{ours}/bn{place}'] = f'{theirs}.norm{place}'
                names[f'{ours}/conv{place}'] = f'{theirs}.conv{place}'
        names[f'transition{block}_bn'] = f'features.transition{block}.norm'
        names[f'transition{block}_conv'] = f'features.transition{block}.conv'
    return names


def _torchvision_2017(model: Any) -> Names:
    """torchvision's own files still say `norm.1` where its network says `norm1`."""
    return {
        ours: theirs[:-1] + '.' + theirs[-1] if '/' in ours else theirs
        for ours, theirs in _torchvision(model).items()
        if isinstance(theirs, str)
    }


FAMILY = Family(
    first=('conv1', 'conv1_1'),
    recipes=(
        Recipe(
            'keras', 'keras', _keras('predictions'),
            READS | {'model.batch_norm.epsilon': 1.001e-5},
        ),
        Recipe(
            'keras', 'keras', _keras('fc1000'), READS | {'model.batch_norm.epsilon': 1.001e-5}
        ),
        Recipe('torchvision', 'torch', _torchvision, READS),
        Recipe('torchvision', 'torch', _torchvision_2017, READS),
    ),
)  # fmt: skip
