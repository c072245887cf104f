"""Before the first step of several processes: do they run the same, in the same place, on the same?

Each process posts what it sees; each reads what all have posted and comes to the same end. What
differs is one line that names it and the process; the exit code is the same on all. The first
process prints one line per check. Nothing has touched a device or the workdir's contents by then,
which belong to one run at a time (cnn_arch/owner.py).
That all processes are there is the roll call's business (cnn_arch/cluster.py).
"""

import collections
import contextlib
import functools
import hashlib
import json
import pathlib
import platform
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import ml_collections

from cnn_arch import cluster, environment, owner
from cnn_arch.commands import flatten
from cnn_arch.data import fingerprint
from cnn_arch.data.sources import Source
from cnn_arch.errors import CODES, NotReady, StorageError, UserError
from cnn_arch.evaluation import keys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = ('cnn_arch', 'configs', 'train.py', 'eval.py')  # what a run executes
TOKEN = '.preflight'  # a file by which processes know that they look into one folder
FACTS_SECONDS = 60.0
LAST_SECONDS = 10.0
# Reading all pictures of a split once takes its time; who dies meanwhile is noticed sooner.
AGREE_SECONDS = 3600.0
PLACES = ('workdir', 'config')  # arguments whose texts may differ: what lies there is compared

Made = TypeVar('Made')
Facts = dict[str, dict[str, Any]]  # of each thing the facts that all processes must see alike


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    opened: Callable[[], Sequence[Source]],
    start: Callable[[], Facts],
) -> Sequence[Source]:
    """What `opened()` returns, the training and the test split, once all processes have passed.

    `workdir` must be one folder for all, and writable; `start()` are the facts of what the run
    starts from. In a run of one process there is nothing to compare. Raises NotReady with one line
    per check that failed.
    """
    begin({}, config, workdir)
    agree('start', start, lambda facts: facts)
    return agree('data', opened, _of_sources)


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[Callable[[], None]]:
    """The workdir, owned by this run through its first process.

    Yields what is called as long as the run writes there: it raises UserError where the folder
    cannot be written, and StorageError where it was taken away. Raises UserError, or NotReady of
    several processes, where another run owns it; StorageError also in place of what comes of its
    having been removed.
    """
    with contextlib.ExitStack() as stack:
        problem, check = '', _nothing
        if cluster.process() == 0:
            try:
                check = stack.enter_context(owner.Owner(workdir)).check
            except owner.InUse as error:
                problem = f'--workdir={workdir} is {error}; wait for its end, or choose another'
            except OSError as error:  # told once it matters: a run that has ended is only read
                check = functools.partial(_raise, f'--workdir={workdir}: {error.strerror}')
        if cluster.processes() > 1:
            # The first process may have watched the sign of life of a dead one before.
            told = _tell('owner', problem, FACTS_SECONDS + owner.SILENCE)
            _end_if([told[0]] if told[0] else [])
        elif problem:
            raise UserError(problem)
        try:
            yield check
        except tuple(CODES):
            raise
        except Exception as error:
            if cluster.process() == 0 or workdir.exists():
                raise
            raise StorageError(f'{workdir} was removed while this run wrote there') from error


def _nothing() -> None:
    pass


def _raise(problem: str) -> NoReturn:
    raise UserError(problem)


def _of_sources(sources: Sequence[Source]) -> Facts:
    """Of the test split all; of the training split, which may be huge, names and labels."""
    for source in sources:
        source[0]  # readable?
    train, test = sources
    return {
        'training set': fingerprint.identity(train, contents=False),
        'test set': fingerprint.identity(test),
    }


def begin(
    arguments: Mapping[str, Any],
    config: ml_collections.ConfigDict | None = None,
    workdir: pathlib.Path | None = None,
) -> None:
    """Compares code, libraries, JAX's settings, the command's arguments and configuration.

    A `workdir` must be one folder for all, which all can write. Raises NotReady.
    """
    if cluster.processes() == 1:
        return
    mine = _facts(arguments, config, workdir)
    token = None if workdir is None else workdir / TOKEN
    if token and cluster.process() == 0 and not mine['folder']:
        token.write_text(mine['token'])
    try:
        all_facts = _tell('facts', mine, FACTS_SECONDS)
        hosts = [facts['host'] for facts in all_facts]
        say(f'{len(hosts)} processes on {len(set(hosts))} host(s) joined')
        wrong = [
            line
            for name in ('code', 'libraries', 'settings', 'arguments', 'config')
            for line in _different(name, all_facts)
        ]
        _end_if(wrong + _reasons('folder', all_facts, hosts))
        if token:
            seen = _tell('seen', _read(token), FACTS_SECONDS)
            _end_if([
                f'workdir: {_who(number, hosts)} sees another {workdir} than process 0: put it on '
                'storage that all hosts share'
                for number, what in enumerate(seen) if what != all_facts[0]['token']
            ])  # fmt: skip
    finally:
        if token and cluster.process() == 0:
            token.unlink(missing_ok=True)
    say(f'code {_digest(mine["code"])}, config {_digest(mine["config"])}, '
        f'jax {mine["libraries"]["jax"]}: the same on all')  # fmt: skip
    if workdir:
        say(f'{workdir}: one folder for all, writable')


