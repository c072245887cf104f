"""The accuracies that the publishers of public weights state, as errors in percent.

One crop of the network's size from the centre, unless a table says otherwise. A row without a
configuration is of a network, or of a training, that this project does not have.
"""

from typing import Any

from cnn_arch.papers.published import Paper, Row, Table

RECIPE = {'data.augment.crop': 'random_resized'}  # of torchvision and timm, whatever the paper's
JITTER = {'data.augment.scale_min': 256, 'data.augment.scale_max': 512}  # VGG's authors'
NO: dict[str, Any] = {}
AT_256 = {'eval.scale': 256}
ABSENT = 'not a network of this project'


def _row(
    name: str,
    source: str,
    top1: float,
    top5: float,
    config: str,
    overrides: dict[str, Any],
    scale: int,
    interpolation: str = 'bilinear',
) -> Row:
    """From accuracies in percent."""
    error1, error5 = round(100 - top1, 3), round(100 - top5, 3)
    if not config:
        return Row(name, error1, error5, columns={'weights': name}, note=ABSENT)
    keys = {**overrides, 'eval.scale': scale, 'eval.interpolation': interpolation}
    return Row(
        name, error1, error5, f'configs/{config}', keys, 'center', f'{source}_{name}',
        columns={'weights': name}, weights=(f'{source}/{name}',), of_weights=True,
    )  # fmt: skip


def _recipe(config: str) -> dict[str, Any]:
    """DenseNet's are its authors' arrays, trained as its config says."""
    return NO if config.startswith('densenet') else RECIPE


