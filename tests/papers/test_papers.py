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
    'senet': '24',
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
            for label, worse, better in finding.pairs:
                errors = []
                for place in (worse, better):
                    number, _, name = place.partition('/')
                    rows = {row.name: row for row in published.tables[number].rows}
                    errors.append(rows[name])
                metric = 'top1_error'
                if None in (errors[0].top1_error, errors[1].top1_error):
                    metric = 'top5_error'
                assert getattr(errors[0], metric) > getattr(errors[1], metric), label
