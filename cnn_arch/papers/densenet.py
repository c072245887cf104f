"""The results of G. Huang et al., CVPR 2017 (arXiv 1608.06993v5), tables 2 and 3.

`authors` is the accuracy of their released models (README); 161 is not in the table of v5.
"""

from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

PUBLIC = {
    depth: (f'keras/densenet{depth}', f'torchvision/densenet{depth}')
    for depth in ('121', '169', '201')
}
# As the authors tested; who published the weights may have tested otherwise.
TESTED = {'eval.interpolation': 'bicubic'}
PROTOCOLS = {'single-crop': 'center', '10-crop': 'densenet_10'}


def _row(variant: str, crops: str, top1: float, top5: float | None) -> Row:
    return Row(
        f'{variant}-{crops}', top1, top5, f'configs/densenet.py:{variant}', TESTED,
        PROTOCOLS[crops], f'densenet_{variant}',
        columns={'model': f'DenseNet-{variant}', 'crops': crops}, weights=PUBLIC.get(variant, ()),
    )  # fmt: skip


TABLE_3 = tuple(
    _row(variant, crops, top1, top5)
    for variant, crops, top1, top5 in (
        ('121', 'single-crop', 25.02, 7.71),
        ('121', '10-crop', 23.61, 6.66),
        ('169', 'single-crop', 23.80, 6.85),
        ('169', '10-crop', 22.08, 5.92),
        ('201', 'single-crop', 22.58, 6.34),
        ('201', '10-crop', 21.46, 5.54),
        ('264', 'single-crop', 22.15, 6.12),
        ('264', '10-crop', 20.80, 5.29),
    )
)
# Table 2: what each column trains and tests on, as changes of the configuration, which is C10's.
# + is augmentation by shifts and mirroring, for which dropout is left out. CIFAR-100's mean and
# deviation are those of the authors' code (fb.resnet.torch).
SHIFTED = {'data.augment.crop': 'padded', 'data.augment.padding': 4, 'data.augment.mirror': True,
           'model.options.dropout': 0.0}  # fmt: skip
CIFAR_100 = {'data.source': 'cifar100', 'model.num_classes': 100,
             'data.mean': (129.3, 124.1, 112.4), 'data.std': (68.2, 65.4, 70.4)}  # fmt: skip
COLUMNS: dict[str, dict[str, Any]] = {
    'C10': {}, 'C10+': SHIFTED, 'C100': CIFAR_100, 'C100+': SHIFTED | CIFAR_100
}  # fmt: skip
NO_SVHN = 'SVHN is not a data source of this project'


def _cifar(network: str, parameters: str, column: str, error: float) -> Row:
    kind = 'DenseNet-BC' if network.startswith('BC') else 'DenseNet'
    _, depth, growth = network.split('-')
    columns = {'method': f'{kind} (k = {growth[1:]})', 'depth': depth[1:],
               'parameters': parameters, 'column': column}  # fmt: skip
    if column not in COLUMNS:
        return cited(f'{network}-{column}', error, None, columns=columns, note=NO_SVHN)
    return Row(
        f'{network}-{column}', error, None, f'configs/densenet.py:{network}', COLUMNS[column],
        'center', f'densenet_{network}_{column}', columns=columns,
    )  # fmt: skip


TABLE_2 = tuple(
    _cifar(network, parameters, column, error)
    for network, parameters, errors in (
        ('plain-L40-k12', '1.0M', (7.00, 5.24, 27.55, 24.42, 1.79)),
        ('plain-L100-k12', '7.0M', (5.77, 4.10, 23.79, 20.20, 1.67)),
        ('plain-L100-k24', '27.2M', (5.83, 3.74, 23.42, 19.25, 1.59)),
        ('BC-L100-k12', '0.8M', (5.92, 4.51, 24.15, 22.27, 1.76)),
        ('BC-L250-k24', '15.3M', (5.19, 3.62, 19.64, 17.60, 1.74)),
        ('BC-L190-k40', '25.6M', (None, 3.46, None, 17.18, None)),
    )
    for column, error in zip((*COLUMNS, 'SVHN'), errors, strict=True)
    if error is not None
)
AUTHORS = tuple(
    _row(variant, 'single-crop', top1, None)
    for variant, top1 in (('121', 25.0), ('169', 23.6), ('201', 22.5), ('161', 22.2))
)

PAPER = Paper(
    {
        '2': Table(
            'Huang et al. 2017, table 2', 'Error rates on CIFAR and SVHN', TABLE_2,
            split='CIFAR-10 and CIFAR-100 test', note='+ is with shifts and mirroring',
        ),
        '3': Table(
            'Huang et al. 2017, table 3', 'Top-1 and top-5 error rates on ImageNet', TABLE_3
        ),
        'authors': Table(
            'Huang et al. 2017, README of the released models', 'One crop of 224x224', AUTHORS
        ),
    },
    (
        Finding(
            'Deeper networks err less', 'section 4.4',
            tuple(
                (f'{deep} against {shallow}, {crops}', f'3/{shallow}-{crops}', f'3/{deep}-{crops}')
                for shallow, deep in (('121', '169'), ('169', '201'), ('201', '264'))
                for crops in PROTOCOLS
            ),
        ),
    ),
)  # fmt: skip
