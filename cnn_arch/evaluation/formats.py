"""Filled tables as text for a terminal, Markdown, CSV and JSON; errors in percent.

Every format says of each number over an incomplete split how much of it was there, of which network
it is, and in what that network or its test is not the one that the paper printed.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from cnn_arch import environment
from cnn_arch.evaluation.tables import Filled, Line, Measured, Verdict
from cnn_arch.papers.published import Finding, Row

NONE = '-'
DEPARTING = "not as the paper's"  # network or test of a row
Findings = Sequence[tuple[Finding, Sequence[Verdict]]]


def terminal(tables: Sequence[Filled], findings: Findings) -> str:
    """Aligned columns; what rows lack stands below their table."""
    parts = []
    for filled in tables:
        head, cells = _grid(filled)
        columns = list(zip(*head, *cells, strict=True))
        widths = [max(map(len, column)) for column in columns]
        numeric = [_is_numeric(column[2:]) for column in columns]
        lines = [
            '  '.join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in (*head, *cells)
        ]
        lines.insert(2, '-' * max(map(len, lines)))
        parts.append('\n'.join([_title(filled), *lines, *_notes(filled)]))
    parts += ['\n'.join(_finding(finding, found)) for finding, found in findings]
    return '\n\n'.join(parts) + '\n'


def markdown(tables: Sequence[Filled], findings: Findings) -> str:
    """The same as Markdown tables."""
    parts = []
    for filled in tables:
        head, cells = _grid(filled)
        heading = [' '.join(pair).strip() for pair in zip(*head, strict=True)]
        numeric = [_is_numeric(column) for column in zip(*cells, strict=True)]
        rule = ['---:' if right else '---' for right in numeric]
        lines = ['| ' + ' | '.join(_escaped(line)) + ' |' for line in (heading, rule, *cells)]
        notes = [f'- {note}' for note in _notes(filled)]
        parts.append(
            '\n'.join([f'**{_title(filled)}**', '', *lines, *(['', *notes] if notes else [])])
        )
    for finding, found in findings:
        first, *rest = _finding(finding, found)
        parts.append('\n'.join([first, '', *(f'- {line.strip()}' for line in rest)]))
    return '\n\n'.join(parts) + '\n'


CSV_FIELDS = ('table', 'citation', 'split', 'row', 'printed_as', 'paper_top1_error',
              'paper_top5_error', 'top1_error', 'top5_error', 'top1_difference', 'top5_difference',
              'images', 'complete', 'incomplete', 'protocol', 'network', 'departures',
              'missing', 'ties', 'environment')  # fmt: skip


def csv_text(tables: Sequence[Filled], findings: Findings) -> str:
    """One line per row, empty where there is nothing; findings are not in it."""
    del findings
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, lineterminator='\n')
    writer.writeheader()
    for filled in tables:
        for line in filled.lines:
            record = _record(filled, line)
            columns = record.pop('columns')
            record['departures'] = '; '.join(record['departures'])
            if record['environment'] is not None:
                record['environment'] = environment.line(record['environment'])
            record['printed_as'] = '; '.join(f'{name} {text}' for name, text in columns.items())
            writer.writerow({key: '' if value is None else value for key, value in record.items()})
    return file.getvalue()


def json_text(tables: Sequence[Filled], findings: Findings) -> str:
    """{"rows": [...], "findings": [...]}; null where there is nothing."""
    value = {
        'rows': [_record(filled, line) for filled in tables for line in filled.lines],
        'findings': [
            {
                'statement': finding.statement,
                'source': finding.source,
                'pairs': [
                    {
                        'label': verdict.label,
                        'metric': verdict.metric,
                        'paper': list(verdict.paper) if verdict.paper else None,
                        'paper_difference': verdict.difference,
                        'ours': list(verdict.ours),
                        'holds': verdict.holds,
                        'departing': list(verdict.departing),
                        'incomplete': verdict.mark or None,
                    }
                    for verdict in found
                ],
            }
            for finding, found in findings
        ],
    }
    return json.dumps(value, indent=2) + '\n'


FORMATS = {'terminal': terminal, 'markdown': markdown, 'csv': csv_text, 'json': json_text}


def _record(filled: Filled, line: Line) -> dict[str, Any]:
    row, ours = line.row, line.measured

    def difference(mine: float | None, printed: float | None) -> float | None:
        if mine is None or printed is None or not _is_compared(filled, line):
            return None
        return round(mine - printed, 2)

    top1 = None if ours is None else ours.top1_error
    top5 = None if ours is None else ours.top5_error
    return {
        'table': filled.name,
        'citation': filled.table.citation,
        'split': filled.table.split,
        'row': row.name,
        'columns': dict(row.columns),
        'paper_top1_error': row.top1_error,
        'paper_top5_error': row.top5_error,
        'top1_error': None if top1 is None else round(top1, 4),
        'top5_error': None if top5 is None else round(top5, 4),
        'top1_difference': difference(top1, row.top1_error),
        'top5_difference': difference(top5, row.top5_error),
        'images': None if ours is None else ours.n,
        'complete': None if ours is None else ours.complete,
        'incomplete': None if ours is None else (ours.mark or None),
        'protocol': row.protocol if ours is None else ours.protocol,
        'network': line.network or None,
        'departures': list(line.departures),
        'missing': line.missing or None,
        'ties': None if ours is None else (ours.ties or None),
        'environment': None if ours is None else ours.environment,
    }


def _grid(filled: Filled) -> tuple[list[list[str]], list[list[str]]]:
    """Two lines of headings, and the cells."""
    table = filled.table
    extra = list(dict.fromkeys(name for row in table.rows for name in row.columns))
    named = not any(row.columns for row in table.rows)
    head = [['row'], ['']] if named else [extra, [''] * len(extra)]
    groups = [table.paper, 'ours'] + (['difference'] if table.comparable else [])
    for group in groups:
        head[0] = [*head[0], group, '']
        head[1] = [*head[1], 'top-1', 'top-5']
    head[0] = [*head[0], 'images', 'protocol', 'network']
    head[1] = [*head[1], '', '', '']
    cells = []
    for line in filled.lines:
        row, ours = line.row, line.measured
        cell = [row.name] if named else [row.columns.get(name, NONE) for name in extra]
        cell += [_printed(row, row.top1_error), _printed(row, row.top5_error)]
        if ours is None:
            cell += [NONE] * (4 if table.comparable else 2) + [NONE, row.protocol or NONE, NONE]
        else:
            cell += [f'{ours.top1_error:.2f}', f'{ours.top5_error:.2f}']
            if table.comparable:
                compared = _is_compared(filled, line)
                cell += [
                    _difference(ours.top1_error, row.top1_error if compared else None),
                    _difference(ours.top5_error, row.top5_error if compared else None),
                ]
            other = f' {DEPARTING}' if line.departures else ''
            cell += [ours.images, ours.protocol, line.network + other]
        cells.append(cell)
    return head, cells


def _is_compared(filled: Filled, line: Line) -> bool:
    """Whether ours is a measurement of what the paper printed, so that the difference says much."""
    return filled.table.comparable and not line.departures


def _printed(row: Row, error: float | None) -> str:
    """With as many decimals as the paper prints: two, where either figure has two."""
    if error is None:
        return NONE
    decimals = (
        1 if all(e is None or e == round(e, 1) for e in (row.top1_error, row.top5_error)) else 2
    )
    return f'{error:.{decimals}f}'


def _difference(ours: float, paper: float | None) -> str:
    return NONE if paper is None else f'{ours - paper:+.2f}'


def _title(filled: Filled) -> str:
    table = filled.table
    return f'{table.citation}: {table.title}. {table.split}, errors in percent'


def _notes(filled: Filled) -> list[str]:
    notes = [filled.table.note] if filled.table.note else []
    said: dict[str, list[str]] = {}
    for line in filled.lines:
        if line.row.note and line.row.note != line.missing:
            said.setdefault(line.row.note, []).append(line.row.name)
        if line.missing:
            said.setdefault(line.missing, []).append(line.row.name)
        if line.departures:
            why = f'ours {DEPARTING}: {"; ".join(line.departures)}'
            said.setdefault(why, []).append(line.row.name)
    notes += [f'{", ".join(rows)}: {reason}' for reason, rows in said.items()]
    measured = [(line.row.name, line.measured) for line in filled.lines if line.measured]
    notes += [f'{name}: {ours.ties}' for name, ours in measured if ours.ties]
    return notes + _computed_on(measured)


def _computed_on(measured: Sequence[tuple[str, Measured]]) -> list[str]:
    """A line for each environment, with its rows where there are several."""
    rows: dict[str, list[str]] = {}
    for name, ours in measured:
        if ours.environment is not None:
            rows.setdefault(environment.line(ours.environment), []).append(name)
    if len(rows) == 1:
        return [f'computed on {text}' for text in rows]
    return [f'{", ".join(names)}: computed on {text}' for text, names in rows.items()]


def _finding(finding: Finding, found: Sequence[Verdict]) -> list[str]:
    """The claim, then a line for each pair."""
    label = max(len(verdict.label) for verdict in found)
    lines = [f'{finding.statement} ({finding.source}), {found[0].metric} error:']
    for verdict in found:
        paper = '{:.2f} -> {:.2f}'.format(*verdict.paper) if verdict.paper else ''
        paper = paper or f'lower by {verdict.difference}'
        ours = '{:.2f} -> {:.2f}'.format(*verdict.ours)
        mark = f' ({verdict.mark})' if verdict.mark else ''
        holds = 'holds' if verdict.holds else 'does not hold'
        if verdict.departing:
            holds = f'not judged, {", ".join(verdict.departing)} {DEPARTING}'
        lines.append(f'  {verdict.label.ljust(label)}  paper {paper}  ours {ours}{mark}: {holds}')
    return lines


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(
        cell == NONE or cell.lstrip('+-').replace('.', '').replace(',', '').isdigit()
        for cell in cells
    )


def _escaped(line: Sequence[str]) -> list[str]:
    return [cell.replace('|', '\\|') for cell in line]
