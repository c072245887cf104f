"""The results of F. Chollet, CVPR 2017 (arXiv 1610.02357v3), table 1, printed as accuracies."""

from cnn_arch.papers import vgg
from cnn_arch.papers.published import Paper, Row, Table, cited

BLACKLIST = 'the paper leaves the blacklisted images out, we count them'


def _columns(model: str, top1: str, top5: str) -> dict[str, str]:
    return {'model': model, 'top-1 accuracy': top1, 'top-5 accuracy': top5}


TABLE_1 = (
    Row(
        'vgg-16', 28.5, 9.9, 'configs/vgg.py:D',
        {'data.augment.scale_min': 256, 'data.augment.scale_max': 512, 'eval.scale': 256},
        'center', 'vgg_D_jitter', columns=_columns('VGG-16', '0.715', '0.901'),
        weights=('keras/vgg16',), alternatives=vgg.begun_from('D', 'jitter'),
    ),
    Row(
        'resnet-152', 23.0, 6.7, 'configs/resnet.py:152', {}, 'center', 'resnet_152',
        columns=_columns('ResNet-152', '0.770', '0.933'), weights=('keras/resnet152',),
    ),
    cited('inception-v3', 21.8, 5.9, columns=_columns('Inception V3', '0.782', '0.941')),
    Row(
        'xception', 21.0, 5.5, 'configs/xception.py:xception', {}, 'center', 'xception',
        columns=_columns('Xception', '0.790', '0.945'),
        weights=('keras/xception',),
    ),
)  # fmt: skip

PAPER = Paper(
    {
        '1': Table(
            'Chollet 2017, table 1', 'Classification performance, single crop, single model',
            TABLE_1, split='ILSVRC-2012 validation, non-blacklisted images', note=BLACKLIST,
        ),
    }
)  # fmt: skip
