"""A paper's table with our numbers beside the printed ones.

Each row that names a configuration is run with the network that is found for it; what was measured
once is kept in `evaluations.json` beside the networks and printed at once the next time; what the
networks said of each image is kept in `evaluations/`, for ensembles and for runs that are killed.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
from jax.sharding import Mesh

from cnn_arch import commands, configuration, environment, mesh, models
from cnn_arch.data import sources
from cnn_arch.errors import UserError
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result, ensemble
from cnn_arch.evaluation.store import Store
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Finding, Row, Table

CACHE = 'evaluations.json'
POSTERIORS = 'evaluations'  # folder of what is kept of single images
MEANING = 1  # of what is kept; raised when a fix changes what the same call would measure
# How a network was trained, as far as the tables tell rows apart by it.
TRAINING_KEYS = ('data.augment.crop', 'data.augment.scale_min', 'data.augment.scale_max')


class Trained(Protocol):
    """A network on disk, see cnn_arch.weights.trained."""

    def digest(self) -> str: ...
    def adapt(self, config: ml_collections.ConfigDict) -> None: ...
    def restore(self, config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]: ...


# Finds the network of a row, given the row's configuration; raises UserError where there is none.
Finder = Callable[[Row, ml_collections.ConfigDict], Trained]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Our numbers for one row, errors in percent."""

    top1_error: float
    top5_error: float
    n: int  # images counted
    complete: int  # images of the whole split
    protocol: str
    ties: str = ''  # what ties decided, see Result.ties
    # What computed it, cnn_arch/environment.py; several for an ensemble of networks from several.
    environments: tuple[dict[str, Any], ...] = ()

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
    """A row with what was measured, or with what is missing to measure it."""

    row: Row
    measured: Measured | None
    missing: str = ''


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
    paper: tuple[float, float]
    ours: tuple[float, float]
    mark: str  # of an incomplete split

    @property
    def holds(self) -> bool:
        """Whether ours are in the paper's order."""
        return self.ours[1] < self.ours[0]


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
    """Fills tables: finds networks, evaluates them, remembers results."""

    def __init__(
        self, find: Finder, overrides: Sequence[tuple[str, str]], cache: pathlib.Path | None
    ):
        """`overrides` of the command line hold for all rows; `cache` is a folder."""
        self._find, self._overrides = find, list(overrides)
        self._cache = None if cache is None else cache / CACHE
        self._results = _read(self._cache)
        self._sources: dict[str, tuple[sources.Source, str]] = {}

    def fill(self, name: str, table: Table) -> Filled:
        """Runs the rows of a table that can be run."""
        return Filled(name, table, tuple(self._line(row) for row in table.rows))

    def _line(self, row: Row) -> Line:
        missing = [member.note for member in row.members or (row,) if not member.config]
        if missing:
            return Line(row, None, row.note or missing[0])
        try:
            networks = [self._network(member) for member in row.members or (row,)]
        except UserError as error:
            return Line(row, None, str(error))
        if not row.members:
            return Line(row, self._measure(*networks[0]))
        return Line(row, self._ensemble(networks))

    def _network(self, row: Row) -> tuple[Trained, ml_collections.ConfigDict]:
        config = self._config(row)
        trained = self._find(row, config)
        trained.adapt(config)
        set_keys(config, row.overrides)
        commands.apply_overrides(config, self._overrides)
        configuration.validate(config)
        return trained, config

    def _config(self, row: Row) -> ml_collections.ConfigDict:
        path, variant = configuration.split(row.config)
        name = str(configuration.CONFIGS.parent / path) + (f':{variant}' if variant else '')
        config = configuration.load(name)
        set_keys(config, {**row.overrides, 'eval.protocol': row.protocol})
        commands.apply_overrides(config, self._overrides)
        return config

    def _measure(self, trained: Trained, config: ml_collections.ConfigDict) -> Measured:
        plan = protocols.resolve(config)
        name = key(trained, config, plan, self._source(config)[1])
        if name not in self._results:
            result = self._evaluate(trained, config, self._store(name, config))
            self._keep(name, result, [_here(config)])
        scales = ', '.join(map(str, plan.scales))
        return Measured(**self._results[name], protocol=f'{plan.protocol} at {scales}')

    def _ensemble(self, networks: Sequence[tuple[Trained, ml_collections.ConfigDict]]) -> Measured:
        """Posteriors averaged over networks; those that a member's own row has kept serve."""
        plans = [protocols.resolve(config) for _, config in networks]
        names = [
            key(trained, config, plan, self._source(config)[1])
            for (trained, config), plan in zip(networks, plans, strict=True)
        ]
        together = hashlib.sha256(' '.join(sorted(names)).encode()).hexdigest()[:32]
        if together not in self._results:
            stores = []
            for name, (trained, config) in zip(names, networks, strict=True):
                stores.append(self._store(name, config))
                if not stores[-1].complete:
                    result = self._evaluate(trained, config, stores[-1])
                    self._keep(name, result, [_here(config)])
            source = self._source(networks[0][1])[0]
            # Of a member that eval.py alone has tested nothing is recorded but its answers.
            results = [self._results.get(name, {}) for name in names]
            made = [one for result in results for one in result.get('environments', [])]
            distinct = [one for number, one in enumerate(made) if one not in made[:number]]
            averaged = ensemble(stores, plans[0].protocol, source.complete)
            self._keep(together, averaged, distinct)
        used = ', '.join(dict.fromkeys(plan.protocol for plan in plans))
        protocol = f'{used}, {len(networks)} networks'
        return Measured(**self._results[together], protocol=protocol)

    def _store(self, name: str, config: ml_collections.ConfigDict) -> Store:
        assert self._cache is not None  # without a folder of networks there is nothing to run
        images = len(self._source(config)[0])
        return Store(self._cache.parent / POSTERIORS / name, images, config.model.num_classes)

    def _evaluate(
        self, trained: Trained, config: ml_collections.ConfigDict, store: Store
    ) -> Result:
        # Progress goes where messages go: what is printed is the table.
        with contextlib.redirect_stdout(sys.stderr):
            devices = mesh.create_mesh(config.mesh)
            mesh.check_batch('eval.batch_size', config.eval.batch_size, devices)
            variables = trained.restore(config, devices)
            source = self._source(config)[0]
            return evaluate(
                models.build(config.model), variables, source, config, devices, store=store
            )

    def _keep(self, name: str, result: Result, environments: list[dict[str, Any]]) -> None:
        self._results[name] = {
            'top1_error': result.top1_error,
            'top5_error': result.top5_error,
            'n': result.n,
            'complete': result.complete,
            'ties': result.ties,
            'environments': environments,
        }
        self._remember()

    def _source(self, config: ml_collections.ConfigDict) -> tuple[sources.Source, str]:
        data = config.data
        name = repr((data.source, data.dir, data.eval_split, data.channels))
        if name not in self._sources:
            source = sources.open_for(config, 'eval')
            self._sources[name] = (source, sources.fingerprint(source))
        return self._sources[name]

    def _remember(self) -> None:
        if self._cache is None or jax.process_index() != 0:
            return
        scratch = self._cache.with_suffix('.tmp')
        try:
            scratch.write_text(json.dumps(self._results, indent=1) + '\n')
            os.replace(scratch, self._cache)
        except OSError as error:
            logging.warning('results are not kept: %s: %s', self._cache, error.strerror)


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
        for label, worse, better in finding.pairs:
            if worse in lines and better in lines:
                verdict = _verdict(label, lines[worse], lines[better])
                found += [verdict] if verdict else []
        if found:
            result.append((finding, found))
    return result


