"""The results of M. D. Zeiler, R. Fergus, ECCV 2014, tables 1 and 2 (2 and 3 of arXiv 1311.2901).

The protocol is not spelled out; section 3 trains on ten crops of 224x224, as do we test.
"""

from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Zeiler & Fergus 2014, table'
A, B = 'configs/zfnet.py:a', 'configs/zfnet.py:b'
ALEXNET = 'configs/alexnet.py:two_tower'
REPLICATION = (
    "the paper's is Zeiler & Fergus' own replication of Krizhevsky et al., ours is "
    'configs/alexnet.py:two_tower'
)


def _member(seed: int) -> Row:
    return Row(f'zfnet_a_{seed}', None, None, A, {'seed': seed}, 'ten_crop')


FIVE = tuple(_member(seed) for seed in range(1, 6))
WIDE = Row(
    '1-convnet-b', 37.5, 16.0, B, {}, 'ten_crop', 'zfnet_b',
    columns={'model': '1 convnet, layers 3, 4, 5: 512, 1024, 512 maps - (b)', 'top-5 test': '16.1'},
)  # fmt: skip


def _quoted(name: str, model: str, top1: float | None, top5: float | None, test: str) -> Row:
    return cited(name, top1, top5, columns={'model': model, 'top-5 test': test})


TABLE_1 = (
    _quoted('gunji', 'Gunji et al. [12]', None, None, '26.2'),
    _quoted('decaf', 'DeCAF [7]', None, None, '19.2'),
    _quoted('krizhevsky-1', 'Krizhevsky et al. [18], 1 convnet', 40.7, 18.2, '-'),
    _quoted('krizhevsky-5', 'Krizhevsky et al. [18], 5 convnets', 38.1, 16.4, '16.4'),
    _quoted('krizhevsky-1*', 'Krizhevsky et al. *[18], 1 convnet', 39.0, 16.6, '-'),
    _quoted('krizhevsky-7*', 'Krizhevsky et al. *[18], 7 convnets', 36.7, 15.4, '15.3'),
    Row(
        'replication', 40.5, 18.1, ALEXNET, {}, 'ten_crop', 'alexnet', note=REPLICATION,
        columns={'model': 'Our replication of [18], 1 convnet', 'top-5 test': '-'},
    ),
    Row(
        '1-convnet-a', 38.4, 16.5, A, {}, 'ten_crop', 'zfnet_a',
        columns={'model': '1 convnet as per Fig. 3', 'top-5 test': '-'},
    ),
    Row(
        '5-convnets-a', 36.7, 15.3, members=FIVE,
        columns={'model': '5 convnets as per Fig. 3 - (a)', 'top-5 test': '15.3'},
    ),
    WIDE,
    Row(
        '6-convnets', 36.0, 14.7, members=(*FIVE, WIDE),
        columns={'model': '6 convnets, (a) & (b) combined', 'top-5 test': '14.8'},
    ),
    _quoted('howard', 'Howard [15]', None, None, '13.5'),
    _quoted('clarifai', 'Clarifai [28]', None, None, '11.7'),
)  # fmt: skip


def _ablation(
    name: str, model: str, train: float, top1: float, top5: float, config: str, units: int = 0,
    run: str = '',
) -> Row:  # fmt: skip
    overrides: dict[str, Any] = {'model.options.fc_units': units} if units else {}
    columns = {'model': model, 'train top-1': f'{train}'}
    note = REPLICATION if config == ALEXNET else ''
    return Row(name, top1, top5, config, overrides, 'ten_crop', run, columns=columns, note=note)


TABLE_2 = (
    _ablation('alexnet', 'Our replication of [18], 1 convnet', 35.1, 40.5, 18.1, ALEXNET,
              run='alexnet'),
    _ablation('alexnet-34', 'removed layers 3, 4', 41.8, 45.4, 22.1,
              'configs/alexnet.py:without_3_4', run='alexnet_without_3_4'),
    _ablation('alexnet-7', 'removed layer 7', 27.4, 40.0, 18.4, 'configs/alexnet.py:without_7',
              run='alexnet_without_7'),
    _ablation('alexnet-67', 'removed layers 6, 7', 27.4, 44.8, 22.4,
              'configs/alexnet.py:without_6_7', run='alexnet_without_6_7'),
    _ablation('alexnet-3467', 'removed layers 3, 4, 6, 7', 71.1, 71.3, 50.1,
              'configs/alexnet.py:without_3_4_6_7', run='alexnet_without_3_4_6_7'),
    _ablation('alexnet-2048', 'layers 6, 7: 2048 units', 40.3, 41.7, 18.8, ALEXNET, 2048,
              'alexnet_2048'),
    _ablation('alexnet-8192', 'layers 6, 7: 8192 units', 26.8, 40.0, 18.1, ALEXNET, 8192,
              'alexnet_8192'),
    _ablation('zfnet', 'Our model (as per Fig. 3)', 33.1, 38.4, 16.5, A, run='zfnet_a'),
    _ablation('zfnet-2048', 'layers 6, 7: 2048 units', 38.2, 40.2, 17.6, A, 2048, 'zfnet_a_2048'),
    _ablation('zfnet-8192', 'layers 6, 7: 8192 units', 22.0, 38.8, 17.0, A, 8192, 'zfnet_a_8192'),
    _ablation('zfnet-b', 'layers 3, 4, 5: 512, 1024, 512 maps', 18.8, 37.5, 16.0, B,
              run='zfnet_b'),
    _ablation('zfnet-b-8192', 'layers 6, 7: 8192 units and layers 3, 4, 5: 512, 1024, 512 maps',
              10.0, 38.3, 16.9, B, 8192, 'zfnet_b_8192'),
)  # fmt: skip

PAPER = Paper(
    {
        '1': Table(f'{CITATION} 1', 'ImageNet 2012 classification error rates', TABLE_1,
                   note='* were trained on both ImageNet 2011 and 2012'),
        '2': Table(f'{CITATION} 2', 'Architectural changes and their effect', TABLE_2,
                   note='train top-1 is the error on the training set, printed for comparison'),
    },
    (
        Finding(
            'Without the middle layers or without the fully connected ones the error is a little '
            'larger', 'section 5.1',
            (('without 3, 4', '2/alexnet-34', '2/alexnet'),
             ('without 6, 7', '2/alexnet-67', '2/alexnet')),
        ),
        Finding(
            'Without both it is dramatically worse: the overall depth is important', 'section 5.1',
            (('than without 3, 4', '2/alexnet-3467', '2/alexnet-34'),
             ('than without 6, 7', '2/alexnet-3467', '2/alexnet-67')),
        ),
        Finding(
            'Wider middle layers help', 'section 5.1',
            (('512, 1024, 512 maps', '2/zfnet', '2/zfnet-b'),),
        ),
        Finding(
            'Wider middle and fully connected layers together over-fit', 'section 5.1',
            (('8192 units', '2/zfnet-b-8192', '2/zfnet-b'),),
        ),
    ),
)  # fmt: skip
