"""SENet and ResNeXt: the authors' SE networks (Caffe), their ports (timm, legacy_*), and
torchvision's ResNeXt."""

from collections.abc import Iterator
from typing import Any

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

PORTED = recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD) | recipes.RANDOM_AREA


def _blocks(model: Any) -> Iterator[tuple[str, str]]:
    for stage, count in enumerate(model.blocks, 2):
        for index in range(1, count + 1):
            yield f'conv{stage}_{index}', f'layer{stage - 1}.{index - 1}'


def _stem(model: Any) -> list[str]:
    """What follows conv and bn in the names of the first layers."""
    return ['1'] if len(model.stem) == 1 else [f'1_{place + 1}' for place in range(len(model.stem))]


def _torch(model: Any, first: str, last: str) -> Names:
    names: Names = {'fc': last}
    for place, ours in enumerate(_stem(model), 1):
        names[f'conv{ours}'] = f'{first}conv{place}'
        names[f'bn{ours}'] = f'{first}bn{place}'
    for ours, theirs in _blocks(model):
        for place in (1, 2, 3):
            names[f'{ours}/conv{place}'] = f'{theirs}.conv{place}'
            names[f'{ours}/bn{place}'] = f'{theirs}.bn{place}'
        names[f'{ours}/se/down'] = f'{theirs}.se_module.fc1'
        names[f'{ours}/se/up'] = f'{theirs}.se_module.fc2'
        names[f'{ours}/projection'] = f'{theirs}.downsample.0'
        names[f'{ours}/projection_bn'] = f'{theirs}.downsample.1'
    return names


def _caffe(model: Any) -> Names:
    names: Names = {'fc': 'classifier'}

    def add(conv: str, norm: str, theirs: str) -> None:
        names[conv] = theirs
        names[norm] = (f'{theirs}/bn', f'{theirs}/bn/scale')

    if len(model.stem) == 1:
        add('conv1', 'bn1', 'conv1/7x7_s2')
    else:
        for place, ours in enumerate(_stem(model), 1):
            add(f'conv{ours}', f'bn{ours}', f'conv1_{place}/3x3{"_s2" if place == 1 else ""}')
    for block, _ in _blocks(model):
        for place, part in enumerate(('1x1_reduce', '3x3', '1x1_increase'), 1):
            add(f'{block}/conv{place}', f'{block}/bn{place}', f'{block}_{part}')
        add(f'{block}/projection', f'{block}/projection_bn', f'{block}_1x1_proj')
        names[f'{block}/se/down'] = f'{block}_1x1_down'
        names[f'{block}/se/up'] = f'{block}_1x1_up'
    return names


FAMILY = Family(
    first=('conv1', 'conv1_1'),
    recipes=(
        Recipe('timm', 'torch', lambda model: _torch(model, 'layer0.', 'last_linear'), PORTED),
        Recipe('torchvision', 'torch', lambda model: _torch(model, '', 'fc'), PORTED),
        Recipe(
            'caffe', 'caffe', _caffe,
            recipes.reads(recipes.CAFFE_ROUND_MEAN) | recipes.RANDOM_AREA, bgr=True,
        ),
    ),
)  # fmt: skip
