"""The shell scripts, run with stand-ins for sbatch, srun, scontrol and gcloud that write down how
they were called.
"""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from tests.shared import ROOT

SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
POD = ['launch/tpu_pod.sh', '--name=pod', '--zone=us-west4-a', '--project=p']
TRAIN = ['python', 'train.py', "--workdir=it's a folder"]


@pytest.fixture
def tools(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of stand-ins: each appends its name and words to `calls`; $CODE ends srun."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('sbatch', 'srun', 'scontrol', 'gcloud', 'git'):
        lines = [
            '#!/bin/bash',
            f'printf "%q " {name} "$@" >>"{tmp_path}/calls"',
            f'echo >>"{tmp_path}/calls"',
            '[[ $* != *describe* ]] || echo ACTIVE',
            'exit ${CODE:-0}' if name == 'srun' else 'exit 0',
        ]
        tool = folder / name
        tool.write_text('\n'.join(lines))
        tool.chmod(0o755)
    return folder


def run(
    words: list[str], tools: pathlib.Path, **variables: str
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """The script's end and the calls it made."""
    environment = os.environ | {'PATH': f'{tools}:{os.environ["PATH"]}'} | variables
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    calls = tools.parent / 'calls'
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return done, [shlex.split(line) for line in lines]


def test_shellcheck_has_nothing_to_say() -> None:
    tool = pathlib.Path(sys.executable).with_name('shellcheck')
    done = subprocess.run([tool, *SCRIPTS], capture_output=True, text=True)
    assert len(SCRIPTS) == 2
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('action', ['create', 'setup', 'run', 'delete', 'wait'])
def test_a_pods_dry_run_is_what_is_run(action: str, tools: pathlib.Path) -> None:
    words = [*POD, '--type=v5litepod-256', '--spot', action]
    words += ['--', *TRAIN] if action == 'run' else []
    dry, none = run([words[0], '--dry-run', *words[1:]], tools)
    assert (dry.returncode, none) == (0, [])
    wet, calls = run(words, tools)
    assert wet.returncode == 0, wet.stderr
    assert [shlex.split(line) for line in dry.stdout.splitlines()] == calls
    assert all({'--zone=us-west4-a', '--project=p'} <= set(c) for c in calls if c[0] == 'gcloud')


def test_a_pods_commands(tools: pathlib.Path) -> None:
    _, (create,) = run([*POD, '--type=v5litepod-256', '--spot', 'create'], tools)
    assert create[:7] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'pod',
                          '--node-id=pod']  # fmt: skip
    assert {'--accelerator-type=v5litepod-256', '--runtime-version=v2-alpha-tpuv5-lite',
            '--spot'} <= set(create)  # fmt: skip
    _, (ssh,) = run([*POD, 'run', '--', *TRAIN], tools)
    assert '--worker=all' in ssh
    command = ssh[-1].removeprefix('--command=')
    assert shlex.split(command)[-3:] == TRAIN
    _, setup = run([*POD, 'setup'], tools)
    assert [call[0] for call in setup] == ['git', 'gcloud', 'gcloud']
    assert 'jax[tpu]==0.10.2' in setup[-1][-1]


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['launch/tpu_pod.sh', 'create'], '--name is missing'),
        (['launch/tpu_pod.sh', '--name=p', 'create'], '--zone is missing'),
        ([*POD, 'create'], '--type is missing'),
        ([*POD, '--type=v9-8', 'create'], 'give its runtime with --version'),
        ([*POD, 'run'], 'no command'),
        (POD, 'say what to do'),
        ([*POD, '--spott', 'create'], '--spott: no such option'),
        (['launch/slurm.sh', '--nodes=2'], 'no command'),
    ],
)
def test_mistakes_are_one_line(words: list[str], expected: str, tools: pathlib.Path) -> None:
    done, calls = run(words, tools)
    assert (done.returncode, calls) == (2, [])
    assert expected in done.stderr
    assert done.stderr.count('\n') == 1


def test_slurms_dry_run_is_what_is_run(tools: pathlib.Path) -> None:
    words = ['launch/slurm.sh', '--nodes=4', '--ntasks-per-node=8', '--', *TRAIN]
    dry, none = run([words[0], '--dry-run', *words[1:]], tools)
    assert (dry.returncode, none) == (0, [])
    _, calls = run(words, tools)
    assert [shlex.split(dry.stdout)] == calls
    (sbatch,) = calls
    assert {'--requeue', '--signal=TERM@120', '--nodes=4'} <= set(sbatch)
    assert sbatch[-4:] == [str(ROOT / 'launch/slurm.sh'), *TRAIN]


@pytest.mark.parametrize(('code', 'again'), [(0, False), (2, False), (75, True), (137, False)])
def test_slurm_starts_a_preempted_job_again(code: int, again: bool, tools: pathlib.Path) -> None:
    """As Slurm runs the file on the first node of the job."""
    job = {'SLURM_JOB_ID': '42', 'SLURM_SUBMIT_DIR': '/', 'CODE': str(code)}
    done, calls = run(['launch/slurm.sh', *TRAIN], tools, **job)
    assert done.returncode == code
    assert calls[0][0] == 'srun'
    assert calls[0][-3:] == TRAIN
    assert calls[1:] == ([['scontrol', 'requeue', '42']] if again else [])
