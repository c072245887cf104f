"""The results of J. Hu, L. Shen, G. Sun, CVPR 2018 (arXiv 1709.01507), tables 2 and 4.

`authors` is the accuracy of their released models (README), which beat the paper's.
"""

from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Hu et al. 2018, table'
OWN_RECIPE = "the network trained by this paper's recipe has no configuration here"
PUBLIC = {
    'se_resnet50': ('caffe/SE-ResNet-50', 'timm/legacy_seresnet50.in1k'),
    'se_resnet101': ('caffe/SE-ResNet-101', 'timm/legacy_seresnet101.in1k'),
    'se_resnet152': ('caffe/SE-ResNet-152', 'timm/legacy_seresnet152.in1k'),
    'se_resnext50': ('caffe/SE-ResNeXt-50', 'timm/legacy_seresnext50_32x4d.in1k'),
    'se_resnext101': ('caffe/SE-ResNeXt-101', 'timm/legacy_seresnext101_32x4d.in1k'),
    'se_bn_inception': ('caffe/SE-BN-Inception',),
    'senet154': ('caffe/SENet-154', 'timm/legacy_senet154.in1k'),
}


def _row(name: str, variant: str, model: str, column: str, top1: float, top5: float) -> Row:
    return Row(
        name, top1, top5, f'configs/senet.py:{variant}', {}, 'center', f'senet_{variant}',
        columns={'model': model, 'column': column},
    )  # fmt: skip


def _original(depth: str, top1: float, top5: float) -> Row:
    return Row(
        f'resnet{depth}-original', top1, top5, f'configs/resnet.py:{depth}', {}, 'center',
        f'resnet_{depth}', columns={'model': f'ResNet-{depth}', 'column': 'original'},
        weights=(f'keras/resnet{depth}', f'caffe/ResNet-{depth}'),
    )  # fmt: skip


def _without(
    name: str, model: str, column: str, top1: float | None, top5: float | None, note: str = ''
) -> Row:
    more = {'note': note} if note else {}
    return cited(name, top1, top5, columns={'model': model, 'column': column}, **more)


RE, SE = 're-implementation', 'SENet'
OTHER = 'not a network of this project'
TABLE_2 = (
    _original('50', 24.7, 7.8),
    _without('resnet50', 'ResNet-50', RE, 24.80, 7.48, OWN_RECIPE),
    _row('se_resnet50', 'se_resnet50', 'SE-ResNet-50', SE, 23.29, 6.62),
    _original('101', 23.6, 7.1),
    _without('resnet101', 'ResNet-101', RE, 23.17, 6.52, OWN_RECIPE),
    _row('se_resnet101', 'se_resnet101', 'SE-ResNet-101', SE, 22.38, 6.07),
    _original('152', 23.0, 6.7),
    _without('resnet152', 'ResNet-152', RE, 22.42, 6.34, OWN_RECIPE),
    _row('se_resnet152', 'se_resnet152', 'SE-ResNet-152', SE, 21.57, 5.73),
    _without('resnext50-original', 'ResNeXt-50', 'original', 22.2, None),
    _row('resnext50', 'resnext50', 'ResNeXt-50', RE, 22.11, 5.90),
    _row('se_resnext50', 'se_resnext50', 'SE-ResNeXt-50', SE, 21.10, 5.49),
    _without('resnext101-original', 'ResNeXt-101', 'original', 21.2, 5.6),
    _row('resnext101', 'resnext101', 'ResNeXt-101', RE, 21.18, 5.57),
    _row('se_resnext101', 'se_resnext101', 'SE-ResNeXt-101', SE, 20.70, 5.01),
    _without('vgg16', 'VGG-16 (BN)', RE, 27.02, 8.81, OTHER),
    _without('se_vgg16', 'SE-VGG-16 (BN)', SE, 25.22, 7.70, OTHER),
    _without('bn_inception-original', 'BN-Inception', 'original', 25.2, 7.82),
    _row('bn_inception', 'bn_inception', 'BN-Inception', RE, 25.38, 7.89),
    _row('se_bn_inception', 'se_bn_inception', 'SE-BN-Inception', SE, 24.23, 7.14),
    _without('inception_resnet_v2-original', 'Inception-ResNet-v2', 'original', 19.9, 4.9),
    _without('inception_resnet_v2', 'Inception-ResNet-v2', RE, 20.37, 5.21, OTHER),
    _without('se_inception_resnet_v2', 'SE-Inception-ResNet-v2', SE, 19.80, 4.79, OTHER),
)


