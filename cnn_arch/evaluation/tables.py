"""A paper's table with our numbers beside the printed ones.

Each row that names a configuration is run with the network that is found for it. What the networks
said of each image is kept in `evaluations/` beside them: the next time the table is printed at
once, an ensemble averages it, and a run that was killed goes on.
"""

import contextlib
import dataclasses
import fnmatch
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ml_collections
from jax.sharding import Mesh

from cnn_arch import commands, config_keys, configuration, environment, mesh, models
from cnn_arch.commands import flatten
from cnn_arch.data import classes, fingerprint, sources
from cnn_arch.errors import UserError
from cnn_arch.evaluation import keys, protocols
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result, ensemble
from cnn_arch.evaluation.store import Store, check_unchanged
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Finding, Row, Table

POSTERIORS = 'evaluations'  # folder of what is kept of single images
# How a network was trained, as far as the tables tell rows apart by it.
TRAINING_KEYS = ('data.augment.crop', 'data.augment.scale_min', 'data.augment.scale_max')


class Trained(Protocol):
    """A network on disk, see cnn_arch.weights.trained."""

    @property
    def classes(self) -> classes.Names | None: ...
    @property
    def folder(self) -> pathlib.Path: ...
    def digest(self) -> str: ...
    def described(self, config: ml_collections.ConfigDict) -> str: ...
    def departures(self, row: Row, config: ml_collections.ConfigDict) -> list[str]: ...
    def checked(self) -> str: ...
    def adapt(self, config: ml_collections.ConfigDict) -> None: ...
    def restore(self, config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]: ...


# Finds the network of a row, given the row's configuration and the networks that it must not be,
# nor a copy of; raises UserError where there is none.
Finder = Callable[[Row, ml_collections.ConfigDict, Sequence[Trained]], Trained]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Our numbers for one row, errors in percent."""

    top1_error: float
    top5_error: float
    n: int  # images counted
    complete: int  # images of the whole split
    protocol: str
    ties: str = ''  # what ties decided, see Result.ties
    environment: dict[str, Any] | None = None  # what computes here, cnn_arch/environment.py

    @property
    def mark(self) -> str:
        """'n = 300 of 50,000' where the split is not complete, else ''."""
        return '' if self.n == self.complete else f'n = {self.n:,} of {self.complete:,}'

    @property
    def images(self) -> str:
        """Their number, or the mark."""
        return self.mark or f'{self.n:,}'


@dataclasses.dataclass(frozen=True)
class Line:
    """A row with what was measured, or with what is missing to measure it.

    `network` says which network was measured; `departures`, in what it or its test is not the
    row's: then ours is no measurement of what the paper printed, and nothing is concluded from it.
    """

    row: Row
    measured: Measured | None
    missing: str = ''
    network: str = ''
    departures: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Filled:
    """A table whose rows have been run."""

    name: str  # 'vgg:4'
    table: Table
    lines: tuple[Line, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One pair of a finding: errors in percent, the one that the paper finds larger first."""

    label: str
    metric: str  # 'top-1', or 'top-5' where the paper prints no other
    paper: tuple[float, float] | None  # None: the paper prints how much lower it is, `difference`
    ours: tuple[float, float]
    mark: str  # of an incomplete split
    difference: float | None = None  # points of error
    departing: tuple[str, ...] = ()  # rows whose network or test is not the paper's

    @property
    def holds(self) -> bool | None:
        """Whether ours are in the paper's order; None where that would say nothing of the paper."""
        return None if self.departing else self.ours[1] < self.ours[0]


def select(name: str) -> dict[str, Table]:
    """`vgg:4` -> that table; `vgg` -> all of the paper's, under their full names.

    Raises UserError that lists the papers or the tables there are.
    """
    paper, _, number = name.partition(':')
    if paper not in PAPERS:
        raise UserError(f'--table={name}: no results of {paper!r}; there are {", ".join(PAPERS)}')
    tables = PAPERS[paper].tables
    if number and number not in tables:
        raise UserError(f'--table={name}: {paper} has {", ".join(f"{paper}:{n}" for n in tables)}')
    return {f'{paper}:{n}': table for n, table in tables.items() if number in ('', n)}


