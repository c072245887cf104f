"""Runs a command as several processes of one run on this machine: the smallest pod.

    python launch/local.py --processes=4 --devices-per-process=2 -- python train.py ...

The processes find each other over loopback (cnn_arch/cluster.py) and compute on the CPU, each with
its own virtual devices, where there is no accelerator or JAX_PLATFORMS=cpu says so; on a machine
with GPUs each has its own of them. Every line they print bears the number of its process. Signals
are passed on. When one process fails, the others have --grace seconds to end by themselves. The
exit code is that of the first that failed, 128 + n where signal n ended it, or 0.
"""

import argparse
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from typing import IO

if __name__ == '__main__':  # run as a file, from anywhere
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cnn_arch import cluster, commands
from cnn_arch.arguments import Parser
from cnn_arch.errors import UserError

POLL = 0.05  # seconds
ONE_DEVICE_COUNT = '--xla_force_host_platform_device_count'  # JAX refuses it beside its own


def main(argv: list[str]) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--processes', type=int, required=True, metavar='N')
    parser.add_argument('--devices-per-process', type=int, default=1, metavar='N')
    parser.add_argument('--grace', type=float, default=30.0, metavar='SECONDS')
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run nothing')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND')
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ['--'] else args.command
    if not command:
        raise UserError('no command: write it after --, as in -- python train.py ...')
    if args.processes < 1 or args.devices_per_process < 1:
        raise UserError('--processes and --devices-per-process must be at least 1')

    address = f'127.0.0.1:{free_port()}'
    changes = [
        environment(address, args.processes, number, args.devices_per_process)
        for number in range(args.processes)
    ]
    if args.dry_run:
        for change in changes:
            words = ['env', *(f'{name}={value}' for name, value in change.items()), *command]
            print(shlex.join(words))
        return 0
    return Group(command, changes, args.grace).wait()


def environment(address: str, processes: int, process: int, devices: int) -> dict[str, str]:
    """What one process finds in its environment beyond that of this one."""
    change = {
        cluster.COORDINATOR: address,
        cluster.PROCESSES: str(processes),
        cluster.PROCESS: str(process),
    }
    platforms = os.environ.get('JAX_PLATFORMS', '' if cluster.has_accelerator() else 'cpu')
    if platforms == 'cpu':
        flags = os.environ.get('XLA_FLAGS', '').split()
        change['JAX_PLATFORMS'] = 'cpu'
        change['JAX_NUM_CPU_DEVICES'] = str(devices)
        change['XLA_FLAGS'] = ' '.join(f for f in flags if not f.startswith(ONE_DEVICE_COUNT))
    else:
        first = process * devices
        change['JAX_LOCAL_DEVICE_IDS'] = ','.join(str(first + i) for i in range(devices))
    return change


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


class Group:
    """The processes of one run."""

    def __init__(self, command: list[str], changes: list[dict[str, str]], grace: float):
        self._grace = grace
        self._lock = threading.Lock()  # a line at a time
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        for process, change in enumerate(changes):
            self._start(process, command, change)

    def _start(self, number: int, command: list[str], change: dict[str, str]) -> None:
        try:
            process = subprocess.Popen(
                command,
                env=os.environ | change,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches it through us alone, once
            )
        except OSError as error:
            self._kill()
            raise UserError(f'{command[0]}: {error.strerror}') from error
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        for pipe, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=self._copy, args=(number, pipe, out), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _copy(self, number: int, pipe: IO[bytes], out: IO[str]) -> None:
        for line in pipe:
            text = line.decode(errors='replace').rstrip('\n')
            with self._lock:
                print(f'[{number}] {text}', file=out, flush=True)

    def _pass_on(self, number: int, frame: types.FrameType | None) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int:
        """Waits for all of them; the exit code of the run."""
        failed: list[int] = []  # in the order of their ends
        deadline = float('inf')
        running = True
        while running:
            codes = [process.poll() for process in self._processes]
            running = None in codes
            ended = [number for number, code in enumerate(codes) if code and number not in failed]
            # Of several at a time, a signal is the cause, an error code the effect.
            ended.sort(key=lambda number: self._processes[number].returncode > 0)
            if ended and not failed:
                deadline = time.monotonic() + self._grace
            for number in ended:
                self._announce(number, codes.count(None), deadline)
            failed += ended
            if time.monotonic() > deadline:
                self._kill()
                break
            time.sleep(POLL if running else 0)
        for reader in self._readers:
            reader.join(timeout=5)  # a grandchild may hold the pipe
        return exit_code(self._processes[failed[0]].returncode) if failed else 0

    def _announce(self, number: int, running: int, deadline: float) -> None:
        code = self._processes[number].returncode
        line = f'process {number} (pid {self._processes[number].pid}) '
        line += f'was ended by {signal.Signals(-code).name}' if code < 0 else f'ended with {code}'
        if running:
            seconds = max(0.0, deadline - time.monotonic())
            line += f'; {running} still running have {seconds:.3g} s to end'
        self._say(line)

    def _kill(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is None:
                self._say(f'process {number} (pid {process.pid}) does not end: killed')
                process.kill()
                process.wait()

    def _say(self, line: str) -> None:
        with self._lock:
            print(f'launch/local.py: {line}', file=sys.stderr, flush=True)


def exit_code(returncode: int) -> int:
    """As a shell has it: 128 + n for signal n."""
    return 128 - returncode if returncode < 0 else returncode


if __name__ == '__main__':
    commands.run(main)
