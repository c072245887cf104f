"""What the papers print about the size of their networks, as they print it.

The keys are those of `python -m cnn_arch.summary --all`: config file and variant. Only figures that
a paper prints stand here; an exact count that follows from a paper's table is a matter for tests.
Where a figure of ours does not round to the printed one, the note says why.
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


CONNECTIONS = (
    'LeCun et al. print connections, which also count biases, sub-sampling and the output; their '
    'layers, too, include sub-sampling and the output.'
)
LENET5 = Printed(
    '7', '60,000', '340,908', 'LeCun et al. 1998, section II-B, as in the preprint', CONNECTIONS
)
ALEXNET = 'Krizhevsky et al. 2012, abstract'
VGG = 'Simonyan & Zisserman 2015, tables 1 and 2'
VGG_HE = 'He et al. 2016, section 3.3'
RESNET = 'He et al. 2016, table 1'
RESNET_V2 = 'He et al. 2016b'
DENSENET = 'Huang et al. 2017, table '
XCEPTION = 'Chollet 2017, section 3 and table 3'
XCEPTION_DEPTH = 'Chollet counts the convolutions without the classifier.'
SENET = 'Hu et al. 2018, table 2'
SENET_COUNT = (
    'Hu et al. count a little more than convolutions and matrix products; the difference is below '
    '0.5 %.'
)
SENET_JOURNAL = 'Hu et al. 2019, table '
SENET_UP = 'Hu et al. round parameters up, and count biases that the gates of these tables lack.'

PRINTED: dict[str, Printed] = {
    'lenet:lenet1': Printed('5', '2,578', '98,442', 'LeCun et al. 1990', CONNECTIONS),
    'lenet:lenet5': LENET5,
    'lenet:lenet5_distortions': LENET5,
    'alexnet:two_tower': Printed(
        '8', '60 M', '', ALEXNET, 'Krizhevsky et al. round 60.97 million down.'
    ),
    'alexnet:one_tower': Printed(source='Krizhevsky 2014 prints no figures'),
    'zfnet:a': Printed('8', source='Zeiler & Fergus 2014, figure 3'),
    'zfnet:b': Printed('8', source='Zeiler & Fergus 2014, figure 3'),
    'vgg:A': Printed('11', '133 M', '', VGG),
    'vgg:A-LRN': Printed('11', '133 M', '', VGG),
    'vgg:B': Printed('13', '133 M', '', VGG),
    'vgg:C': Printed('16', '134 M', '', VGG),
    'vgg:D': Printed(
        '16', '138 M', '15.3 G', f'{VGG}; {VGG_HE}',
        "He et al. print VGG-16's convolutions alone, 15.35 G; for VGG-19 they print the whole.",
    ),
    'vgg:E': Printed('19', '144 M', '19.6 G', f'{VGG}; {VGG_HE}'),
    'googlenet:googlenet': Printed(
        '22', '', '1.5 G', 'Szegedy et al. 2015, sections 1 and 5',
        "Szegedy et al. print 1.5 G as the budget, and table 1's operations add up to it; by its "
        'own sizes they are 1.58 G. With both auxiliary classifiers, which do not run at test '
        'time.',
    ),
    **{f'resnet:{label}': Printed(depth, '', flops, RESNET, note)
       for depth, flops, note, labels in (
        ('18', '1.8 G', '', ('plain18', '18', '18-A', '18-B')),
        ('34', '3.6 G', '', ('plain34', '34-A')),
        ('34', '3.6 G', "He et al. print one figure for all shortcuts, which is option A's.",
         ('34', '34-B', '34-C')),
        ('18', '1.8 G', "He et al. print one figure for all shortcuts, which is option A's.",
         ('18-C',)),
        ('50', '3.8 G', 'He et al. round 3.858 down.', ('50',)),
        ('101', '7.6 G', '', ('101',)),
        ('152', '11.3 G', '', ('152',)),
    ) for label in labels},
    **{f'resnet:{depth}{kind}': Printed(depth, source=RESNET)
       for depth in ('50', '101', '152') for kind in ('-v1_5', '-v2', '-v2-keras')},
    'resnet:200-v2': Printed('200', source=RESNET_V2),
    **{f'resnet:cifar-{depth}': Printed(depth, parameters, '', 'He et al. 2016, table 6')
       for depth, parameters in (
        ('20', '0.27 M'), ('32', '0.46 M'), ('44', '0.66 M'), ('56', '0.85 M'), ('110', '1.7 M'),
        ('1202', '19.4 M'),
    )},
    **{f'resnet:cifar-plain-{depth}': Printed(depth, source='He et al. 2016, figure 6')
       for depth in ('20', '32', '44', '56')},
    **{f'densenet:{depth}': Printed(depth, source=DENSENET + '1')
       for depth in ('121', '169', '201', '161')},
    'densenet:264': Printed(
        '264', '', '', DENSENET + '1', 'By the count of the others, DenseNet-264 has 265 layers.'
    ),
    **{f'densenet:{label}': Printed(depth, millions, source=DENSENET + '2')
       for label, depth, millions in (
        ('plain-L40-k12', '40', '1.0 M'), ('plain-L100-k12', '100', '7.0 M'),
        ('plain-L100-k24', '100', '27.2 M'), ('BC-L100-k12', '100', '0.8 M'),
        ('BC-L250-k24', '250', '15.3 M'), ('BC-L190-k40', '190', '25.6 M'),
    )},
    'xception:xception': Printed('36', '22,855,952', '', XCEPTION, XCEPTION_DEPTH),
    **{f'xception:{label}': Printed('36', '', '', XCEPTION, XCEPTION_DEPTH)
       for label in ('fc', 'relu', 'elu')},
    'senet:se_resnet50': Printed('50', '28.1 M', '3.87 G', f'{SENET} and 7', SENET_COUNT),
    **{f'senet:{label}': Printed(depth, '', flops, SENET, note)
       for label, depth, flops, note in (
        ('resnet50', '50', '3.86 G', ''),
        ('resnet101', '101', '7.58 G', SENET_COUNT),
        ('resnet152', '152', '11.30 G', SENET_COUNT),
        ('se_resnet101', '101', '7.60 G', SENET_COUNT),
        ('se_resnet152', '152', '11.32 G', SENET_COUNT),
        ('resnext50', '50', '4.24 G', SENET_COUNT),
        ('resnext101', '101', '7.99 G', SENET_COUNT),
        ('se_resnext50', '50', '4.25 G', SENET_COUNT),
        ('se_resnext101', '101', '8.00 G', SENET_COUNT),
        ('senet154', '154', '', ''),
        ('bn_inception', '', '2.03 G', ''),
        ('se_bn_inception', '', '2.04 G', SENET_COUNT),
    )},
    'senet:resnext101_64x4d': Printed('101', source='Xie et al. 2017, table 5'),
    **{f'senet:journal-{label}': Printed('50', millions, flops, SENET_JOURNAL + number, note)
       for label, millions, flops, number, note in (
        ('resnet50', '25.6 M', '3.86 G', '13', ''), ('se_resnet50', '28.1 M', '3.87 G', '13',
                                                     SENET_COUNT),
        ('r2', '45.7 M', '', '10', ''), ('r4', '35.7 M', '', '10', SENET_UP),
        ('r8', '30.7 M', '', '10', SENET_UP), ('r32', '26.9 M', '', '10', SENET_UP),
        ('max', '', '', '11', ''), ('relu', '', '', '12', ''), ('tanh', '', '', '12', ''),
        ('stage2', '25.6 M', '3.86 G', '13', ''), ('stage3', '25.7 M', '3.86 G', '13', ''),
        ('stage4', '26.4 M', '3.86 G', '13', SENET_UP), ('pre', '', '', '14', ''),
        ('post', '', '', '14', ''), ('identity', '', '', '14', ''),
        ('3x3', '25.8 M', '3.86 G', '15', SENET_UP), ('no_squeeze', '28.1 M', '4.27 G', '16', ''),
    )},
}  # fmt: skip

UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9}


def agrees(ours: int, printed: str) -> bool:
    """Whether `ours`, rounded as `printed` is ('138 M', '22,855,952', '3.6 G'), is the same."""
    match = re.fullmatch(r'([\d,]+)(\.\d+)? ?([KMG]?)', printed)
    if not match:
        raise ValueError(f'not a printed figure: {printed!r}')
    whole, decimals, unit = match[1].replace(',', ''), match[2] or '', UNITS[match[3]]
    return f'{ours / unit:.{max(len(decimals) - 1, 0)}f}' == whole + decimals