TORCHVISION = tuple(
    _row(name, 'torchvision', top1, top5, config, _recipe(config), 256)
    for name, top1, top5, config in (
        ('alexnet', 56.522, 79.066, 'alexnet.py:one_tower'),
        ('vgg11', 69.02, 88.628, 'vgg.py:A'),
        ('vgg11_bn', 70.37, 89.81, ''),
        ('vgg13', 69.928, 89.246, 'vgg.py:B'),
        ('vgg13_bn', 71.586, 90.374, ''),
        ('vgg16', 71.592, 90.382, 'vgg.py:D'),
        ('vgg16_bn', 73.36, 91.516, ''),
        ('vgg19', 72.376, 90.876, 'vgg.py:E'),
        ('vgg19_bn', 74.218, 91.842, ''),
        ('googlenet', 69.778, 89.53, ''),
        ('resnet18', 69.758, 89.078, 'resnet.py:18'),
        ('resnet34', 73.314, 91.42, 'resnet.py:34'),
        ('resnet50', 76.13, 92.862, 'resnet.py:50-v1_5'),
        ('resnet101', 77.374, 93.546, 'resnet.py:101-v1_5'),
        ('resnet152', 78.312, 94.046, 'resnet.py:152-v1_5'),
        ('densenet121', 74.434, 91.972, 'densenet.py:121'),
        ('densenet161', 77.138, 93.56, 'densenet.py:161'),
        ('densenet169', 75.6, 92.806, 'densenet.py:169'),
        ('densenet201', 76.896, 93.37, 'densenet.py:201'),
    )
)
TORCHVISION_V2 = tuple(
    _row(f'{name}-v2', 'torchvision', top1, top5, config, RECIPE, 232)
    for name, top1, top5, config in (
        ('resnet50', 80.858, 95.434, 'resnet.py:50-v1_5'),
        ('resnet101', 81.886, 95.78, 'resnet.py:101-v1_5'),
        ('resnet152', 82.284, 96.002, 'resnet.py:152-v1_5'),
    )
)
KERAS = tuple(
    _row(name, 'keras', top1, top5, config, overrides, scale)
    for name, top1, top5, config, overrides, scale in (
        ('xception', 79.0, 94.5, 'xception.py:xception', NO, 342),
        ('vgg16', 71.3, 90.1, 'vgg.py:D', JITTER, 256),
        ('vgg19', 71.3, 90.0, 'vgg.py:E', JITTER, 256),
        ('resnet50', 74.9, 92.1, 'resnet.py:50', NO, 256),
        ('resnet101', 76.4, 92.8, 'resnet.py:101', NO, 256),
        ('resnet152', 76.6, 93.1, 'resnet.py:152', NO, 256),
        ('densenet121', 75.0, 92.3, 'densenet.py:121', NO, 256),
        ('densenet169', 76.2, 93.2, 'densenet.py:169', NO, 256),
        ('densenet201', 77.3, 93.6, 'densenet.py:201', NO, 256),
        ('inception_v3', 77.9, 93.7, '', NO, 0),
        ('inception_resnet_v2', 80.3, 95.3, '', NO, 0),
        ('resnet50v2', 76.0, 93.0, 'resnet.py:50-v2-keras', NO, 256),
        ('resnet101v2', 77.2, 93.8, 'resnet.py:101-v2-keras', NO, 256),
        ('resnet152v2', 78.0, 94.2, 'resnet.py:152-v2-keras', NO, 256),
    )
)
TIMM = tuple(
    _row(name, 'timm', top1, top5, config, _recipe(config), scale, interpolation)
    for name, top1, top5, config, scale, interpolation in (
        ('legacy_senet154.in1k', 81.32, 95.502, 'senet.py:senet154', 256, 'bilinear'),
        ('seresnet50.ra2_in1k', 80.26, 95.068, '', 0, ''),
        ('seresnet50.a1_in1k', 80.012, 94.704, '', 0, ''),
        ('seresnet50.a2_in1k', 80.102, 94.72, '', 0, ''),
        ('seresnet50.a3_in1k', 77.036, 93.072, '', 0, ''),
        (
            'legacy_seresnext101_32x4d.in1k',
            80.274,
            95.032,
            'senet.py:se_resnext101',
            256,
            'bilinear',
        ),
        ('legacy_seresnext50_32x4d.in1k', 79.08, 94.428, 'senet.py:se_resnext50', 256, 'bilinear'),
        ('legacy_xception.tf_in1k', 79.058, 94.396, '', 333, 'bicubic'),  # its pooling is not ours
        ('legacy_seresnet152.in1k', 78.662, 94.37, 'senet.py:se_resnet152', 256, 'bilinear'),
        ('legacy_seresnet101.in1k', 78.37, 94.264, 'senet.py:se_resnet101', 256, 'bilinear'),
        ('legacy_seresnet50.in1k', 77.65, 93.732, 'senet.py:se_resnet50', 256, 'bilinear'),
        ('resnet152.tv_in1k', 78.33, 94.046, 'resnet.py:152-v1_5', 256, 'bilinear'),
        ('resnet101.tv_in1k', 77.404, 93.552, 'resnet.py:101-v1_5', 256, 'bilinear'),
        ('resnet50.tv_in1k', 76.156, 92.866, 'resnet.py:50-v1_5', 256, 'bilinear'),
        ('resnet34.tv_in1k', 73.298, 91.422, 'resnet.py:34', 256, 'bilinear'),
        ('resnet18.tv_in1k', 69.752, 89.082, 'resnet.py:18', 256, 'bilinear'),
        ('densenet161.tv_in1k', 77.384, 93.656, 'densenet.py:161', 256, 'bicubic'),
        ('densenet201.tv_in1k', 77.284, 93.48, 'densenet.py:201', 256, 'bicubic'),
        ('densenet169.tv_in1k', 75.922, 92.976, 'densenet.py:169', 256, 'bicubic'),
        ('densenet121.tv_in1k', 74.75, 92.158, 'densenet.py:121', 256, 'bicubic'),
        ('vgg19_bn.tv_in1k', 74.23, 91.848, '', 0, ''),
        ('vgg16_bn.tv_in1k', 73.354, 91.49, '', 0, ''),
        ('vgg13_bn.tv_in1k', 71.56, 90.372, '', 0, ''),
        ('vgg11_bn.tv_in1k', 70.374, 89.802, '', 0, ''),
        ('vgg19.tv_in1k', 72.4, 90.878, 'vgg.py:E', 256, 'bilinear'),
        ('vgg16.tv_in1k', 71.594, 90.398, 'vgg.py:D', 256, 'bilinear'),
        ('vgg13.tv_in1k', 69.95, 89.262, 'vgg.py:B', 256, 'bilinear'),
        ('vgg11.tv_in1k', 69.05, 88.63, 'vgg.py:A', 256, 'bilinear'),
    )
)
CAFFE = tuple(
    _row(name, 'caffe', top1, top5, config, overrides, 256)
    for name, top1, top5, config, overrides in (
        ('bvlc_alexnet', 57.1, 80.2, 'alexnet.py:two_tower', NO),
        ('bvlc_reference_caffenet', 57.4, 80.4, 'alexnet.py:two_tower', NO),
        ('bvlc_googlenet', 68.7, 88.9, 'googlenet.py:googlenet', NO),
        ('ResNet-50', 75.3, 92.2, 'resnet.py:50', NO),
        ('ResNet-101', 76.4, 92.9, 'resnet.py:101', NO),
        ('ResNet-152', 77.0, 93.3, 'resnet.py:152', NO),
        ('DenseNet-121', 74.91, 92.19, '', NO),
        ('DenseNet-169', 76.09, 93.14, '', NO),
        ('DenseNet-201', 77.31, 93.64, '', NO),
        ('DenseNet-161', 77.64, 93.79, '', NO),
        ('SE-ResNet-50', 77.63, 93.64, 'senet.py:se_resnet50', NO),
        ('SE-ResNet-101', 78.25, 94.28, 'senet.py:se_resnet101', NO),
        ('SE-ResNet-152', 78.66, 94.46, 'senet.py:se_resnet152', NO),
        ('SE-ResNeXt-50', 79.03, 94.46, 'senet.py:se_resnext50', NO),
        ('SE-ResNeXt-101', 80.19, 95.04, 'senet.py:se_resnext101', NO),
        ('SENet-154', 81.32, 95.53, 'senet.py:senet154', NO),
    )
)


