"""The results of K. Simonyan, A. Zisserman, ICLR 2015 (arXiv 1409.1556v6), tables 3 to 7."""

import dataclasses
from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Simonyan & Zisserman 2015, table'

# Training scale S as the paper prints it: the run's folder, and the keys that set it.
SCALES: dict[str, tuple[str, int, int]] = {
    '256': ('256', 256, 256),
    '384': ('384', 384, 384),
    '[256;512]': ('jitter', 256, 512),
}
# Where the paper's nets began that did not begin at random (section 3.1): at S = 384 from S = 256,
# with rate 0.001; with jitter from S = 384, the rate is not printed.
BEGUN: dict[str, tuple[tuple[str, float], ...]] = {
    '256': (),
    '384': (('256', 0.001),),
    'jitter': (('384', 0.001), ('384', 0.01)),
}
# Public weights are those of the nets trained with scale jitter.
PUBLIC = {
    'vgg_D_jitter': ('keras/vgg16', 'caffe/VGG_ILSVRC_16_layers'),
    'vgg_E_jitter': ('keras/vgg19', 'caffe/VGG_ILSVRC_19_layers'),
}
PROTOCOLS = {
    'dense': 'vgg_dense_multiscale',
    'multi-crop': 'vgg_150',
    'multi-crop & dense': 'vgg_multicrop_and_dense',
}


def begun_from(column: str, label: str) -> tuple[dict[str, Any], ...]:
    """Keys of the ways in which the paper's net of a column and scale was begun from another."""
    return tuple(
        {'init_from': f'vgg_{column}_{begun}', 'optim.learning_rate': rate}
        for begun, rate in BEGUN[label]
    )


def _row(
    column: str, scale: str, tested: str, top1: float, top5: float, protocol: str, suffix: str = ''
) -> Row:
    label, smallest, largest = SCALES[scale]
    overrides: dict[str, Any] = {
        'data.augment.scale_min': smallest,
        'data.augment.scale_max': largest,
    }
    if ',' not in tested:
        overrides['eval.scale'] = int(tested)
    run = f'vgg_{column}_{label}'
    return Row(
        f'{column}-{label}{suffix}',
        top1,
        top5,
        f'configs/vgg.py:{column}',
        overrides,
        protocol,
        run,
        columns={'ConvNet': column, 'train S': scale, 'test Q': tested},
        weights=PUBLIC.get(run, ()),
        alternatives=begun_from(column, label),
    )


TABLE_3 = tuple(
    _row(column, scale, tested, top1, top5, 'vgg_dense')
    for column, scale, tested, top1, top5 in (
        ('A', '256', '256', 29.6, 10.4),
        ('A-LRN', '256', '256', 29.7, 10.5),
        ('B', '256', '256', 28.7, 9.9),
        ('C', '256', '256', 28.1, 9.4),
        ('C', '384', '384', 28.1, 9.3),
        ('C', '[256;512]', '384', 27.3, 8.8),
        ('D', '256', '256', 27.0, 8.8),
        ('D', '384', '384', 26.8, 8.7),
        ('D', '[256;512]', '384', 25.6, 8.1),
        ('E', '256', '256', 27.3, 9.0),
        ('E', '384', '384', 26.9, 8.7),
        ('E', '[256;512]', '384', 25.5, 8.0),
    )
)
TABLE_4 = tuple(
    _row(column, scale, tested, top1, top5, 'vgg_dense_multiscale')
    for column, scale, tested, top1, top5 in (
        ('B', '256', '224,256,288', 28.2, 9.6),
        ('C', '256', '224,256,288', 27.7, 9.2),
        ('C', '384', '352,384,416', 27.8, 9.2),
        ('C', '[256;512]', '256,384,512', 26.3, 8.2),
        ('D', '256', '224,256,288', 26.6, 8.6),
        ('D', '384', '352,384,416', 26.5, 8.6),
        ('D', '[256;512]', '256,384,512', 24.8, 7.5),
        ('E', '256', '224,256,288', 26.9, 8.7),
        ('E', '384', '352,384,416', 26.7, 8.6),
        ('E', '[256;512]', '256,384,512', 24.8, 7.5),
    )
)
TABLE_5 = tuple(
    _row(column, '[256;512]', '256,384,512', top1, top5, PROTOCOLS[method], f'-{suffix}')
    for column, method, suffix, top1, top5 in (
        ('D', 'dense', 'dense', 24.8, 7.5),
        ('D', 'multi-crop', 'crops', 24.6, 7.5),
        ('D', 'multi-crop & dense', 'both', 24.4, 7.2),
        ('E', 'dense', 'dense', 24.8, 7.5),
        ('E', 'multi-crop', 'crops', 24.6, 7.4),
        ('E', 'multi-crop & dense', 'both', 24.4, 7.1),
    )
)


def _named(rows: tuple[Row, ...], *names: str) -> tuple[Row, ...]:
    by_name = {row.name: row for row in rows}
    return tuple(by_name[name] for name in names)


