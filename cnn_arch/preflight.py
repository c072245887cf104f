"""Before the first step of several processes: do they run the same, in the same place?

Each process posts what it sees; each reads what all have posted and comes to the same end. The
first process prints one line per check. Nothing has touched a device or the workdir's contents by
then. That all processes are there is the roll call's business (cnn_arch/cluster.py).
"""

import collections
import contextlib
import hashlib
import json
import pathlib
import platform
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import ml_collections

from cnn_arch import cluster, environment
from cnn_arch.commands import flatten
from cnn_arch.data.sources import Source
from cnn_arch.errors import NotReady, UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = ('cnn_arch', 'configs', 'train.py', 'eval.py')  # what a run executes
TOKEN = '.preflight'  # a file by which processes know that they look into one folder
FACTS_SECONDS = 60.0
LAST_SECONDS = 10.0
DATA_SECONDS = 900.0  # listing a million files over a network takes its time

Sources = TypeVar('Sources', bound=Sequence[Source])


def run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    opened: Callable[[], Sources],
    writes: bool = True,
) -> Sources:
    """What `opened()` returns, the sources of the run, once all processes have passed.

    `folder` must be the same for all, and writable where the run `writes` there. In a run of one
    process there is nothing to compare. Raises NotReady with one line per check that failed.
    """
    if cluster.processes() == 1:
        return opened()
    made = writes and not folder.exists()
    try:
        return _run(config, folder, opened, writes)
    except NotReady:
        if made and cluster.process() == 0:
            with contextlib.suppress(OSError):  # somebody has put something there
                folder.rmdir()
        raise


def _run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    opened: Callable[[], Sources],
    writes: bool,
) -> Sources:
    token = folder / TOKEN
    mine = _facts(config, folder, writes)
    if writes and cluster.process() == 0 and not mine['folder']:
        token.write_text(mine['token'])
    try:
        all_facts = _tell('facts', mine, FACTS_SECONDS)
        hosts = [facts['host'] for facts in all_facts]
        say(f'{len(hosts)} processes on {len(set(hosts))} host(s) joined')
        wrong = _different('code', all_facts) + _different('libraries', all_facts)
        wrong += _different('config', all_facts) + _reasons('folder', all_facts, hosts)
        _end_if(wrong)
        seen = _tell('seen', _what_is_there(folder, token, writes), FACTS_SECONDS)
    finally:
        if writes and cluster.process() == 0:
            token.unlink(missing_ok=True)
    wanted = all_facts[0]['token'] if writes else seen[0]
    _end_if([
        f'workdir: {_who(number, hosts)} sees another {folder} than process 0: put it on storage '
        'that all hosts share'
        for number, what in enumerate(seen) if what != wanted
    ])  # fmt: skip
    say(f'code {_digest(mine["code"])}, config {_digest(mine["config"])}, '
        f'jax {mine["libraries"]["jax"]}: the same on all')  # fmt: skip
    say(f'{folder}: one folder for all{", writable" if writes else ""}')

    result, problem = None, ''
    try:
        result = opened()
        for source in result:
            source[0]
    except (UserError, OSError) as error:
        problem = f'data: {error}'
    _end_if(_reasons('data', [{'data': p} for p in _tell('data', problem, DATA_SECONDS)], hosts))
    assert result is not None
    say(f'data readable from all: {", ".join(f"{s.name} {len(s):,}" for s in result)}')
    return result


def _facts(config: ml_collections.ConfigDict, folder: pathlib.Path, writes: bool) -> dict[str, Any]:
    """What a process posts of itself."""
    return {
        'host': socket.gethostname(),
        'code': {path: _hash(ROOT / path) for path in CODE},
        'libraries': {'python': platform.python_version(), **environment.versions()},
        'config': flatten(ml_collections.ConfigDict(json.loads(config.to_json_best_effort()))),
        'folder': _trouble_with(folder, writes),
        'token': secrets.token_hex(8),
    }


def _trouble_with(folder: pathlib.Path, writes: bool) -> str:
    """Why a folder cannot be used, or ''."""
    if not writes:
        return '' if folder.is_dir() else f'workdir: {folder}: no such folder'
    probe = folder / f'{TOKEN}-{cluster.process()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text('')
        probe.unlink()
    except OSError as error:
        return f'workdir: {folder} is not writable: {error.strerror}'
    return ''


def _what_is_there(folder: pathlib.Path, token: pathlib.Path, writes: bool) -> str:
    """What all processes must see alike: the first one's token, or the names in the folder."""
    try:
        if writes:
            return token.read_text()
        return _digest(sorted(path.name for path in folder.iterdir()))
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
    keys = sorted({key for facts in all_facts for key in facts[name]})
    for key in keys:
        values = [json.dumps(facts[name].get(key)) for facts in all_facts]
        usual, count = collections.Counter(values).most_common(1)[0]
        if count < len(values):
            others = [
                f'{value} on {_who(number, [facts["host"] for facts in all_facts])}'
                for number, value in enumerate(values)
                if value != usual
            ]
            lines.append(f'{name}: {key} is {usual} on {count}, but {", ".join(others)}')
    return lines


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
    """Raises NotReady with a line for each; the first process, whom all read from, goes last."""
    if not wrong:
        return
    cluster.post(f'preflight/end/{cluster.process()}', '')
    deadline = time.monotonic() + LAST_SECONDS
    others = set(range(1, cluster.processes())) if cluster.process() == 0 else set()
    while others and time.monotonic() < deadline:
        time.sleep(0.5)
        others = {number for number in others if cluster.look(f'preflight/end/{number}') is None}
    raise NotReady('\nerror: '.join(f'preflight: {line}' for line in wrong))


def say(line: str) -> None:
    """Prints from the first process; JAX's own count of them would touch the devices."""
    if cluster.process() == 0:
        print(f'preflight: {line}', flush=True)