def _crop(
    name: str, model: str, size: int, top1: float, top5: float, config: str = '', run: str = '',
    weights: tuple[str, ...] = (), note: str = '',
) -> Row:  # fmt: skip
    columns = {'model': model, 'crop': f'{size}x{size}'}
    if not config:
        more: dict[str, Any] = {'note': note} if note else {}
        return cited(f'{name}-{size}', top1, top5, columns=columns, **more)
    # At 320 the whole of the shorter side is seen (He et al. 2016b, table 5).
    overrides = {} if size == 224 else {'eval.crop': size, 'eval.scale': size}
    return Row(
        f'{name}-{size}', top1, top5, config, overrides, 'center', run, columns=columns,
        weights=weights,
    )  # fmt: skip


_RESNET = ('configs/resnet.py:152', 'resnet_152', ('keras/resnet152', 'caffe/ResNet-152'))
_SENET = ('configs/senet.py:senet154', 'senet_senet154', PUBLIC['senet154'])
TABLE_4 = (
    _crop('resnet152', 'ResNet-152', 224, 23.0, 6.7, *_RESNET),
    _crop('resnet152', 'ResNet-152', 320, 21.3, 5.5, *_RESNET),
    _crop('resnet200', 'ResNet-200', 224, 21.7, 5.8),
    _crop('resnet200', 'ResNet-200', 320, 20.1, 4.8),
    _crop('inception_v3', 'Inception-v3', 299, 21.2, 5.6),
    _crop('inception_v4', 'Inception-v4', 299, 20.0, 5.0),
    _crop('inception_resnet_v2', 'Inception-ResNet-v2', 299, 19.9, 4.9),
    _crop('resnext101_64x4d', 'ResNeXt-101 (64x4d)', 224, 20.4, 5.3),
    _crop('resnext101_64x4d', 'ResNeXt-101 (64x4d)', 320, 19.1, 4.4),
    _crop('densenet264', 'DenseNet-264', 224, 22.15, 6.12, 'configs/densenet.py:264',
          'densenet_264'),
    _crop('attention92', 'Attention-92', 299, 19.5, 4.8),
    _crop('polynet', 'Very Deep PolyNet', 331, 18.71, 4.25),
    _crop('pyramidnet200', 'PyramidNet-200', 224, 20.1, 5.4),
    _crop('pyramidnet200', 'PyramidNet-200', 320, 19.2, 4.7),
    _crop('dpn131', 'DPN-131', 224, 19.93, 5.12),
    _crop('dpn131', 'DPN-131', 320, 18.55, 4.16),
    _crop('senet154', 'SENet-154', 224, 18.68, 4.47, *_SENET),
    _crop('senet154', 'SENet-154', 320, 17.28, 3.79, *_SENET),
    _crop('nasnet', 'NASNet-A (6@4032), after the challenge', 331, 17.3, 3.8),
    _crop('senet154-post', 'SENet-154, after the challenge', 320, 16.88, 3.58,
          note='trained with crops of 320x320: not a configuration of this project'),
)  # fmt: skip

AUTHORS = tuple(
    Row(
        variant, top1, top5, f'configs/senet.py:{variant}', {}, 'center', f'senet_{variant}',
        columns={'model': model}, weights=PUBLIC[variant],
    )
    for variant, model, top1, top5 in (
        ('se_bn_inception', 'SE-BN-Inception', 23.62, 7.04),
        ('se_resnet50', 'SE-ResNet-50', 22.37, 6.36),
        ('se_resnet101', 'SE-ResNet-101', 21.75, 5.72),
        ('se_resnet152', 'SE-ResNet-152', 21.34, 5.54),
        ('se_resnext50', 'SE-ResNeXt-50 (32x4d)', 20.97, 5.54),
        ('se_resnext101', 'SE-ResNeXt-101 (32x4d)', 19.81, 4.96),
        ('senet154', 'SENet-154', 18.68, 4.47),
    )
)  # fmt: skip

PAPER = Paper(
    {
        '2': Table(
            f'{CITATION} 2', 'Single-crop error rates', TABLE_2,
            note="the ResNets' originals are those of their authors' README",
        ),
        '4': Table(f'{CITATION} 4', 'Single-crop error rates of state-of-the-art CNNs', TABLE_4),
        'authors': Table(
            'Hu et al. 2018, README of the released models',
            'One crop of 224x224, shorter side 256', AUTHORS,
        ),
    },
    (
        Finding(
            'Gates lower the error of any network', 'section 6.1',
            tuple(
                (name, f'2/{plain}', f'2/{gated}')
                for name, plain, gated in (
                    ('ResNet-50', 'resnet50-original', 'se_resnet50'),
                    ('ResNet-101', 'resnet101-original', 'se_resnet101'),
                    ('ResNet-152', 'resnet152-original', 'se_resnet152'),
                    ('ResNeXt-50', 'resnext50', 'se_resnext50'),
                    ('ResNeXt-101', 'resnext101', 'se_resnext101'),
                    ('BN-Inception', 'bn_inception', 'se_bn_inception'),
                )
            ),
        ),
    ),
)  # fmt: skip
