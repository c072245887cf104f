"""The results of K. He, X. Zhang, S. Ren, J. Sun, CVPR 2016 (arXiv 1512.03385), tables 2 to 5.

`authors` is the single-crop accuracy of the released models (README of deep-residual-networks);
the paper has no table of it.
"""

from cnn_arch.papers import vgg
from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'He et al. 2016, table'
TEST_SET = 'measured on the test set of the challenge, whose labels are not public'
SLIDING = 'resnet_multiscale_sliding'
FULLY_CONVOLUTIONAL = (
    'the paper\'s "fully-convolutional form" has two readings: resnet_multiscale pools over the '
    f'whole map, --config.eval.protocol={SLIDING} slides the 7x7 pooling over it; that images are '
    'mirrored and posteriors averaged is ours, too'
)
PUBLIC = {
    depth: (f'keras/resnet{depth}', f'caffe/ResNet-{depth}') for depth in ('50', '101', '152')
}


def _row(variant: str, model: str, top1: float | None, top5: float | None, protocol: str) -> Row:
    return Row(
        variant, top1, top5, f'configs/resnet.py:{variant}', {}, protocol,
        f'resnet_{variant}', columns={'model': model}, weights=PUBLIC.get(variant, ()),
        readings=(SLIDING,) if protocol == 'resnet_multiscale' else (),
    )  # fmt: skip


def _quoted(name: str, model: str, top1: float | None, top5: float | None) -> Row:
    return cited(name, top1, top5, columns={'model': model})


VGG_16 = Row(
    'vgg-16', 28.07, 9.33, 'configs/vgg.py:D',
    {'data.augment.scale_min': 256, 'data.augment.scale_max': 512}, 'ten_crop', 'vgg_D_jitter',
    columns={'model': 'VGG-16 [41]'}, weights=('keras/vgg16', 'caffe/VGG_ILSVRC_16_layers'),
    alternatives=vgg.begun_from('D', 'jitter'), note="the authors' own test of the public network",
)  # fmt: skip

TABLE_2 = (
    _row('plain18', 'plain, 18 layers', 27.94, None, 'ten_crop'),
    _row('18-A', 'ResNet, 18 layers', 27.88, None, 'ten_crop'),
    _row('plain34', 'plain, 34 layers', 28.54, None, 'ten_crop'),
    _row('34-A', 'ResNet, 34 layers', 25.03, None, 'ten_crop'),
)
TABLE_3 = (
    VGG_16,
    _quoted('googlenet', 'GoogLeNet [44]', None, 9.15),
    _quoted('prelu', 'PReLU-net [13]', 24.27, 7.38),
    _row('plain34', 'plain-34', 28.54, 10.02, 'ten_crop'),
    _row('34-A', 'ResNet-34 A', 25.03, 7.76, 'ten_crop'),
    _row('34-B', 'ResNet-34 B', 24.52, 7.46, 'ten_crop'),
    _row('34-C', 'ResNet-34 C', 24.19, 7.40, 'ten_crop'),
    _row('50', 'ResNet-50', 22.85, 6.71, 'ten_crop'),
    _row('101', 'ResNet-101', 21.75, 6.05, 'ten_crop'),
    _row('152', 'ResNet-152', 21.43, 5.71, 'ten_crop'),
)
TABLE_4 = (
    _quoted('vgg-14', "VGG [41] (ILSVRC'14), test set", None, 8.43),
    _quoted('googlenet', "GoogLeNet [44] (ILSVRC'14)", None, 7.89),
    Row(
        'vgg-v5', 24.4, 7.1, 'configs/vgg.py:E',
        {'data.augment.scale_min': 256, 'data.augment.scale_max': 512},
        'vgg_multicrop_and_dense', 'vgg_E_jitter', columns={'model': 'VGG [41] (v5)'},
        weights=('keras/vgg19', 'caffe/VGG_ILSVRC_19_layers'),
        alternatives=vgg.begun_from('E', 'jitter'),
    ),
    _quoted('prelu', 'PReLU-net [13]', 21.59, 5.71),
    _quoted('bn-inception', 'BN-inception [16]', 21.99, 5.81),
    _row('34-B', 'ResNet-34 B', 21.84, 5.71, 'resnet_multiscale'),
    _row('34-C', 'ResNet-34 C', 21.53, 5.60, 'resnet_multiscale'),
    _row('50', 'ResNet-50', 20.74, 5.25, 'resnet_multiscale'),
    _row('101', 'ResNet-101', 19.87, 4.60, 'resnet_multiscale'),
    _row('152', 'ResNet-152', 19.38, 4.49, 'resnet_multiscale'),
)  # fmt: skip
TABLE_5 = (
    _quoted('vgg-14', "VGG [41] (ILSVRC'14)", None, 7.32),
    _quoted('googlenet-14', "GoogLeNet [44] (ILSVRC'14)", None, 6.66),
    _quoted('vgg-v5', 'VGG [41] (v5)', None, 6.8),
    _quoted('prelu', 'PReLU-net [13]', None, 4.94),
    _quoted('bn-inception', 'BN-inception [16]', None, 4.82),
    cited('resnet-15', None, 3.57, columns={'model': "ResNet (ILSVRC'15)"}, note=TEST_SET),
)
AUTHORS = (
    _row('50', 'ResNet-50', 24.7, 7.8, 'center'),
    _row('101', 'ResNet-101', 23.6, 7.1, 'center'),
    _row('152', 'ResNet-152', 23.0, 6.7, 'center'),
)


