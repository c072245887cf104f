"""The results of J. Hu, L. Shen, G. Sun, CVPR 2018 (arXiv 1709.01507), tables 2, 4 and 7; of the
journal version (TPAMI 2019, arXiv v4) tables 10 to 16, as `journal-10` and so on.

`authors` is the accuracy of their released models (README), which beat the paper's.
"""

from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Hu et al. 2018, table'
JOURNAL = 'Hu et al. 2019 (journal version), table'
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
    _row('resnet50', 'resnet50', 'ResNet-50', RE, 24.80, 7.48),
    _row('se_resnet50', 'se_resnet50', 'SE-ResNet-50', SE, 23.29, 6.62),
    _original('101', 23.6, 7.1),
    _row('resnet101', 'resnet101', 'ResNet-101', RE, 23.17, 6.52),
    _row('se_resnet101', 'se_resnet101', 'SE-ResNet-101', SE, 22.38, 6.07),
    _original('152', 23.0, 6.7),
    _row('resnet152', 'resnet152', 'ResNet-152', RE, 22.42, 6.34),
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
_RESNEXT = ('configs/senet.py:resnext101_64x4d', 'senet_resnext101_64x4d')
TABLE_4 = (
    _crop('resnet152', 'ResNet-152', 224, 23.0, 6.7, *_RESNET),
    _crop('resnet152', 'ResNet-152', 320, 21.3, 5.5, *_RESNET),
    _crop('resnet200', 'ResNet-200', 224, 21.7, 5.8),
    _crop('resnet200', 'ResNet-200', 320, 20.1, 4.8),
    _crop('inception_v3', 'Inception-v3', 299, 21.2, 5.6),
    _crop('inception_v4', 'Inception-v4', 299, 20.0, 5.0),
    _crop('inception_resnet_v2', 'Inception-ResNet-v2', 299, 19.9, 4.9),
    _crop('resnext101_64x4d', 'ResNeXt-101 (64x4d)', 224, 20.4, 5.3, *_RESNEXT),
    _crop('resnext101_64x4d', 'ResNeXt-101 (64x4d)', 320, 19.1, 4.4, *_RESNEXT),
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
        columns={'model': model}, weights=PUBLIC[variant], of_weights=True,
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


def _ratio(ratio: int, top1: float, top5: float, parameters: str) -> Row:
    """Table 7, CVPR."""
    return Row(
        f'r{ratio}', top1, top5, 'configs/senet.py:se_resnet50',
        {} if ratio == 16 else {'model.options.reduction': ratio}, 'center',
        'senet_se_resnet50' + ('' if ratio == 16 else f'_r{ratio}'),
        columns={'ratio r': f'{ratio}', 'parameters': parameters},
    )  # fmt: skip


TABLE_7 = (
    _ratio(4, 23.21, 6.63, '35.7 M'),
    _ratio(8, 23.19, 6.64, '30.7 M'),
    _ratio(16, 23.29, 6.62, '28.1 M'),
    _ratio(32, 23.40, 6.77, '26.9 M'),
    Row(
        'original', 24.80, 7.48, 'configs/senet.py:resnet50', {}, 'center', 'senet_resnet50',
        columns={'ratio r': 'original', 'parameters': '25.6 M'},
    ),
)  # fmt: skip


def _journal(name: str, printed: str, top1: float, top5: float) -> Row:
    """`name` is the configuration's, without `journal-`; `printed` the paper's word for it."""
    return Row(
        name, top1, top5, f'configs/senet.py:journal-{name}', {}, 'center',
        f'senet_journal-{name}', columns={'design': printed},
    )  # fmt: skip


def _fixed(name: str, printed: str, top1: float, top5: float) -> Row:
    """Footnote 2: "a 270 epoch fixed schedule"."""
    keys = {'schedule.kind': 'steps', 'schedule.boundaries': (125.0, 200.0, 250.0),
            'train.epochs': 270.0}  # fmt: skip
    return Row(
        f'{name}-270', top1, top5, f'configs/senet.py:journal-{name}', keys, 'center',
        f'senet_journal-{name}_270', columns={'design': f'{printed}, 270 epochs (footnote 2)'},
    )  # fmt: skip


_PLAIN, _SE = (23.30, 6.55), (22.28, 6.03)
JOURNAL_TABLES = {
    '10': ('Reduction ratios', (
        _journal('r2', 'r = 2', 22.29, 6.00),
        _journal('r4', 'r = 4', 22.25, 6.09),
        _journal('r8', 'r = 8', 22.26, 5.99),
        _journal('se_resnet50', 'r = 16', *_SE),
        _journal('r32', 'r = 32', 22.72, 6.20),
        _journal('resnet50', 'original', *_PLAIN),
        _fixed('resnet50', 'original', 23.21, 6.53),
        _fixed('se_resnet50', 'r = 16', 22.20, 6.00),
    )),
    '11': ('Squeeze operators', (
        _journal('max', 'max', 22.57, 6.09),
        _journal('se_resnet50', 'avg', *_SE),
    )),
    '12': ('Excitation operators', (
        _journal('relu', 'ReLU', 23.47, 6.98),
        _journal('tanh', 'tanh', 23.00, 6.38),
        _journal('se_resnet50', 'sigmoid', *_SE),
    )),
    '13': ('SE blocks at different stages', (
        _journal('resnet50', 'ResNet-50', *_PLAIN),
        _journal('stage2', 'SE stage 2', 23.03, 6.48),
        _journal('stage3', 'SE stage 3', 23.04, 6.32),
        _journal('stage4', 'SE stage 4', 22.68, 6.22),
        _journal('se_resnet50', 'SE all', *_SE),
    )),
    '14': ('Integration strategies', (
        _journal('se_resnet50', 'SE', *_SE),
        _journal('pre', 'SE-PRE', 22.23, 6.00),
        _journal('post', 'SE-POST', 22.78, 6.35),
        _journal('identity', 'SE-Identity', 22.20, 6.15),
    )),
    '15': ('SE blocks at the 3x3 convolution', (
        _journal('se_resnet50', 'SE', *_SE),
        _journal('3x3', 'SE 3x3', 22.48, 6.02),
    )),
    '16': ('Effect of the squeeze operator', (
        _journal('resnet50', 'ResNet-50', *_PLAIN),
        _journal('no_squeeze', 'NoSqueeze', 22.93, 6.39),
        _journal('se_resnet50', 'SE', *_SE),
    )),
}  # fmt: skip

PAPER = Paper(
    {
        '2': Table(
            f'{CITATION} 2', 'Single-crop error rates', TABLE_2,
            note="the ResNets' originals are those of their authors' README",
        ),
        '4': Table(f'{CITATION} 4', 'Single-crop error rates of state-of-the-art CNNs', TABLE_4),
        '7': Table(f'{CITATION} 7', 'Reduction ratios of SE-ResNet-50', TABLE_7),
        **{
            f'journal-{number}': Table(f'{JOURNAL} {number}', f'SE-ResNet-50. {title}', rows)
            for number, (title, rows) in JOURNAL_TABLES.items()
        },
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
                    ('ResNet-50', 'resnet50', 'se_resnet50'),
                    ('ResNet-101', 'resnet101', 'se_resnet101'),
                    ('ResNet-152', 'resnet152', 'se_resnet152'),
                    ('the original ResNet-50', 'resnet50-original', 'se_resnet50'),
                    ('the original ResNet-101', 'resnet101-original', 'se_resnet101'),
                    ('the original ResNet-152', 'resnet152-original', 'se_resnet152'),
                    ('ResNeXt-50', 'resnext50', 'se_resnext50'),
                    ('ResNeXt-101', 'resnext101', 'se_resnext101'),
                    ('BN-Inception', 'bn_inception', 'se_bn_inception'),
                )
            ),
        ),
        Finding(
            'Gates of any ratio lower the error of ResNet-50', 'table 7',
            tuple((f'r = {ratio}', '7/original', f'7/r{ratio}') for ratio in (4, 8, 16, 32)),
        ),
        Finding(
            'Average pooling is a slightly better squeeze than the maximum',
            'journal version, section 6.2',
            (('avg', 'journal-11/max', 'journal-11/se_resnet50'),),
        ),
        Finding(
            'tanh for the sigmoid is slightly worse; ReLU is worse than no gates at all',
            'journal version, section 6.3',
            (
                ('tanh', 'journal-12/tanh', 'journal-12/se_resnet50'),
                ('ReLU against ResNet-50', 'journal-12/relu', 'journal-13/resnet50'),
            ),
        ),
        Finding(
            'Gates help in each stage, and together more', 'journal version, section 6.4',
            tuple(
                pair
                for stage in (2, 3, 4)
                for pair in (
                    (f'stage {stage}', 'journal-13/resnet50', f'journal-13/stage{stage}'),
                    (f'all, not {stage}', f'journal-13/stage{stage}', 'journal-13/se_resnet50'),
                )
            ),
        ),
        Finding(
            'A gate after the addition is worse than one before it',
            'journal version, section 6.5',
            tuple(
                (label, 'journal-14/post', f'journal-14/{row}')
                for label, row in (
                    ('SE', 'se_resnet50'), ('SE-PRE', 'pre'), ('SE-Identity', 'identity'),
                )
            ),
        ),
        Finding(
            'Gates need the global information of the squeeze', 'journal version, section 7.1',
            (('SE', 'journal-16/no_squeeze', 'journal-16/se_resnet50'),),
        ),
    ),
)  # fmt: skip