def agree(name: str, make: Callable[[], Made], describe: Callable[[Made], Facts]) -> Made:
    """What `make()` returns, once all processes have made the same by what `describe` tells of it.

    Of each thing described the first fact that differs is named. Raises NotReady where processes
    differ or one of them fails, and UserError where all fail alike.
    """
    if cluster.processes() == 1:
        return make()
    made, problem, crash, facts = None, '', None, {}
    try:
        made = make()
        facts = describe(made)
    except (UserError, OSError) as error:
        problem = str(error)
    except Exception as error:
        problem, crash = repr(error), error
    mine = {'host': socket.gethostname(), 'problem': problem, 'facts': facts}
    everyone = _tell(name, mine, AGREE_SECONDS)
    hosts = [one['host'] for one in everyone]
    if crash:
        raise crash
    if problem and all(one['problem'] == problem for one in everyone):
        _end()
        raise UserError(problem)
    wrong = [
        f'{name}: {one["problem"]} ({_who(number, hosts)})'
        for number, one in enumerate(everyone)
        if one['problem']
    ]
    if not wrong:
        for thing in sorted({thing for one in everyone for thing in one['facts']}):
            of_all = [{'host': one['host'], thing: one['facts'].get(thing, {})} for one in everyone]
            wrong += [f'{name}: {line}' for line in _different(thing, of_all)[:1]]
    _end_if(wrong)
    said = '; '.join(f'{thing} {_digest(of)}' for thing, of in facts.items())
    if said:
        say(f'{name}: {said}: the same on all')
    assert made is not None
    return made


def _facts(
    arguments: Mapping[str, Any],
    config: ml_collections.ConfigDict | None,
    workdir: pathlib.Path | None,
) -> dict[str, Any]:
    """What a process posts of itself."""
    leaves = {} if config is None else flatten(
        ml_collections.ConfigDict(json.loads(config.to_json_best_effort()))
    )  # fmt: skip
    return {
        'host': socket.gethostname(),
        'code': {path: _hash(ROOT / path) for path in CODE},
        'libraries': {'python': platform.python_version(), **environment.versions()},
        'settings': keys.settings(),
        'arguments': {f'--{name}': None if value is None else str(value)
                      for name, value in arguments.items() if name not in PLACES},
        'config': leaves,
        'folder': '' if workdir is None else _trouble_with(workdir),
        'token': secrets.token_hex(8),
    }  # fmt: skip


def _trouble_with(folder: pathlib.Path) -> str:
    """Why a folder cannot be written, or ''."""
    probe = folder / f'{TOKEN}-{cluster.process()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text('')
        probe.unlink()
    except OSError as error:
        return f'workdir: {folder} is not writable: {error.strerror}'
    return ''


def _read(token: pathlib.Path) -> str:
    try:
        return token.read_text()
    except OSError as error:
        return str(error)


def _hash(path: pathlib.Path) -> str:
    """Of a file, or of all Python files below a folder."""
    files = [path] if path.is_file() else sorted(path.rglob('*.py'))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _different(name: str, all_facts: list[dict[str, Any]]) -> list[str]:
    """A line for each entry of a fact in which processes differ from the most common value."""
    lines = []
    hosts = [facts['host'] for facts in all_facts]
    for key in dict.fromkeys(key for facts in all_facts for key in facts[name]):
        values = [json.dumps(facts[name].get(key)) for facts in all_facts]
        usual, count = collections.Counter(values).most_common(1)[0]
        if count < len(values):
            shown = _shown(values)
            others = [
                f'{shown[number]} on {_who(number, hosts)}'
                for number, value in enumerate(values)
                if value != usual
            ]
            first = shown[values.index(usual)]
            lines.append(f'{name}: {key} is {first} on {count}, but {", ".join(others)}')
    return lines


def _shown(values: list[str]) -> list[str]:
    """The values, digests by their first digits."""
    return [f'{value[:13]}"' if re.fullmatch('"[0-9a-f]{64}"', value) else value
            for value in values]  # fmt: skip


def _reasons(name: str, all_facts: list[dict[str, Any]], hosts: list[str]) -> list[str]:
    return [
        f'{facts[name]} ({_who(number, hosts)})'
        for number, facts in enumerate(all_facts)
        if facts[name]
    ]


def _who(number: int, hosts: list[str]) -> str:
    return f'process {number} on {hosts[number]}'


def _tell(name: str, value: Any, seconds: float) -> list[Any]:
    """Every process's value. Raises NotReady that names one that is silent."""
    try:
        told = cluster.tell(f'preflight/{name}', json.dumps(value), seconds)
    except jax.errors.JaxRuntimeError as error:
        silent = re.search(rf'preflight/{name}/(\d+)', str(error))
        who = f'process {silent[1]}' if silent else 'a process'
        raise NotReady(
            f'preflight: {who} joined, but said nothing of its {name} in {seconds:.0f} s'
        ) from error
    return [json.loads(text) for text in told]


def _end_if(wrong: list[str]) -> None:
    """Raises NotReady with a line for each."""
    if wrong:
        _end()
        raise NotReady('\nerror: '.join(f'preflight: {line}' for line in wrong))


def _end() -> None:
    """Waits until each may end: the first process, whom all read from, goes last."""
    cluster.post(f'preflight/end/{cluster.process()}', '')
    deadline = time.monotonic() + LAST_SECONDS
    others = set(range(1, cluster.processes())) if cluster.process() == 0 else set()
    while others and time.monotonic() < deadline:
        time.sleep(0.1)
        others = {number for number in others if cluster.look(f'preflight/end/{number}') is None}


def say(line: str) -> None:
    """Prints from the first process; JAX's own count of them would touch the devices."""
    if cluster.process() == 0:
        print(f'preflight: {line}', flush=True)
