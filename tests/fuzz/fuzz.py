"""Damaged files for every reader: python -m tests.fuzz.fuzz [READER ...] [--cases=N] [--seed=S].

Case k of a seed is the same file on any machine. Each is read in a process with 1 GiB of memory,
for at most 20 s. What must not happen: an exception that is not the one line, a crash, a hang,
and, where a checksum covers it, a change that goes unnoticed. Files that made it happen are kept in
the folder `--keep`, and each belongs into the table of tests/bad_inputs/.
"""

import argparse
import contextlib
import json
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

from cnn_arch.errors import UserError
from tests.fuzz import mutation
from tests.fuzz.readers import PLANTED, READERS, Reader

MEMORY = 1 << 30  # bytes of addresses
SECONDS = 20  # for a case


def main(argv: list[str]) -> int:
    """Prints a line per reader; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('readers', nargs='*', metavar='READER', help=', '.join(READERS))
    parser.add_argument('--cases', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', type=pathlib.Path, default=pathlib.Path('fuzz_findings'))
    args = parser.parse_args(argv)
    problems = 0
    for name in args.readers or READERS:
        report = fuzz(name, args.cases, args.seed, args.keep)
        print(line(name, report), flush=True)
        problems += len(report['findings'])
    return 1 if problems else 0


def line(name: str, report: dict) -> str:
    """For people."""
    findings = ''.join(f'\n  case {case}: {what}' for case, what in report['findings'])
    return (
        f'{name}: {report["cases"]:,} cases, {report["read"]:,} read, '
        f'{report["refused"]:,} refused, {report["seconds"]:.0f} s, peak '
        f'{report["peak"] >> 20:,} MiB, {len(report["findings"])} findings{findings}'
    )


def fuzz(name: str, cases: int, seed: int, keep: pathlib.Path) -> dict:
    """Runs the cases of a reader in a process that is started anew where one ends it."""
    total: dict = {
        'cases': 0, 'read': 0, 'refused': 0, 'peak': 0, 'findings': [], 'seconds': 0.0
    }  # fmt: skip
    started = time.monotonic()
    first = 0
    while first < cases:
        with tempfile.TemporaryDirectory() as folder:
            words = [name, str(first), str(cases), str(seed), folder]
            ended = subprocess.run(
                [sys.executable, '-c', 'from tests.fuzz import fuzz; fuzz.worker()', *words],
                cwd=pathlib.Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=False,
            )
            report = json.loads((pathlib.Path(folder) / 'report').read_text() or '{}')
            for key in ('cases', 'read', 'refused'):
                total[key] += report[key]
            total['peak'] = max(total['peak'], report['peak'])
            total['findings'] += report['findings']
            first = report['next']
            if ended.returncode:
                what = ended.stderr.strip().splitlines()[-1:] or ['']
                how = f'ended with {ended.returncode} {what[0]}'
                if ended.returncode < 0:
                    how = f'killed by {signal.Signals(-ended.returncode).name}'
                total['findings'].append([first, how])
                total['cases'] += 1
                first += 1
    for case, _ in total['findings']:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f'{name}-{seed}-{case}').write_bytes(damaged(name, case, seed)[0])
    total['seconds'] = time.monotonic() - started
    return total


def damaged(name: str, case: int, seed: int) -> tuple[bytes, bytes, bool]:
    """A case's file, the whole one that it was, and whether its checksums were left wrong."""
    reader = _reader(name)
    seeds = reader.seeds()
    rng = random.Random(f'{name} {seed} {case}')
    whole = rng.choice(seeds)
    if reader.sealed and case % 4 == 0:
        return mutation.one_byte(whole, rng), whole, True
    data = mutation.mutate(whole, seeds, rng)
    if reader.repair and case % 4 != 1:
        data = reader.repair(data)
    return data, whole, False


def _reader(name: str) -> Reader:
    return PLANTED if name == 'planted' else READERS[name]


def worker() -> None:
    """The process: reader, first case, number of cases, seed and folder on its command line."""
    name, folder = sys.argv[1], pathlib.Path(sys.argv[5])
    first, cases, seed = map(int, sys.argv[2:5])
    reader = _reader(name)
    path = folder / 'file'
    wholes = {}
    for whole in reader.seeds():  # also loads what the reader needs, before memory is limited
        path.write_bytes(whole)
        wholes[whole] = reader.read(path)
    resource.setrlimit(resource.RLIMIT_AS, (max(MEMORY, _addresses() + MEMORY // 2),) * 2)
    warnings.simplefilter('ignore')  # Pillow's, over odd metadata
    report: dict = {'cases': 0, 'read': 0, 'refused': 0, 'findings': [], 'next': first, 'peak': 0}
    with (folder / 'report').open('w') as out:
        for case in range(first, cases):
            report['next'] = case
            report['peak'] = _peak()
            out.seek(0)
            out.write(json.dumps(report) + ' ' * 64)
            out.flush()
            signal.alarm(SECONDS)
            data, whole, sealed = damaged(name, case, seed)
            path.write_bytes(data)
            try:
                digest = reader.read(path)
                report['read'] += 1
                if sealed and digest != wholes[whole]:
                    report['findings'].append([case, 'a change that a checksum covers was read'])
            except UserError as error:
                report['refused'] += 1
                if len(str(error)) > 2000:
                    report['findings'].append([case, f'a message of {len(str(error))} letters'])
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                what = f'{type(error).__name__} {error} at {where.filename}:{where.lineno}'
                report['findings'].append([case, what[:300]])
            report['cases'] += 1
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        report['next'] = cases
        report['peak'] = _peak()
        out.seek(0)
        out.write(json.dumps(report) + ' ' * 64)


def _peak() -> int:
    """Bytes of memory that this process, or one of its children, has had at once."""
    status = pathlib.Path('/proc/self/status').read_text()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(int(status.split('VmHWM:')[1].split()[0]), children)


def _addresses() -> int:
    """Bytes of addresses that this process has taken."""
    return int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