def _verdict(label: str, worse: Line, better: Line) -> Verdict | None:
    if worse.measured is None or better.measured is None:
        return None
    mark = worse.measured.mark or better.measured.mark
    for metric, name in (('top-1', 'top1_error'), ('top-5', 'top5_error')):
        paper = getattr(worse.row, name), getattr(better.row, name)
        if None not in paper:
            ours = getattr(worse.measured, name), getattr(better.measured, name)
            return Verdict(label, metric, paper, ours, mark)
    return None


def set_keys(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets dotted keys; they must exist, except in `model.options`."""
    for key, value in values.items():
        *parents, leaf = key.split('.')
        node = config
        for parent in parents:
            node = node[parent]
        if parents == ['model', 'options']:
            with node.unlocked():
                node[leaf] = value
        else:
            node[leaf] = tuple(value) if isinstance(value, list) else value


def key(
    trained: Trained, config: ml_collections.ConfigDict, plan: protocols.Plan, data: str
) -> str:
    """Equal for equal arrays, architecture, arithmetic, views and images."""
    leaves = commands.flatten(config)
    parts = {
        'meaning': MEANING,
        'arrays': trained.digest(),
        'plan': dataclasses.asdict(dataclasses.replace(plan, protocol='')),
        'data': data,
        'config': {
            key: value
            for key, value in sorted(leaves.items())
            if key.startswith(('model.', 'data.mean', 'data.std', 'data.channels'))
            or key in ('eval.interpolation', 'data.augment.size', 'optim.polyak_decay')
        },
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _here(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return environment.describe(config, mesh.create_mesh(config.mesh))


def _read(cache: pathlib.Path | None) -> dict[str, Any]:
    if cache is None or not cache.exists():
        return {}
    try:
        return json.loads(cache.read_text())
    except (OSError, ValueError):
        logging.warning('%s is not readable: everything is measured again', cache)
        return {}
