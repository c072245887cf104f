"""How the papers' printed results are written down as data.

Errors are in percent, as the papers print them. A row names the configuration that repeats it, so
that `python eval.py --table=PAPER:TABLE` can put our number beside the paper's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

VALIDATION = 'ILSVRC-2012 validation'


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: what the paper prints, and how to repeat it.

    A row without `config` is one that this project cannot repeat; `note` then says why.
    """

    name: str  # what --rows calls it, unique in its table
    top1_error: float | None  # percent; None = not printed
    top5_error: float | None
    config: str = ''  # 'configs/vgg.py:D'
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its dotted keys
    protocol: str = ''  # a key of cnn_arch.evaluation.protocols.PROTOCOLS
    run: str = ''  # the folder of its training run below --runs; '' = that of its name
    members: tuple['Row', ...] = ()  # of an ensemble
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what else is printed
    # Public weights of this network, as cnn_arch.weights names them: the authors', which the row
    # prints, or replications, which are shown as such (cnn_arch/papers/released.py).
    weights: tuple[str, ...] = ()
    of_weights: bool = False  # the row is about `weights`, whoever trained them
    # Keys of other ways in which the paper trains this network, beside `overrides`.
    alternatives: tuple[Mapping[str, Any], ...] = ()
    readings: tuple[str, ...] = ()  # other protocols that the paper's words may mean
    note: str = ''

    @property
    def folder(self) -> str:
        """Of its run, below --runs."""
        return self.run or self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper."""

    citation: str  # 'Simonyan & Zisserman 2015, table 4'
    title: str
    rows: tuple[Row, ...]
    split: str = VALIDATION
    comparable: bool = True  # False: other data than the paper's, so no difference is printed
    paper: str = 'paper'  # heading of the printed numbers
    note: str = ''


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim of a paper's text that its tables bear out: the first of each pair errs more.

    `pairs` are (label, 'TABLE/ROW' with the larger top-1 error, 'TABLE/ROW' with the smaller one).
    Where a paper prints no errors but by how much they differ, `differences` has the points of
    top-1 error of each pair.
    """

    statement: str
    source: str  # 'section 4.1'
    pairs: tuple[tuple[str, str, str], ...]
    differences: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Paper:
    """All tables of a paper by their numbers, and what it concludes from them."""

    tables: Mapping[str, Table]
    findings: tuple[Finding, ...] = ()


def cited(name: str, top1_error: float | None, top5_error: float | None, **more: Any) -> Row:
    """A row that a paper quotes from elsewhere, for comparison."""
    more.setdefault('note', 'quoted by the paper, not a network of this project')
    return Row(name, top1_error, top5_error, **more)
