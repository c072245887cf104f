"""The results of C. Szegedy et al., CVPR 2015 (arXiv 1409.4842), tables 2 and 3: top-5 only."""

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Szegedy et al. 2015, table'
CONFIG = 'configs/googlenet.py:googlenet'
CROPS = (
    'how 1 and 10 crops were cut (10.07 and 9.15) is not printed; our reading: the central 224x224 '
    "of the image whose shorter side is 256, and AlexNet's ten of its central square"
)
PUBLIC = ('caffe/bvlc_googlenet',)


def _members(protocol: str) -> tuple[Row, ...]:
    """Seven networks from the same initial weights, which "differ only in sampling methodologies
    and the random order in which they see input images" (section 7); that one of the paper's is
    wider is not specified there.
    """
    return tuple(
        Row(f'googlenet_{seed}', None, None, CONFIG, {'data.seed': seed}, protocol)
        for seed in range(1, 8)
    )


def _row(models: int, crops: int, cost: int, error: float, delta: str) -> Row:
    protocol, one = f'googlenet_{crops}', models == 1
    return Row(
        f'{models}-{crops}', None, error, CONFIG if one else '', {}, protocol,
        'googlenet' if one else '', () if one else _members(protocol),
        {'models': f'{models}', 'crops': f'{crops}', 'cost': f'{cost}', 'against base': delta},
        PUBLIC if one else (),
    )  # fmt: skip


TABLE_3 = (
    _row(1, 1, 1, 10.07, 'base'),
    _row(1, 10, 10, 9.15, '-0.92'),
    _row(1, 144, 144, 7.89, '-2.18'),
    _row(7, 1, 7, 8.09, '-1.98'),
    _row(7, 10, 70, 7.62, '-2.45'),
    _row(7, 144, 1008, 6.67, '-3.45'),  # 6.67 - 10.07 is -3.40: as printed
)


def _team(team: str, year: int, place: str, error: float, data: str) -> Row:
    name = f'{team.lower()}-{year}' + ('' if data == 'no' else '-22k')
    columns = {'team': team, 'year': f'{year}', 'place': place, 'external data': data}
    return cited(name, None, error, columns=columns)


TABLE_2 = (
    _team('SuperVision', 2012, '1st', 16.4, 'no'),
    _team('SuperVision', 2012, '1st', 15.3, 'ImageNet 22k'),
    _team('Clarifai', 2013, '1st', 11.7, 'no'),
    _team('Clarifai', 2013, '1st', 11.2, 'ImageNet 22k'),
    _team('MSRA', 2014, '3rd', 7.35, 'no'),
    _team('VGG', 2014, '2nd', 7.32, 'no'),
    Row(
        'googlenet-2014',
        None,
        6.67,
        members=TABLE_3[5].members,
        columns={'team': 'GoogLeNet', 'year': '2014', 'place': '1st', 'external data': 'no'},
    ),
)

PAPER = Paper(
    {
        '2': Table(
            f'{CITATION} 2', 'Classification performance', TABLE_2,
            split='test sets of the challenges (GoogLeNet: the same on validation)',
        ),
        '3': Table(
            f'{CITATION} 3', 'GoogLeNet classification performance break down', TABLE_3, note=CROPS
        ),
    },
    (
        Finding(
            'More crops help', 'section 7',
            (('1 to 10', '3/1-1', '3/1-10'), ('10 to 144', '3/1-10', '3/1-144')),
        ),
    ),
)  # fmt: skip