def _cifar(layers: int, parameters: str, error: float, weights: str = '', printed: str = '') -> Row:
    variant = f'cifar-{layers}'
    return Row(
        variant, error, None, f'configs/resnet.py:{variant}', {}, 'center', f'resnet_{variant}',
        columns={'method': 'ResNet', 'layers': f'{layers}', 'parameters': parameters,
                 'weights, published': weights, 'mean of five': printed},
        weights=(f'cifar/resnet{layers}',),
    )  # fmt: skip


def _cifar_quoted(
    name: str, method: str, error: float, layers: str = '', parameters: str = '', printed: str = ''
) -> Row:
    columns = {
        'method': method,
        'layers': layers,
        'parameters': parameters,
        'mean of five': printed,
    }
    return cited(name, error, None, columns=columns)


TABLE_6 = (
    _cifar_quoted('maxout', 'Maxout [10]', 9.38),
    _cifar_quoted('nin', 'NIN [25]', 8.81),
    _cifar_quoted('dsn', 'DSN [24]', 8.22),
    _cifar_quoted('fitnet', 'FitNet [35]', 8.39, '19', '2.5M'),
    _cifar_quoted('highway-19', 'Highway [42, 43]', 7.54, '19', '2.3M', '7.72 ± 0.16'),
    _cifar_quoted('highway-32', 'Highway [42, 43]', 8.80, '32', '1.25M'),
    _cifar(20, '0.27M', 8.75, '8.27'),
    _cifar(32, '0.46M', 7.51, '7.37'),
    _cifar(44, '0.66M', 7.17, '6.90'),
    _cifar(56, '0.85M', 6.97, '6.61'),
    _cifar(110, '1.7M', 6.43, '6.32', '6.61 ± 0.16'),
    _cifar(1202, '19.4M', 7.93),
)

PAPER = Paper(
    {
        '2': Table(f'{CITATION} 2', 'Top-1 error, 10-crop testing', TABLE_2),
        '3': Table(f'{CITATION} 3', 'Error rates, 10-crop testing', TABLE_3),
        '4': Table(f'{CITATION} 4', 'Error rates of single-model results', TABLE_4,
                   note=FULLY_CONVOLUTIONAL),
        '5': Table(f'{CITATION} 5', 'Error rates of ensembles', TABLE_5, split='ILSVRC test',
                   note='ResNet: six models, two of them with 152 layers'),
        '6': Table(f'{CITATION} 6', 'Classification error on the CIFAR-10 test set', TABLE_6,
                   split='CIFAR-10 test',
                   note='the best of five runs, mean and deviation beside it where printed'),
        'authors': Table('He et al. 2016, README of the released models',
                         'One crop of 224x224, shorter side 256', AUTHORS),
    },
    (
        Finding(
            'Plain networks degrade with depth', 'section 4.1',
            (('34 against 18 layers', '2/plain34', '2/plain18'),),
        ),
        Finding(
            'Residual networks gain from it', 'section 4.1',
            (('34 against 18 layers', '2/18-A', '2/34-A'),
             ('50 against 34', '3/34-C', '3/50'), ('101 against 50', '3/50', '3/101'),
             ('152 against 101', '3/101', '3/152')),
        ),
        Finding(
            'On CIFAR-10 deeper residual networks err less', 'section 4.2',
            tuple((f'{deep} layers against {shallow}', f'6/cifar-{shallow}', f'6/cifar-{deep}')
                  for shallow, deep in ((20, 32), (32, 44), (44, 56), (56, 110))),
        ),
        Finding(
            'until there are too many for so few pictures', 'section 4.2',
            (('110 layers against 1202', '6/cifar-1202', '6/cifar-110'),),
        ),
        Finding(
            'Projections do slightly better than identities', 'section 4.1',
            (('B against A', '3/34-A', '3/34-B'), ('C against B', '3/34-B', '3/34-C')),
        ),
    ),
)  # fmt: skip
