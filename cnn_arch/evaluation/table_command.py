"""The command line of `python eval.py --table=PAPER:TABLE`."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Callable, Sequence

from cnn_arch import cluster, commands, preflight
from cnn_arch.arguments import Parser, folders
from cnn_arch.errors import UserError
from cnn_arch.evaluation import tables
from cnn_arch.evaluation.formats import FORMATS
from cnn_arch.papers.published import Table

SUFFIXES = {'.md': 'markdown', '.csv': 'csv', '.json': 'json'}


def asked_for(argv: Sequence[str]) -> bool:
    """Whether a command line of eval.py is for a table."""
    return any(word.partition('=')[0] == '--table' for word in argv)


def main(
    argv: Sequence[str],
    description: str | None,
    finder: Callable[[pathlib.Path | None, list[pathlib.Path]], tables.Finder],
) -> int:
    """Fills and prints the tables; `finder(runs, weights)` finds the networks of their rows."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', required=True, metavar='PAPER[:TABLE]', help='e.g. vgg:4')
    parser.add_argument('--rows', default='', help='names, patterns or numbers: D-256,E-*,3')
    parser.add_argument('--format', default='terminal', choices=list(FORMATS))
    parser.add_argument('--runs', type=pathlib.Path, metavar='DIR', help='a workdir for each row')
    parser.add_argument('--weights', default='', metavar='DIR[,DIR]', help='imported weights')
    parser.add_argument('--out', type=pathlib.Path, metavar='FILE', help='.md, .csv, .json or .txt')
    overrides, rest = commands.split_overrides(argv)
    args = parser.parse_args(rest)
    cluster.join()
    with contextlib.redirect_stdout(sys.stderr):  # what is printed is the table
        keyed = {f'config.{key}': value for key, value in overrides}
        preflight.begin(vars(args) | keyed)
        runner, wanted = preflight.agree(
            'table', lambda: _prepared(args, overrides, finder), lambda made: made[0].facts(made[1])
        )
    filled = [runner.fill(name, table) for name, table in wanted.items()]
    findings = tables.verdicts(args.table.partition(':')[0], filled)
    if cluster.process() != 0:
        return 0
    print(FORMATS[args.format](filled, findings), end='', flush=True)
    out = _out(args)
    if out is not None:
        text = FORMATS[SUFFIXES.get(out.suffix, 'terminal')](filled, findings)
        out.write_text(text)
        if args.format == 'terminal':
            print(f'\ntable written to {out}')
    return 0


def _prepared(
    args: argparse.Namespace,
    overrides: list[tuple[str, str]],
    finder: Callable[[pathlib.Path | None, list[pathlib.Path]], tables.Finder],
) -> tuple[tables.Runner, dict[str, Table]]:
    """What fills the tables, and the tables. Raises UserError for what cannot be."""
    if args.runs is not None and not args.runs.is_dir():
        raise UserError(f'--runs={args.runs}: no such folder')
    weights = folders('--weights', args.weights)
    out = _out(args)
    unfit = out is not None and (out.is_dir() or not out.absolute().parent.is_dir())
    if unfit and cluster.process() == 0:
        raise UserError(f'--out={out}: this file cannot be written')
    wanted = tables.chosen(tables.select(args.table), args.rows)
    folder = args.runs or (weights[0] if weights else None)
    runner = tables.Runner(finder(args.runs, weights), overrides, folder)
    runner.check_typed(wanted)
    return runner, wanted


def _out(args: argparse.Namespace) -> pathlib.Path | None:
    """The file that the table is written to."""
    if args.out is None and args.runs is not None:
        return args.runs / f'table_{args.table.replace(":", "_")}.md'
    return args.out
