"""The results of A. Krizhevsky, I. Sutskever, G. E. Hinton, NIPS 2012, tables 1 and 2."""

from cnn_arch.papers.published import Paper, Row, Table, cited

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
    }
)  # fmt: skip
