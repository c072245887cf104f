"""What the papers print about the size of their networks, as they print it.

The keys are those of `python -m cnn_arch.summary --all`: config file and variant. Only figures that
a paper prints stand here; an exact count that follows from a paper's table is a matter for tests.
"""

import re
from typing import NamedTuple

# The order of the papers, as the tables show them.
ORDER = (
    'lenet', 'alexnet', 'zfnet', 'vgg', 'googlenet', 'resnet', 'densenet', 'xception', 'senet',
)  # fmt: skip


class Printed(NamedTuple):
    """Printed figures with their units, their place, and a note where the print needs one."""

    depth: str = ''
    parameters: str = ''
    multiply_adds: str = ''
    source: str = ''
    note: str = ''


DENSENET = 'Huang et al. 2017, table '


def _vgg(depth: int, millions: int, multiply_adds: str = '', note: str = '') -> Printed:
    source = 'Simonyan & Zisserman 2015, tables 1 and 2'
    if multiply_adds:
        source += '; multiply-adds: He et al. 2016, section 3.3'
    return Printed(f'{depth}', f'{millions} M', multiply_adds, source, note)


PRINTED: dict[str, Printed] = {
    'vgg:A': _vgg(11, 133),
    'vgg:A-LRN': _vgg(11, 133),
    'vgg:B': _vgg(13, 133),
    'vgg:C': _vgg(16, 134),
    'vgg:D': _vgg(
        16, 138, '15.3 G', 'He et al. print 15.3 G for VGG-16, its convolutions alone (15.35 G).'
    ),
    'vgg:E': _vgg(19, 144, '19.6 G'),
    **{
        f'densenet:{depth}': Printed(depth, source=DENSENET + '1')
        for depth in (
            '121',
            '169',
            '201',
            '264',
            '161',
        )
    },
    **{
        f'densenet:{label}': Printed(depth, millions, source=DENSENET + '2')
        for label, depth, millions in (
            ('plain-L40-k12', '40', '1.0 M'),
            ('plain-L100-k12', '100', '7.0 M'),
            ('plain-L100-k24', '100', '27.2 M'),
            ('BC-L100-k12', '100', '0.8 M'),
            ('BC-L250-k24', '250', '15.3 M'),
            ('BC-L190-k40', '190', '25.6 M'),
        )
    },
}

UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9}


def agrees(ours: int, printed: str) -> bool:
    """Whether `ours`, rounded as `printed` is ('138 M', '22,855,952', '3.6 G'), is the same."""
    match = re.fullmatch(r'([\d,]+)(\.\d+)? ?([KMG]?)', printed)
    if not match:
        raise ValueError(f'not a printed figure: {printed!r}')
    whole, decimals, unit = match[1].replace(',', ''), match[2] or '', UNITS[match[3]]
    return f'{ours / unit:.{max(len(decimals) - 1, 0)}f}' == whole + decimals