# The submission's third net is D with jitter of which only the fully connected layers were tuned
# (section 4.4), from the net of S = 384 as all with jitter (section 3.1); the rate is that which
# the paper has for the other net begun from one of another S.
_TUNED = Row(
    'D-jitter-fc', None, None, 'configs/vgg.py:D',
    {
        'data.augment.scale_min': 256, 'data.augment.scale_max': 512, 'init_from': 'vgg_D_384',
        'optim.freeze': ('conv*',), 'optim.learning_rate': 0.001,
    }, 'vgg_dense_multiscale',
    'vgg_D_jitter_fc',
)  # fmt: skip
TABLE_6 = (
    Row(
        'submission', 24.7, 7.5,
        members=(
            *_named(TABLE_4, 'D-256', 'D-384'), _TUNED,
            *_named(TABLE_4, 'C-256', 'C-384', 'E-256', 'E-384'),
        ),
        columns={'method': '7 nets of the ILSVRC submission, dense', 'top-5 test': '7.3'},
    ),
    Row(
        'D+E-dense', 24.0, 7.1, members=_named(TABLE_5, 'D-jitter-dense', 'E-jitter-dense'),
        columns={'method': 'D and E, [256;512], dense', 'top-5 test': '7.0'},
    ),
    Row(
        'D+E-crops', 23.9, 7.2, members=_named(TABLE_5, 'D-jitter-crops', 'E-jitter-crops'),
        columns={'method': 'D and E, [256;512], multi-crop', 'top-5 test': '-'},
    ),
    Row(
        'D+E-both', 23.7, 6.8, members=_named(TABLE_5, 'D-jitter-both', 'E-jitter-both'),
        columns={'method': 'D and E, [256;512], multi-crop & dense', 'top-5 test': '6.8'},
    ),
)  # fmt: skip


def _other(name: str, method: str, top1: float | None, top5: float | None, test: str) -> Row:
    return cited(name, top1, top5, columns={'method': method, 'top-5 test': test})


TABLE_7 = (
    Row(
        'vgg-2-both', 23.7, 6.8, members=TABLE_6[3].members,
        columns={'method': 'VGG (2 nets, multi-crop & dense eval.)', 'top-5 test': '6.8'},
    ),
    dataclasses.replace(
        TABLE_5[5], name='vgg-1-both',
        columns={'method': 'VGG (1 net, multi-crop & dense eval.)', 'top-5 test': '7.0'},
    ),
    Row(
        'vgg-7-dense', 24.7, 7.5, members=TABLE_6[0].members,
        columns={'method': 'VGG (ILSVRC submission, 7 nets, dense eval.)', 'top-5 test': '7.3'},
    ),
    _other('googlenet-1', 'GoogLeNet (1 net)', None, 7.9, '7.9'),
    _other('googlenet-7', 'GoogLeNet (7 nets)', None, 6.7, '6.7'),
    _other('msra-11', 'MSRA (11 nets)', None, None, '8.1'),
    _other('msra-1', 'MSRA (1 net)', 27.9, 9.1, '9.1'),
    _other('clarifai-n', 'Clarifai (multiple nets)', None, None, '11.7'),
    _other('clarifai-1', 'Clarifai (1 net)', None, None, '12.5'),
    _other('zeiler-6', 'Zeiler & Fergus (6 nets)', 36.0, 14.7, '14.8'),
    _other('zeiler-1', 'Zeiler & Fergus (1 net)', 37.5, 16.0, '16.1'),
    _other('overfeat-7', 'OverFeat (7 nets)', 34.0, 13.2, '13.6'),
    _other('overfeat-1', 'OverFeat (1 net)', 35.7, 14.2, '-'),
    _other('krizhevsky-5', 'Krizhevsky et al. (5 nets)', 38.1, 16.4, '16.4'),
    _other('krizhevsky-1', 'Krizhevsky et al. (1 net)', 40.7, 18.2, '-'),
)  # fmt: skip

PAPER = Paper(
    {
        '3': Table(f'{CITATION} 3', 'ConvNet performance at a single test scale', TABLE_3),
        '4': Table(f'{CITATION} 4', 'ConvNet performance at multiple test scales', TABLE_4),
        '5': Table(f'{CITATION} 5', 'ConvNet evaluation techniques comparison', TABLE_5),
        '6': Table(f'{CITATION} 6', 'Multiple ConvNet fusion results', TABLE_6),
        '7': Table(f'{CITATION} 7', 'Comparison with the state of the art', TABLE_7,
                   note='GoogLeNet: the cells of validation and test are merged in print'),
    },
    (
        Finding(
            'Response normalisation does not help', 'section 4.1', (('', '3/A-LRN-256', '3/A-256'),)
        ),
        Finding(
            'The error decreases with depth from A to D', 'section 4.1',
            (('A, B', '3/A-256', '3/B-256'), ('B, C', '3/B-256', '3/C-256'),
             ('C, D', '3/C-256', '3/D-256')),
        ),
        Finding(
            'Scale jitter in training beats a fixed scale', 'sections 4.1 and 4.2',
            tuple(
                (f'{column}, {label}', f'{table}/{column}-384', f'{table}/{column}-jitter')
                for table, label in (('3', 'one test scale'), ('4', 'three'))
                for column in 'CDE'
            ),
        ),
        Finding(
            'Three test scales beat one', 'section 4.2',
            tuple((f'{row.columns["ConvNet"]}, S = {row.columns["train S"]}',
                   f'3/{row.name}', f'4/{row.name}') for row in TABLE_4),
        ),
        Finding(
            'Multiple crops do slightly better than dense evaluation, and both together better '
            'still', 'section 4.3',
            tuple(
                (f'{column}, {label}', f'5/{column}-jitter-{worse}', f'5/{column}-jitter-{better}')
                for column in 'DE'
                for label, worse, better in (('crops', 'dense', 'crops'), ('both', 'crops', 'both'))
            ),
        ),
    ),
)  # fmt: skip
