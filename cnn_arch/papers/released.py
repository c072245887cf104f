"""Who trained the public weights, and how: what a table says of a row that they fill.

Authors' weights are the networks that their papers (or their READMEs) test. Replications are
trainings of the same architecture by others: their numbers are not those of the paper's method.
"""

import dataclasses

AUTHORS, REPLICATION = "the authors'", 'a replication'


@dataclasses.dataclass(frozen=True)
class Released:
    """Public weights."""

    by: str  # AUTHORS or REPLICATION
    trained: str  # how, as far as their publisher states it


VGG = "trained with scale jitter (the authors' page of the models)"
RESNET = "the released models of the paper (the authors' README)"
RESNET_V2 = 'Keras states neither who trained them nor how'
DENSENET = "ported from the authors' Torch models"
SENET = "batch of 256, rate 0.1 and more epochs than the paper's (the authors' README)"
SENET_154 = "the network of the challenge (the authors' README)"
TORCHVISION = "torchvision's recipe: crops of random area, 90 epochs"
TORCHVISION_2021 = "torchvision's recipe of 2021: 600 epochs, mixing of images, averaged weights"
BVLC = 'by BVLC: pictures warped to 256x256, windows of one scale, no noise on colours'
CAFFENET = f'{BVLC}; pooling before normalisation'
IDELBAYEV = 'by Y. Idelbayev: 200 epochs, a tenth of the rate at 100 and 150 (his trainer.py)'

_DENSENETS = ('121', '161', '169', '201')
_RESNETS = ('50', '101', '152')
_GATED = ('resnet50', 'resnet101', 'resnet152', 'resnext50_32x4d', 'resnext101_32x4d')

RELEASED: dict[str, Released] = {
    **{f'keras/vgg{depth}': Released(AUTHORS, VGG) for depth in (16, 19)},
    **{f'caffe/VGG_ILSVRC_{depth}_layers': Released(AUTHORS, VGG) for depth in (16, 19)},
    **{f'keras/resnet{depth}': Released(AUTHORS, RESNET) for depth in _RESNETS},
    **{f'caffe/ResNet-{depth}': Released(AUTHORS, RESNET) for depth in _RESNETS},
    **{f'keras/resnet{depth}v2': Released(REPLICATION, RESNET_V2) for depth in _RESNETS},
    **{f'keras/densenet{depth}': Released(AUTHORS, DENSENET) for depth in _DENSENETS},
    **{f'torchvision/densenet{depth}': Released(AUTHORS, DENSENET) for depth in _DENSENETS},
    **{f'timm/densenet{depth}.tv_in1k': Released(AUTHORS, DENSENET) for depth in _DENSENETS},
    'keras/xception': Released(AUTHORS, "by the author, whose framework's weights they are"),
    **{f'caffe/{name}': Released(AUTHORS, SENET)
       for name in ('SE-BN-Inception', 'SE-ResNet-50', 'SE-ResNet-101', 'SE-ResNet-152',
                    'SE-ResNeXt-50', 'SE-ResNeXt-101')},
    **{f'timm/legacy_se{name}.in1k': Released(AUTHORS, SENET) for name in _GATED},
    'caffe/SENet-154': Released(AUTHORS, SENET_154),
    'timm/legacy_senet154.in1k': Released(AUTHORS, SENET_154),
    **{f'torchvision/{name}': Released(REPLICATION, TORCHVISION)
       for name in ('alexnet', 'vgg11', 'vgg13', 'vgg16', 'vgg19', 'resnet18', 'resnet34',
                    'resnet50', 'resnet101', 'resnet152', 'resnext50')},
    **{f'torchvision/resnet{depth}-v2': Released(REPLICATION, TORCHVISION_2021)
       for depth in _RESNETS},
    **{f'timm/{name}.tv_in1k': Released(REPLICATION, TORCHVISION)
       for name in ('vgg11', 'vgg13', 'vgg16', 'vgg19', 'resnet18', 'resnet34', 'resnet50',
                    'resnet101', 'resnet152')},
    'caffe/bvlc_alexnet': Released(REPLICATION, BVLC),
    'caffe/bvlc_reference_caffenet': Released(REPLICATION, CAFFENET),
    'caffe/bvlc_googlenet': Released(REPLICATION, BVLC),
    **{f'cifar/resnet{depth}': Released(REPLICATION, IDELBAYEV)
       for depth in (20, 32, 44, 56, 110, 1202)},
}  # fmt: skip
