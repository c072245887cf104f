"""ResNet: the authors' (Keras Applications, Caffe), torchvision's and timm's of the same names,
Keras' pre-activation networks, and Y. Idelbayev's for CIFAR-10."""

from collections.abc import Iterator
from typing import Any

from cnn_arch.weights import recipes
from cnn_arch.weights.recipes import Family, Names, Recipe

KERAS_EPSILON = {'model.batch_norm.epsilon': 1.001e-5}
AUTHORS = recipes.reads(recipes.CAFFE_MEAN)
# Krizhevsky's names, in his order.
CIFAR_10 = (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip
# Y. Idelbayev's networks for CIFAR-10, "Proper ResNet Implementation for CIFAR10/CIFAR100 in
# PyTorch": option A with its zeros around the maps, inputs in [0, 1] normalised as ImageNet's.
CIFAR = recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD, size=32, scale=32) | {
    'model.options.shortcut_zeros': 'around'
}
TORCH = recipes.reads(recipes.TORCH_MEAN, recipes.TORCH_STD) | recipes.RANDOM_AREA


def _blocks(model: Any) -> Iterator[tuple[int, int, int]]:
    """Stage, number in it from 1, and the number of blocks of the stage."""
    for stage, count in enumerate(model.blocks, 2):
        for index in range(1, count + 1):
            yield stage, index, count


def _places(model: Any) -> range:
    return range(1, 4 if model.bottleneck else 3)


def _keras(model: Any) -> Names:
    names: Names = {'conv1': 'conv1_conv', 'bn1': 'conv1_bn', 'fc': 'predictions'}
    for stage, index, _ in _blocks(model):
        ours, theirs = f'conv{stage}_{index}', f'conv{stage}_block{index}'
        for place in _places(model):
            names[f'{ours}/conv{place}'] = f'{theirs}_{place}_conv'
            names[f'{ours}/bn{place}'] = f'{theirs}_{place}_bn'
        names[f'{ours}/projection'] = f'{theirs}_0_conv'
        names[f'{ours}/projection_bn'] = f'{theirs}_0_bn'
    return names


def _keras_v2(model: Any) -> Names:
    """Normalisation stands before the convolutions: ours has the number of what follows."""
    names: Names = {'conv1': 'conv1_conv', 'bn5': 'post_bn', 'fc': 'predictions'}
    for stage, index, _ in _blocks(model):
        ours, theirs = f'conv{stage}_{index}', f'conv{stage}_block{index}'
        names[f'{ours}/bn1'] = f'{theirs}_preact_bn'
        for place in _places(model):
            names[f'{ours}/conv{place}'] = f'{theirs}_{place}_conv'
            names[f'{ours}/bn{place + 1}'] = f'{theirs}_{place}_bn'
        names[f'{ours}/projection'] = f'{theirs}_0_conv'
    return names


def _torchvision(model: Any) -> Names:
    names: Names = {'conv1': 'conv1', 'bn1': 'bn1', 'fc': 'fc'}
    for stage, index, _ in _blocks(model):
        ours, theirs = f'conv{stage}_{index}', f'layer{stage - 1}.{index - 1}'
        for place in _places(model):
            names[f'{ours}/conv{place}'] = f'{theirs}.conv{place}'
            names[f'{ours}/bn{place}'] = f'{theirs}.bn{place}'
        names[f'{ours}/projection'] = f'{theirs}.downsample.0'
        names[f'{ours}/projection_bn'] = f'{theirs}.downsample.1'
    return names


def _cifar(model: Any) -> Names:
    return {**_torchvision(model), 'fc': 'linear'}


def _letter(index: int, count: int) -> str:
    """a, b, c, ..., or a, b1, b2, ... in the long stages of 101 and 152 layers."""
    if index == 1:
        return 'a'
    return f'b{index - 1}' if _is_long(count) else 'abcdef'[index - 1]


def _is_long(count: int) -> bool:
    return count > 6


def _caffe(model: Any) -> Names:
    # In 101 layers conv3_x has four blocks, as in 50, but is numbered.
    numbered = any(map(_is_long, model.blocks))
    names: Names = {'conv1': 'conv1', 'bn1': ('bn_conv1', 'scale_conv1'), 'fc': 'fc1000'}
    for stage, index, count in _blocks(model):
        many = numbered and stage in (3, 4)
        ours, block = f'conv{stage}_{index}', f'{stage}{_letter(index, 7 if many else count)}'
        branches = [
            (f'conv{place}', f'bn{place}', f'2{"abc"[place - 1]}') for place in _places(model)
        ]
        for conv, norm, branch in (*branches, ('projection', 'projection_bn', '1')):
            end = f'{block}_branch{branch}'
            names[f'{ours}/{conv}'] = f'res{end}'
            names[f'{ours}/{norm}'] = (f'bn{end}', f'scale{end}')
    return names


def _keras_old(model: Any) -> Names:
    """Keras' first ResNet-50 bears Caffe's names."""
    return {
        ours: theirs if isinstance(theirs, str) else theirs[0]
        for ours, theirs in _caffe(model).items()
    }


def norm_after(convolution: str) -> str:
    """conv2_1/conv1 -> conv2_1/bn1, conv2_1/projection -> conv2_1/projection_bn."""
    if convolution.endswith('projection'):
        return f'{convolution}_bn'
    block, slash, name = convolution.rpartition('/')
    return f'{block}{slash}{name.replace("conv", "bn")}'


FAMILY = Family(
    first=('conv1',),
    norm_after=norm_after,
    recipes=(
        Recipe('keras', 'keras', _keras, AUTHORS | KERAS_EPSILON, bgr=True),
        Recipe('keras', 'keras', _keras_old, AUTHORS | KERAS_EPSILON, bgr=True),
        Recipe(
            'keras', 'keras', _keras_v2,
            recipes.reads((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)) | KERAS_EPSILON,
        ),
        Recipe('torchvision', 'torch', _torchvision, TORCH),
        Recipe('cifar', 'torch', _cifar, CIFAR, classes=CIFAR_10),
        Recipe(
            'caffe', 'caffe', _caffe,
            AUTHORS | {'model.options.ceil_mode_pool': True}, bgr=True,
            note='trained with the mean image subtracted; here the mean colour is',
        ),
    ),
)  # fmt: skip
