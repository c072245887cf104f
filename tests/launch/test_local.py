"""launch/local.py with processes that need no JAX: what it passes on, and how it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cnn_arch import cluster
from tests.shared import ROOT

WHO = f'import os; who = int(os.environ["{cluster.PROCESS}"]); '
STAYS = 'import time; time.sleep(60)'


def start(code: str, *flags: str, processes: int = 3) -> subprocess.Popen:
    command = [sys.executable, 'launch/local.py', f'--processes={processes}', *flags, '--',
               sys.executable, '-uc', WHO + code]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(code: str, *flags: str, processes: int = 3) -> tuple[int, str, str]:
    process = start(code, *flags, processes=processes)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_each_line_bears_its_process_and_each_process_its_place() -> None:
    names = (cluster.COORDINATOR, cluster.PROCESSES, 'JAX_NUM_CPU_DEVICES', 'JAX_PLATFORMS')
    code, out, err = run(
        f'import sys; print(*(os.environ[n] for n in {names})); print("bad", file=sys.stderr)',
        '--devices-per-process=2',
    )
    assert code == 0
    lines = sorted(out.splitlines())
    address = lines[0].split()[1]
    assert address.startswith('127.0.0.1:')
    assert lines == [f'[{number}] {address} 3 2 cpu' for number in range(3)]
    assert sorted(err.splitlines()) == [f'[{number}] bad' for number in range(3)]


def test_one_failure_is_the_exit_code_and_named() -> None:
    began = time.monotonic()
    code, _, err = run(f'{STAYS} if who != 1 else os._exit(7)', '--grace=0.5')
    assert code == 7
    assert time.monotonic() - began < 20
    assert 'process 1 (pid ' in err
    assert 'ended with 7; 2 still running have 0.5 s to end' in err
    assert err.count('does not end: killed') == 2


def test_a_killed_process_is_named_with_its_signal() -> None:
    code, _, err = run('os.kill(os.getpid(), 9) if who == 2 else None')
    assert code == 128 + signal.SIGKILL
    assert 'process 2 (pid ' in err
    assert 'was ended by SIGKILL' in err


def test_every_failure_is_named_and_a_signal_is_the_cause(tmp_path: pathlib.Path) -> None:
    """Process 0 fails because 1 was killed, and both are found ended at the same look."""
    pid = tmp_path / 'pid'
    code, _, err = run(
        'import pathlib, time\n'
        f'pid = pathlib.Path({str(pid)!r})\n'
        'if who == 1:\n'
        '    pid.with_suffix(".new").write_text(str(os.getpid()))\n'
        '    pid.with_suffix(".new").rename(pid)\n'
        '    os.kill(os.getpid(), 9)\n'
        'while not pid.exists(): time.sleep(0.001)\n'
        'stat = pathlib.Path("/proc") / pid.read_text() / "stat"\n'
        'while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z": pass\n'
        'if who == 0: os._exit(1)\n',
    )
    lines = [line for line in err.splitlines() if line.startswith('launch/local.py: process')]
    assert any('process 0 (pid ' in line and 'ended with 1' in line for line in lines)
    assert any('process 1 (pid ' in line and 'was ended by SIGKILL' in line for line in lines)
    assert len(lines) == 2
    assert 'process 1' in lines[0]
    assert code == 128 + signal.SIGKILL


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_process(number: signal.Signals) -> None:
    handler = (
        'import signal, sys, time\n'
        f'signal.signal({int(number)}, lambda *_: sys.exit(print("told") or 75))\n'
        'print("ready")\n'
        'while True: time.sleep(0.05)'
    )
    process = start(handler)
    assert process.stdout is not None
    for _ in range(3):
        assert 'ready' in process.stdout.readline()
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == ['[0] told', '[1] told', '[2] told']


def test_dry_run_prints_commands_that_a_shell_takes(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / 'ran'
    code, out, _ = run(f'open({str(marker)!r}, "w").write(str(who))', '--dry-run', processes=2)
    assert code == 0
    assert not marker.exists()
    for number, line in enumerate(out.splitlines()):
        subprocess.run(line, shell=True, check=True, env=dict(os.environ))
        assert marker.read_text() == str(number)


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        (['--processes=2'], 'no command: write it after --'),
        (['--processes=0', '--', 'true'], 'must be at least 1'),
        (['--processes=2', '--', 'no-such-program'], 'no-such-program: No such file'),
        (['--', 'true'], '--processes'),
    ],
)
def test_mistakes_are_one_line(flags: list[str], expected: str) -> None:
    done = subprocess.run([sys.executable, 'launch/local.py', *flags], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count('\n') == 1
