"""The results of A. Krizhevsky, I. Sutskever, G. E. Hinton, NIPS 2012: tables 1 and 2, and as
`sections` what sections 3.1 to 3.4 compare, of which by how much it lowers the errors is printed.
"""

from cnn_arch.papers.published import Finding, Paper, Row, Table, cited

CITATION = 'Krizhevsky et al. 2012, table'
OTHER_DATA = 'measured on ILSVRC-2010, which is not a data source of this project'
SIXTH = 'a sixth convolution, pre-trained on ImageNet 2011 Fall: not a network of this project'


def _net(seed: int) -> Row:
    return Row(
        f'alexnet_{seed}', None, None, 'configs/alexnet.py:two_tower', {'seed': seed}, 'ten_crop'
    )


TABLE_2 = (
    cited('sift', None, None, columns={'model': 'SIFT + FVs [7]', 'top-5 test': '26.2'}),
    Row(
        '1-cnn', 40.7, 18.2, 'configs/alexnet.py:two_tower', {}, 'ten_crop', 'alexnet',
        columns={'model': '1 CNN', 'top-5 test': '-'}, weights=('caffe/bvlc_alexnet',),
    ),
    Row(
        '5-cnns', 38.1, 16.4, members=tuple(_net(seed) for seed in range(1, 6)),
        columns={'model': '5 CNNs', 'top-5 test': '16.4'},
    ),
    cited('1-cnn*', 39.0, 16.6, columns={'model': '1 CNN*', 'top-5 test': '-'}, note=SIXTH),
    cited('7-cnns*', 36.7, 15.4, columns={'model': '7 CNNs*', 'top-5 test': '15.3'}, note=SIXTH),
)  # fmt: skip


def _compared(
    variant: str, network: str, section: str, above: tuple[float, float] | None, run: str = ''
) -> Row:
    printed = f'{above[0]} / {above[1]}' if above else '-'
    return Row(
        variant, None, None, f'configs/alexnet.py:{variant}', {}, 'ten_crop',
        run or f'alexnet_{variant}',
        columns={'network': network, 'section': section, 'above the first, top-1 / top-5': printed},
    )  # fmt: skip


# Points of top-1 and top-5 error above the network of section 3.5.
ONE_GPU, WITHOUT_LRN, WITHOUT_OVERLAP = (1.7, 1.2), (1.4, 1.2), (0.4, 0.3)
SECTIONS = (
    _compared('two_tower', 'two GPUs', '3.5', None, 'alexnet'),
    _compared('tanh', 'tanh for ReLU', '3.1', None),
    _compared('one_gpu', 'one GPU, half the kernels', '3.2', ONE_GPU),
    _compared('without_lrn', 'without response normalisation', '3.3', WITHOUT_LRN),
    _compared('without_overlap', 'pooling without overlap', '3.4', WITHOUT_OVERLAP),
)

PAPER = Paper(
    {
        '1': Table(
            f'{CITATION} 1', 'Comparison of results',
            (
                cited('sparse', 47.1, 28.2, columns={'model': 'Sparse coding [2]'}),
                cited('sift', 45.7, 25.7, columns={'model': 'SIFT + FVs [24]'}),
                cited('cnn', 37.5, 17.0, columns={'model': 'CNN'}, note=OTHER_DATA),
                cited(
                    'cnn-1-crop', 39.0, 18.3, note=OTHER_DATA,
                    columns={'model': 'CNN, without the average over ten patches (footnote 5)'},
                ),
            ),
            split='ILSVRC-2010 test',
        ),
        '2': Table(
            f'{CITATION} 2', 'Comparison of error rates', TABLE_2,
            note='* were pre-trained on the whole ImageNet 2011 Fall release',
        ),
        'sections': Table(
            'Krizhevsky et al. 2012, sections 3.1 to 3.4', 'What the architecture is compared with',
            SECTIONS,
            note='of which data set and of how many crops the differences are is not printed; of '
            'tanh, that a four-layer network reaches 25 % training error on CIFAR-10 six times '
            'faster with ReLU',
        ),
    },
    (
        Finding(
            'Two GPUs, response normalisation and overlapping pooling each lower the error',
            'sections 3.2 to 3.4',
            (
                ('two GPUs', 'sections/one_gpu', 'sections/two_tower'),
                ('response normalisation', 'sections/without_lrn', 'sections/two_tower'),
                ('overlapping pooling', 'sections/without_overlap', 'sections/two_tower'),
            ),
            (ONE_GPU[0], WITHOUT_LRN[0], WITHOUT_OVERLAP[0]),
        ),
    ),
)  # fmt: skip
