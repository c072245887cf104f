"""Processes killed, told to stop, out of disk, their checkpoints damaged: the run must not notice.

    python -m tests.chaos.chaos --rounds=50 --out=DIR [--processes=4] [--seed=0]

Each round starts the same command in DIR/run and does one thing to it at a random moment. The next
start has to go on from the newest whole checkpoint by itself. At the end the run is left alone, and
all its arrays must be bit for bit those of DIR/undisturbed, which nothing happened to. Prints one
line per round and the figures; exit code 1 at the first thing that is not as it must be.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from cnn_arch.training import checkpoint
from tests.shared import ROOT
from tests.test_train import final_state, losses

STEPS_PER_ROUND = 40  # so many are certainly not made before a round's event
EVERY, EVALUATE = 7, 20  # steps between checkpoints and evaluations
END_SECONDS = 90.0  # within which all processes must have ended after an event
START_SECONDS = 600.0


class Failure(Exception):
    """Something is not as it must be."""


class Run:
    """One start of the command, watched from outside as its user would."""

    def __init__(self, folder: pathlib.Path, flags: list[str], processes: int, grace: int = 45):
        self.folder = folder
        self.began = time.monotonic()
        handle, name = tempfile.mkstemp(suffix='.log')  # not on the disk that is filled
        self.log = pathlib.Path(name)
        launcher = [
            sys.executable,
            'launch/local.py',
            f'--processes={processes}',
            f'--grace={grace}',
        ]
        self.process = subprocess.Popen(
            [*launcher, '--', sys.executable, 'train.py', *flags, f'--workdir={folder}'],
            cwd=ROOT, stdout=handle, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(handle)

    @property
    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def workers(self) -> list[int]:
        """Process ids, in the order in which they were started."""
        path = pathlib.Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children')
        return [int(word) for word in path.read_text().split()]

    def until(self, what: Callable[[], bool]) -> None:
        """Waits for something to happen in the workdir."""
        deadline = time.monotonic() + START_SECONDS
        while not what():
            if self.process.poll() is not None:
                raise Failure(f'ended by itself with {self.process.returncode}:\n{self.text}')
            if time.monotonic() > deadline:
                raise Failure(f'nothing happened in {START_SECONDS:.0f} s:\n{self.text}')
            time.sleep(0.002)

    def wait(self) -> float:
        """Seconds until all processes have ended."""
        began = time.monotonic()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise Failure(f'still there {END_SECONDS:.0f} s later:\n{self.text}') from error
        return time.monotonic() - began


class Chaos:
    """The rounds; every choice comes from the seed (the moments are the machine's).

    The disk is filled only where `out` is one of its own: nobody else's is.
    """

    def __init__(self, out: pathlib.Path, rounds: int, processes: int, seed: int):
        self.rounds, self.processes = rounds, processes
        self.folder, self.calm = out / 'run', out / 'undisturbed'
        self.random = random.Random(seed)
        self.ends: dict[str, list[float]] = collections.defaultdict(list)
        self.expected: int | None = None  # the step that the next start must go on from
        self.damaged: int | None = None  # one that it must name
        self.flags = [
            '--config=configs/demo.py:lenet5', '--config.train.batch_size=16',
            f'--config.train.steps={STEPS_PER_ROUND * rounds + EVALUATE}',
            f'--config.train.eval_every={EVALUATE}', f'--config.checkpoint.every={EVERY}',
            '--config.train.log_every=1', '--config.eval.batch_size=16',
        ]  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """All of it; raises Failure."""
        events = [self.kill, self.kill_in_a_write, self.kill_in_an_evaluation, self.terminate,
                  self.fill_the_disk, self.truncate, self.flip]  # fmt: skip
        out = self.folder.parent
        if not out.is_mount():
            print(f'{out} is not a disk of its own: it is not filled')
            events.remove(self.fill_the_disk)
        order = [events[number % len(events)] for number in range(self.rounds)]
        self.random.shuffle(order)
        for number, event in enumerate(order, 1):
            event()
            self.expected = self.newest_whole()
            print(f'{number}/{self.rounds} {event.__name__}: ended in '
                  f'{self.ends[event.__name__][-1]:.1f} s, checkpoint {self.expected}',
                  flush=True)  # fmt: skip
        run = self.start()
        if run.process.wait(START_SECONDS):
            raise Failure(f'the last start ended with {run.process.returncode}:\n{run.text}')
        self.check_start(run)
        self.compare()

    def compare(self) -> None:
        """The run against one that nothing happened to."""
        calm = Run(self.calm, self.flags, self.processes)
        if calm.process.wait(2 * START_SECONDS):
            raise Failure(f'the undisturbed run ended with {calm.process.returncode}:\n{calm.text}')
        for one, other in zip(
            final_state(self.calm, *self.flags), final_state(self.folder, *self.flags), strict=True
        ):
            if not np.array_equal(one, other, equal_nan=True):
                raise Failure('the arrays are not those of the undisturbed run')
        if losses(self.calm) != losses(self.folder):
            raise Failure('the losses are not those of the undisturbed run')
        results = [json.loads((f / 'result.json').read_text()) for f in (self.calm, self.folder)]
        if results[0]['top1_error'] != results[1]['top1_error']:
            raise Failure(f'the results differ: {results}')
        for name, seconds in sorted(self.ends.items()):
            print(f'{name}: {len(seconds)} times, all processes ended within {max(seconds):.1f} s')
        print(f'{self.rounds} rounds: parameters, optimiser and losses bit-identical', flush=True)

    # ---- what happens to a run

    def kill(self) -> None:
        """SIGKILL to one process while it trains."""
        run = self.started()
        self.kill_one(run, 'kill')

    def kill_in_a_write(self) -> None:
        """SIGKILL to one process while a checkpoint is being written."""
        run = self.started()
        run.until(lambda: any(self.folder.glob('checkpoints/*.writing*')))
        time.sleep(self.random.uniform(0, 0.05))
        self.kill_one(run, 'kill_in_a_write')

    def kill_in_an_evaluation(self) -> None:
        """SIGKILL to one process between a step that is evaluated and its result."""
        run = self.started()
        first = self.step() // EVALUATE + 1
        run.until(lambda: self.step() >= first * EVALUATE)
        self.kill_one(run, 'kill_in_an_evaluation')

    def terminate(self) -> None:
        """SIGTERM to all, as a preemption notice."""
        run = self.started()
        run.process.send_signal(signal.SIGTERM)
        self.ends['terminate'].append(run.wait())
        if run.process.returncode != 75:
            raise Failure(f'SIGTERM: exit code {run.process.returncode}:\n{run.text}')
        stopped = re.search(r'stopped at step ([\d,]+) with a checkpoint', run.text)
        if not stopped or int(stopped[1].replace(',', '')) != self.newest_whole():
            raise Failure(f'no checkpoint of the step it stopped at:\n{run.text}')

    def fill_the_disk(self) -> None:
        """No room for the next checkpoint, nor for anything else."""
        run = self.started()
        filler = self.folder.parent / 'filler'
        fill(filler)
        self.ends['fill_the_disk'].append(run.wait())
        filler.unlink()
        if run.process.returncode != 74:
            raise Failure(f'a full disk: exit code {run.process.returncode}:\n{run.text}')
        if not re.search(r'error: .* cannot be written.*: No space left', run.text):
            raise Failure(f'a full disk is not named:\n{run.text}')

    def truncate(self) -> None:
        """A file of the newest checkpoint loses its end."""
        self.damage('truncate', lambda path: os.truncate(path, path.stat().st_size // 2))

    def flip(self) -> None:
        """A bit of the newest checkpoint turns."""

        def turn(path: pathlib.Path) -> None:
            data = bytearray(path.read_bytes())
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            path.write_bytes(data)

        self.damage('flip', turn)

    # ---- how

    def start(self) -> Run:
        return Run(self.folder, self.flags, self.processes)

    def started(self) -> Run:
        """A run that has made a random number of steps beyond its checkpoint."""
        steps = self.random.randrange(1, 2 * EVERY)
        run = self.start()
        run.until(lambda: 'process(es), ' in run.text and 'images/s' in run.text)
        self.check_start(run)
        target = (self.expected or 0) + steps
        run.until(lambda: self.step() >= target)
        return run

    def check_start(self, run: Run) -> None:
        """It went on from the newest whole checkpoint, and named the damaged one."""
        found = re.search(r'going on from the checkpoint of step ([\d,]+)', run.text)
        step = int(found[1].replace(',', '')) if found else None
        if step != self.expected:
            raise Failure(f'went on from {step} instead of {self.expected}:\n{run.text}')
        if self.damaged is not None and (
            f'the checkpoint of step {self.damaged} is damaged' not in run.text
        ):
            raise Failure(f'step {self.damaged} is damaged and not named:\n{run.text}')
        self.damaged = None

    def kill_one(self, run: Run, name: str) -> None:
        number = self.random.randrange(self.processes)
        os.kill(run.workers()[number], signal.SIGKILL)
        self.ends[name].append(run.wait())
        if f'process {number} ' not in run.text or 'SIGKILL' not in run.text:
            raise Failure(f'process {number} was killed and is not named:\n{run.text}')
        if run.process.returncode in (0, 75):
            raise Failure(f'exit code {run.process.returncode} after a kill:\n{run.text}')

    def damage(self, name: str, how: Callable[[pathlib.Path], None]) -> None:
        run = self.started()
        run.until(lambda: len(checkpoint.steps(self.folder)) > 1)
        self.kill_one(run, name)
        self.damaged = checkpoint.steps(self.folder)[-1]
        folder = checkpoint.step_folder(self.folder, self.damaged)
        files = sorted(p for p in folder.rglob('*') if p.is_file() and p.stat().st_size > 1)
        how(self.random.choice(files))

    def step(self) -> int:
        """The last one that is reported."""
        path = self.folder / 'metrics.jsonl'
        try:
            with path.open('rb') as file:
                file.seek(max(0, path.stat().st_size - 2000))
                lines = file.read().split(b'\n')
            return max(json.loads(line)['step'] for line in lines[1:] if line.endswith(b'}'))
        except (OSError, ValueError):
            return 0

    def newest_whole(self) -> int | None:
        return checkpoint.find(self.folder) if checkpoint.steps(self.folder) else None


def fill(path: pathlib.Path) -> None:
    """Writes until the disk has no room."""
    with path.open('wb', buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--processes', type=int, default=4)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        Chaos(args.out.absolute(), args.rounds, args.processes, args.seed).run()
    except Failure as failure:
        sys.exit(f'FAILURE: {failure}')


if __name__ == '__main__':
    main()