def _tested(
    name: str, top1: float, top5: float, config: str = '', run: str = '',
    weights: tuple[str, ...] = (), overrides: dict[str, Any] | None = None,
) -> Row:  # fmt: skip
    if not config:
        return Row(name, top1, top5, columns={'weights': name}, note=ABSENT)
    return Row(
        name, top1, top5, f'configs/{config}', overrides or {}, 'center', run,
        columns={'weights': name}, weights=weights, of_weights=True,
    )  # fmt: skip


# MatConvNet's own test of others' weights.
MATCONVNET = (
    _tested('resnet-50', 24.6, 7.7, 'resnet.py:50', 'resnet_50',
            ('caffe/ResNet-50', 'keras/resnet50')),
    _tested('resnet-101', 23.4, 7.0, 'resnet.py:101', 'resnet_101',
            ('caffe/ResNet-101', 'keras/resnet101')),
    _tested('resnet-152', 23.0, 6.7, 'resnet.py:152', 'resnet_152',
            ('caffe/ResNet-152', 'keras/resnet152')),
    _tested('vgg-verydeep-16', 28.5, 9.9, 'vgg.py:D', 'vgg_D_jitter', ('keras/vgg16',),
            JITTER | AT_256),
    _tested('vgg-verydeep-19', 28.7, 9.9, 'vgg.py:E', 'vgg_E_jitter', ('keras/vgg19',),
            JITTER | AT_256),
    _tested('googlenet (Princeton)', 34.2, 12.9),
    _tested('caffe-ref', 42.6, 19.7, 'alexnet.py:two_tower', 'caffe_bvlc_reference_caffenet',
            ('caffe/bvlc_reference_caffenet',)),
    _tested('caffe-alex', 42.6, 19.6, 'alexnet.py:two_tower', 'caffe_bvlc_alexnet',
            ('caffe/bvlc_alexnet',)),
    _tested('matconvnet-alex', 41.8, 19.2),
    _tested('matconvnet-vgg-verydeep-16', 28.3, 9.5),
)  # fmt: skip

CROP = 'printed as accuracies'
PAPER = Paper(
    {
        'torchvision': Table(
            'torchvision 0.29.2', 'IMAGENET1K_V1 weights', TORCHVISION, paper='stated', note=CROP
        ),
        'torchvision-v2': Table(
            'torchvision 0.29.2', 'IMAGENET1K_V2 weights', TORCHVISION_V2, paper='stated', note=CROP
        ),
        'keras': Table(
            'Keras Applications, keras.io', 'ImageNet weights', KERAS, paper='stated',
            note=f'{CROP}; the protocol is not stated there: a centre crop of 7/8 is ours',
        ),
        'timm': Table(
            'timm, results-imagenet.csv', 'ImageNet weights', TIMM, paper='stated', note=CROP
        ),
        'caffe': Table(
            "Caffe's model zoo and the authors' READMEs", 'ImageNet weights', CAFFE,
            paper='stated', note='SE and ResNet are printed as errors, the others as accuracies',
        ),
        'matconvnet': Table(
            'MatConvNet, pretrained models', "Others' weights, tested anew", MATCONVNET,
            paper='stated',
        ),
    }
)  # fmt: skip
