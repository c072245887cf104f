"""The results of G. Huang et al., CVPR 2017 (arXiv 1608.06993v5), table 3.

`authors` is the accuracy of their released models (README); 161 is not in the table of v5.
"""

from cnn_arch.papers.published import Finding, Paper, Row, Table

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
AUTHORS = tuple(
    _row(variant, 'single-crop', top1, None)
    for variant, top1 in (('121', 25.0), ('169', 23.6), ('201', 22.5), ('161', 22.2))
)

PAPER = Paper(
    {
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
