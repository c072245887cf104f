"""The published numbers: held against an independent transcription, and every row is runnable."""

import functools

import ml_collections
import pytest

from cnn_arch import commands, configuration
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.tables import set_keys
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Row
from cnn_arch.weights.public import PUBLIC
from tests.shared import transcription

TABLES = {
    'alexnet': '12',
    'zfnet': '12',
    'vgg': '34567',
    'googlenet': '23',
    'resnet': '2345',
    'densenet': '3',
    'xception': '1',
    'senet': '247',
}


def transcribed(paper: str, number: str) -> list[tuple[float | None, float | None]]:
    """Top-1 and top-5 error of each row of a table, where one is printed."""
    table = transcription()[paper]['tables'][number]
    suffixes = ('', '_224', '_320') if table.get('split') != 'test' else ('', '_test')
    pairs = [
        (row.get(f'top1_error{suffix}'), row.get(f'top5_error{suffix}'))
        for row in table['rows']
        for suffix in suffixes
    ]
    return [pair for pair in pairs if pair != (None, None)]


def in_order(pairs):
    return sorted(pairs, key=lambda pair: [-1 if error is None else error for error in pair])


@pytest.mark.parametrize(
    ('paper', 'number'), [(paper, n) for paper, numbers in TABLES.items() for n in numbers]
)
def test_numbers_are_the_papers(paper: str, number: str) -> None:
    rows = PAPERS[paper].tables[number].rows
    ours = [(row.top1_error, row.top5_error) for row in rows]
    ours = [pair for pair in ours if pair != (None, None)]
    assert in_order(ours) == in_order(transcribed(paper, number))


def test_every_table_says_where_it_is_from() -> None:
    for published in PAPERS.values():
        for table in published.tables.values():
            assert table.citation
            assert table.title
            names = [row.name for row in table.rows]
            assert len(names) == len(set(names))


@functools.cache
def loaded(name: str) -> ml_collections.ConfigDict:
    path, variant = configuration.split(name)
    assert not path.is_absolute()
    return configuration.load(f'{configuration.CONFIGS.parent / path}:{variant}')


@pytest.mark.parametrize('paper', PAPERS)
def test_every_row_can_be_run_or_says_why_not(paper: str) -> None:
    for number, table in PAPERS[paper].tables.items():
        for row in table.rows:
            where = f'{paper}:{number} {row.name}'
            assert row.config or row.note or row.members, where
            for member in (row, *row.members):
                if member.config:
                    check_runnable(member, where)


def check_runnable(row: Row, where: str) -> None:
    """Its keys exist and fit together, so do its protocol and its public weights."""
    assert set(row.weights) <= PUBLIC.keys(), where
    config = loaded(row.config).copy_and_resolve_references()
    assert row.overrides.keys() <= commands.flatten(config).keys(), where
    set_keys(config, row.overrides)
    configuration.validate(config)
    assert protocols.resolve(config, row.protocol).scales, where
    for error in (row.top1_error, row.top5_error):
        assert error is None or 0 < error < 100, where


def test_findings_name_rows_that_bear_them_out() -> None:
    for published in PAPERS.values():
        for finding in published.findings:
            assert len(finding.differences) in (0, len(finding.pairs))
            assert all(difference > 0 for difference in finding.differences)
            for label, worse, better in finding.pairs:
                errors = []
                for place in (worse, better):
                    number, _, name = place.partition('/')
                    rows = {row.name: row for row in published.tables[number].rows}
                    errors.append(rows[name])
                if finding.differences:  # nothing else is printed
                    assert errors[0].top1_error is errors[1].top1_error is None
                    continue
                metric = 'top1_error'
                if None in (errors[0].top1_error, errors[1].top1_error):
                    metric = 'top5_error'
                assert getattr(errors[0], metric) > getattr(errors[1], metric), label


def test_alexnets_comparisons_are_the_papers() -> None:
    """Sections 3.2 to 3.4: points by which two GPUs, normalisation and overlap lower the errors."""
    printed = transcription()['alexnet']['ablations']['deltas']
    points = [(one['top1_error_drop'], one['top5_error_drop']) for one in printed[:3]]
    rows = {row.name: row.columns for row in PAPERS['alexnet'].tables['sections'].rows}
    for name, drop in zip(('one_gpu', 'without_lrn', 'without_overlap'), points, strict=True):
        assert f'{drop[0]} / {drop[1]}' in rows[name].values()
    (finding,) = PAPERS['alexnet'].findings
    assert finding.differences == tuple(top1 for top1, _ in points)


def test_zfnets_training_errors_are_the_papers() -> None:
    printed = [row['top1_error_train'] for row in transcription()['zfnet']['tables']['2']['rows']]
    rows = PAPERS['zfnet'].tables['2'].rows
    assert [float(row.columns['train top-1']) for row in rows] == printed
    assert all(row.config for row in rows)


def test_the_journal_ablations_of_senet_are_printed_so() -> None:
    printed, tables = transcription()['senet']['tables'], PAPERS['senet'].tables

    def errors(number: str) -> dict[str, tuple[float | None, float | None]]:
        rows = tables[f'journal-{number}'].rows
        return {row.name: (row.top1_error, row.top5_error) for row in rows}

    ratios = errors('10')
    for row in printed['7']['tpami']['rows']:
        name = {'original': 'resnet50', 16: 'se_resnet50'}.get(row['r'], f'r{row["r"]}')
        assert ratios[name] == (row['top1_error'], row['top5_error'])
    other = printed['tpami_11_16']
    plain, gated = tuple(other['stages']['none']), tuple(other['stages']['all'])
    assert errors('11') == {'max': tuple(other['squeeze']['max']), 'se_resnet50': gated}
    assert errors('12') == {
        'relu': tuple(other['excitation']['relu']),
        'tanh': tuple(other['excitation']['tanh']),
        'se_resnet50': gated,
    }
    stages = {f'stage{stage}': tuple(other['stages'][stage]) for stage in '234'}
    assert errors('13') == {'resnet50': plain, **stages, 'se_resnet50': gated}
    integration = other['integration']
    assert errors('14') == {
        'se_resnet50': gated,
        'pre': tuple(integration['SE-PRE']),
        'post': tuple(integration['SE-POST']),
        'identity': tuple(integration['SE-Identity']),
    }
    assert errors('15') == {'se_resnet50': gated, '3x3': tuple(other['se_3x3'])}
    assert errors('16') == {
        'resnet50': plain, 'no_squeeze': tuple(other['no_squeeze']), 'se_resnet50': gated,
    }  # fmt: skip


def test_decay_of_biases_is_as_the_configs_say() -> None:
    """None of these papers says; each config's docstring says why."""
    decays_all = {'vgg:D': False, 'resnet:50': True, 'densenet:121': True,
                  'senet:se_resnet50': False, 'senet:resnext101_64x4d': True}  # fmt: skip
    for name, expected in decays_all.items():
        family, _, variant = name.partition(':')
        assert loaded(f'configs/{family}.py:{variant}').optim.decay_all == expected
        text = (configuration.CONFIGS / f'{family}.py').read_text()
        assert '\nDecay:' in text
        assert 'optim.decay_all=' in text
