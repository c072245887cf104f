"""The miniature of VGG's tables 3 and 4 that `make demo` fills, beside the paper's column D."""

from typing import Any

from cnn_arch.papers.published import Finding, Paper, Row, Table


def _row(run: str, trained: str, tested: str, paper: tuple[float, float], several: bool) -> Row:
    keys: dict[str, Any] = (
        {'eval.scales': tuple(map(int, tested.split(',')))}
        if several
        else {'eval.scale': int(tested)}
    )
    if run == 'vgg_jitter':
        keys['init_from'] = 'vgg_fixed'
    return Row(
        run, *paper, f'configs/demo.py:{run}', keys, 'dense_multiscale' if several else 'dense',
        columns={'ConvNet': 'small', 'train S': trained, 'test Q': tested},
    )  # fmt: skip


def _table(number: int, title: str, *rows: Row) -> Table:
    return Table(
        f'Simonyan & Zisserman 2015, table {number}, in miniature',
        title,
        rows,
        split='scenes with one real digit each',
        comparable=False,
        paper='paper, column D',
    )


PAPER = Paper(
    {
        '3': _table(
            3, 'ConvNet performance at a single test scale',
            _row('vgg_fixed', '56', '56', (27.0, 8.8), False),
            _row('vgg_jitter', '[56;112]', '84', (25.6, 8.1), False),
        ),
        '4': _table(
            4, 'ConvNet performance at multiple test scales',
            _row('vgg_fixed', '56', '49,56,63', (26.6, 8.6), True),
            _row('vgg_jitter', '[56;112]', '56,84,112', (24.8, 7.5), True),
        ),
    },
    (
        Finding(
            'Scale jitter in training beats a fixed scale', 'sections 4.1 and 4.2',
            (('one test scale', '3/vgg_fixed', '3/vgg_jitter'),
             ('three', '4/vgg_fixed', '4/vgg_jitter')),
        ),
        Finding(
            'Three test scales beat one', 'section 4.2',
            (('fixed S', '3/vgg_fixed', '4/vgg_fixed'),
             ('jitter', '3/vgg_jitter', '4/vgg_jitter')),
        ),
    ),
)  # fmt: skip