def chosen(tables: dict[str, Table], rows: str) -> dict[str, Table]:
    """The tables with the rows that `rows` names: 'D-256,E-*,3' (names, patterns, numbers).

    Raises UserError for a part that matches no row.
    """
    if not rows:
        return tables
    wanted = [part.strip() for part in rows.split(',')]
    used = set()
    result = {}
    for name, table in tables.items():
        kept = []
        for number, row in enumerate(table.rows, 1):
            matches = {p for p in wanted if p == str(number) or fnmatch.fnmatchcase(row.name, p)}
            used |= matches
            if matches:
                kept.append(row)
        if kept:
            result[name] = dataclasses.replace(table, rows=tuple(kept))
    for part in wanted:
        if part not in used:
            known = '; '.join(
                f'{name}: {", ".join(row.name for row in table.rows)}'
                for name, table in tables.items()
            )
            raise UserError(f'--rows={rows}: no row {part!r}; rows are {known}')
    return result


class Runner:
    """Fills tables: finds networks, evaluates them, keeps what they say."""

    def __init__(
        self, find: Finder, overrides: Sequence[tuple[str, str]], cache: pathlib.Path | None
    ):
        """`overrides` of the command line hold for all rows; `cache` is a folder."""
        self._find, self._overrides, self._cache = find, list(overrides), cache
        self._networks: dict[str, tuple[Trained, ml_collections.ConfigDict]] = {}
        self._stores: dict[str, Store] = {}  # by the key of what they hold
        self._sources: dict[str, tuple[sources.Source, dict[str, Any]]] = {}

    def fill(self, name: str, table: Table) -> Filled:
        """Runs the rows of a table that can be run."""
        return Filled(name, table, tuple(self._line(row) for row in table.rows))

    def check_typed(self, filling: Mapping[str, Table]) -> None:
        """Raises UserError for a key of the command line that no row's test looks at."""
        rows = [row for table in filling.values() for row in table.rows]
        tested = [member for row in rows for member in (row.members or (row,)) if member.config]
        configs = [self._config(row) for row in tested] if self._overrides else []
        for key, text in self._overrides:
            reasons = [
                config_keys.without_effect(config, key, (config_keys.TESTING,))
                for config in configs
            ]
            if reasons and all(reasons):
                raise config_keys.no_effect(key, text, reasons[0])

    def facts(self, tables: Mapping[str, Table]) -> dict[str, dict[str, Any]]:
        """What several processes must see alike: of each row its networks, and the data."""
        result = {}
        for name, table in tables.items():
            for row in table.rows:
                found: dict[str, Any] = {}
                others: list[Trained] = []
                for number, member in enumerate(row.members or (row,), 1):
                    found |= self._facts(member, f'{number}: ', others)
                result[f'{name} {row.name}'] = found
        return result

    def _facts(self, row: Row, prefix: str, others: list[Trained]) -> dict[str, Any]:
        """Of one network, which joins the `others` of its row."""
        if not row.config:
            return {}
        try:
            trained, config = self._network(row, others)
        except UserError as error:
            return {f'{prefix}missing': str(error)}
        others.append(trained)
        found = {
            'arrays': trained.digest(),
            'files': trained.checked(),
            'settings': fingerprint.digest_of(f'{k} {v}' for k, v in flatten(config).items()),
            **{f'data, {key}': value for key, value in self._source(trained, config)[1].items()},
        }
        return {prefix + key: value for key, value in found.items()}

    def _line(self, row: Row) -> Line:
        missing = [member.note for member in row.members or (row,) if not member.config]
        if missing:
            return Line(row, None, row.note or missing[0])
        try:
            if row.members:
                return self._ensemble_line(row)
            network = self._network(row)
        except UserError as error:
            return Line(row, None, str(error))
        departures = tuple(self._departures(row, *network))
        return Line(row, self._measure(*network), '', self._called(row, network[0]), departures)

    def _ensemble_line(self, row: Row) -> Line:
        """Of a row with members, each a network of its own. Raises UserError where some lack."""
        networks: list[tuple[Trained, ml_collections.ConfigDict]] = []
        departures: list[str] = []
        called: list[str] = []
        lacking: dict[str, str] = {}
        for member in row.members:
            try:
                network = self._network(member, [trained for trained, _ in networks])
            except UserError as error:
                lacking[member.name or member.folder] = str(error)
                continue
            networks.append(network)
            called.append(self._called(member, network[0]))
            departures += [f'{member.folder}: {d}' for d in self._departures(member, *network)]
        if lacking:
            raise UserError(
                f'needs {len(row.members)} networks, {len(networks)} found'
                f'{": " if networks else ""}{", ".join(called)}; missing members: '
                f'{", ".join(lacking)} ({next(iter(lacking.values()))})'
            )
        return Line(row, self._ensemble(networks), '', ', '.join(called), tuple(departures))

    def _called(self, row: Row, trained: Trained) -> str:
        return trained.described(self._config(row, typed=False))

    def _network(
        self, row: Row, others: Sequence[Trained] = ()
    ) -> tuple[Trained, ml_collections.ConfigDict]:
        """A row's network, none of the `others`, and the configuration that it is tested with.

        Found once: the files of a network are read whole to see that they are.
        """
        name = repr((row, [other.digest() for other in others]))
        if name not in self._networks:
            self._networks[name] = self._find_network(row, others)
        return self._networks[name]

    def _find_network(
        self, row: Row, others: Sequence[Trained]
    ) -> tuple[Trained, ml_collections.ConfigDict]:
        trained = self._find(row, self._config(row), others)
        config = self._own_test(row, trained)
        commands.apply_overrides(config, self._overrides)
        configuration.validate(config)
        protocols.resolve(config)  # an impossible test is one of this row alone
        return trained, config

    def _own_test(self, row: Row, trained: Trained) -> ml_collections.ConfigDict:
        """The configuration of a row's test, without what the command line changes."""
        config = self._config(row, typed=False)
        trained.adapt(config)
        set_keys(config, row.overrides)
        return config

    def _departures(
        self, row: Row, trained: Trained, config: ml_collections.ConfigDict
    ) -> list[str]:
        """In what a row's network and test are not those of the paper."""
        found = trained.departures(row, self._config(row, typed=False))
        own = self._own_test(row, trained)
        for key in dict.fromkeys(key for key, _ in self._overrides):
            ours, rows = config_keys.leaf(config, key), config_keys.leaf(own, key)
            alike = key == 'data.eval_split' and {ours, rows} <= set(config_keys.VALIDATION)
            alike |= key == 'eval.protocol' and ours in row.readings
            if config_keys.of(key).figures and ours != rows and not alike:
                found.append(f'tested with {key} = {ours!r}, the row has {rows!r}')
        return found

    def _config(self, row: Row, typed: bool = True) -> ml_collections.ConfigDict:
        path, variant = configuration.split(row.config)
        name = str(configuration.CONFIGS.parent / path) + (f':{variant}' if variant else '')
        config = configuration.load(name)
        set_keys(config, {**row.overrides, 'eval.protocol': row.protocol})
        if typed:
            commands.apply_overrides(config, self._overrides)
        return config

    def _measure(self, trained: Trained, config: ml_collections.ConfigDict) -> Measured:
        plan = protocols.resolve(config)
        scales = ', '.join(map(str, plan.scales))
        result = self._average([(trained, config)])
        return _measured(result, config, f'{plan.protocol} at {scales}')

    def _ensemble(self, networks: Sequence[tuple[Trained, ml_collections.ConfigDict]]) -> Measured:
        used = ', '.join(
            dict.fromkeys(protocols.resolve(config).protocol for _, config in networks)
        )
        average = self._average(networks)
        return _measured(average, networks[0][1], f'{used}, {len(networks)} networks')

    def _average(self, networks: Sequence[tuple[Trained, ml_collections.ConfigDict]]) -> Result:
        """Posteriors averaged over networks, or those of one."""
        _require_same_classes([trained for trained, _ in networks])
        stores = [self._evaluated(trained, config) for trained, config in networks]
        source = self._source(*networks[0])[0]
        return ensemble(stores, protocols.resolve(networks[0][1]).protocol, source.complete)

    def _evaluated(self, trained: Trained, config: ml_collections.ConfigDict) -> Store:
        """What a network said of each image: kept by an earlier call, or computed now."""
        assert self._cache is not None  # without a folder of networks there is nothing to run
        source, data = self._source(trained, config)
        name = keys.key(trained, config, protocols.resolve(config), data)
        if name not in self._stores:
            folder = self._cache / POSTERIORS / name
            store = Store(folder, len(source), config.model.num_classes)
            if not store.complete:
                self._evaluate(trained, config, store)
            self._stores[name] = store
        return self._stores[name]

    def _evaluate(self, trained: Trained, config: ml_collections.ConfigDict, store: Store) -> None:
        # Progress goes where messages go: what is printed is the table.
        with contextlib.redirect_stdout(sys.stderr):
            devices = mesh.create_mesh(config.mesh)
            mesh.check_batch('eval.batch_size', config.eval.batch_size, devices)
            variables = trained.restore(config, devices)
            source, data = self._source(trained, config)
            evaluate(models.build(config.model), variables, source, config, devices, store=store)
            check_unchanged(source, data, store)

    def _source(
        self, trained: Trained, config: ml_collections.ConfigDict
    ) -> tuple[sources.Source, dict[str, Any]]:
        """The images, numbered as the network numbers its classes, and what tells them apart."""
        data, names = config.data, trained.classes
        count = config.model.num_classes
        name = repr((data.source, data.dir, data.eval_split, data.channels, count, names))
        if name not in self._sources:
            source = sources.open_for(config, 'eval', names, trained.folder)
            self._sources[name] = (source, fingerprint.identity(source))
        return self._sources[name]


def _measured(result: Result, config: ml_collections.ConfigDict, protocol: str) -> Measured:
    # What was kept of an earlier call was computed by the same arithmetic (keys.py).
    here = environment.describe(config, mesh.create_mesh(config.mesh))
    return Measured(
        result.top1_error, result.top5_error, result.n, result.complete, protocol, result.ties, here
    )


def verdicts(paper: str, filled: Sequence[Filled]) -> list[tuple[Finding, list[Verdict]]]:
    """The findings of a paper of which at least one pair of rows was measured."""
    result = []
    lines = {
        f'{one.name.partition(":")[2]}/{line.row.name}': line
        for one in filled
        for line in one.lines
    }
    for finding in PAPERS[paper].findings:
        found = []
        printed = finding.differences or (None,) * len(finding.pairs)
        for (label, worse, better), difference in zip(finding.pairs, printed, strict=True):
            if worse in lines and better in lines:
                verdict = _verdict(label, lines[worse], lines[better], difference)
                found += [verdict] if verdict else []
        if found:
            result.append((finding, found))
    return result


def _verdict(label: str, worse: Line, better: Line, difference: float | None) -> Verdict | None:
    if worse.measured is None or better.measured is None:
        return None
    mark = worse.measured.mark or better.measured.mark
    departing = tuple(line.row.name for line in (worse, better) if line.departures)
    if difference is not None:
        ours = worse.measured.top1_error, better.measured.top1_error
        return Verdict(label, 'top-1', None, ours, mark, difference, departing)
    for metric, name in (('top-1', 'top1_error'), ('top-5', 'top5_error')):
        paper = getattr(worse.row, name), getattr(better.row, name)
        if None not in paper:
            ours = getattr(worse.measured, name), getattr(better.measured, name)
            return Verdict(label, metric, paper, ours, mark, departing=departing)
    return None


def _require_same_classes(members: Sequence[Trained]) -> None:
    """Raises UserError where the members of an ensemble number other classes, or otherwise."""
    known = [member for member in members if member.classes is not None]
    for member in known[1:]:
        classes.require_same(
            member.classes or (), str(member.folder), known[0].classes or (), str(known[0].folder)
        )


def set_keys(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets dotted keys; they must exist, except in `model.options`."""
    for key, value in values.items():
        *parents, leaf = key.split('.')
        node = config
        for parent in parents:
            node = node[parent]
        value = tuple(value) if isinstance(value, list) else value  # as JSON has tuples
        if parents == ['model', 'options']:
            with node.unlocked():
                node[leaf] = value
        else:
            node[leaf] = value
