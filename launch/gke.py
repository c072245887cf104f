"""Submits a command to a TPU slice of a GKE cluster, as a JobSet.

    python launch/gke.py --name=vgg-d --image=IMAGE --topology=v5e:16x16 [--slices=1] [--claim=PVC]
                         [--dry-run] -- python train.py --config=configs/vgg.py:D --workdir=/runs/d

`--dry-run` prints the manifest and the command that would take it. Labels, names and the queue are
those of XPK (github.com/AI-Hypercomputer/xpk), whose clusters and `xpk workload list` know the run;
JAX finds its processes by the variables that GKE sets. A run that was preempted (exit code 75, or
its node taken away) is started again at any time, one that fails in another way at most
--max-restarts times. `--claim` mounts a volume that all hosts share at /runs: the workdir.
"""

import argparse
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

if __name__ == '__main__':  # run as a file, from anywhere
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cnn_arch import commands
from cnn_arch.arguments import Parser
from cnn_arch.errors import PREEMPTED, UserError

APPLY = ['kubectl', 'apply', '--filename', '-']
CHIPS_PER_HOST = 4  # of the machines that make up slices of several hosts
# cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: the node label of each chip.
ACCELERATORS = {
    'v4': 'tpu-v4-podslice',
    'v5e': 'tpu-v5-lite-podslice',
    'v5p': 'tpu-v5p-slice',
    'v6e': 'tpu-v6e-slice',
    'tpu7x': 'tpu7x',
}
NAME = re.compile(
    r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?'
)  # pods are named after it, 63 characters at most
GRACE_SECONDS = 60  # to save and end, before a pod is killed: more than checkpoint.grace
JOIN_SECONDS = 900  # pods of a slice start minutes apart
PORTS = (8471, 8080)  # between hosts, as XPK opens them


def main(argv: list[str]) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--name', required=True, help='of the run')
    parser.add_argument('--image', required=True, help='a container image with this code')
    parser.add_argument('--topology', required=True, metavar='CHIP:SHAPE', help='e.g. v5e:16x16')
    parser.add_argument('--slices', type=int, default=1)
    parser.add_argument('--claim', default='', metavar='PVC', help='volume claim, for /runs')
    parser.add_argument('--priority', default='medium', help="one of XPK's priority classes")
    parser.add_argument('--max-restarts', type=int, default=3)
    parser.add_argument('--dry-run', action='store_true')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND')
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ['--'] else args.command
    if not command:
        raise UserError('no command: write it after --, as in -- python train.py ...')
    if not NAME.fullmatch(args.name):
        raise UserError(f'--name={args.name}: expected small letters, digits and -, at most 40')
    if args.slices < 1 or args.max_restarts < 0:
        raise UserError('--slices must be at least 1, --max-restarts at least 0')
    text = json.dumps(manifest(args, command), indent=2)  # JSON is YAML
    if args.dry_run:
        print(shlex.join(APPLY), "<<'END'")
        print(text, 'END', sep='\n')
        return 0
    try:
        return subprocess.run(APPLY, input=text, text=True).returncode
    except OSError as error:
        raise UserError(f'{APPLY[0]}: {error.strerror}') from error


def manifest(args: argparse.Namespace, command: list[str]) -> dict[str, Any]:
    """The JobSet: one job per slice, one pod per host. Raises UserError for a bad topology."""
    chip, shape, hosts = parse_topology(args.topology)
    pod: dict[str, Any] = {
        'restartPolicy': 'Never',
        'hostNetwork': True,
        'dnsPolicy': 'ClusterFirstWithHostNet',
        'priorityClassName': args.priority,
        'terminationGracePeriodSeconds': GRACE_SECONDS,
        'nodeSelector': {
            'cloud.google.com/gke-tpu-accelerator': ACCELERATORS[chip],
            'cloud.google.com/gke-tpu-topology': shape,
        },
        'tolerations': [{'key': 'google.com/tpu', 'operator': 'Exists', 'effect': 'NoSchedule'}],
        'containers': [container(args, command)],
    }
    if args.claim:
        pod['volumes'] = [{'name': 'runs', 'persistentVolumeClaim': {'claimName': args.claim}}]
    preempted = [
        {'action': 'FailJob', 'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
        {'action': 'FailJob', 'onExitCodes': {'operator': 'In', 'values': [PREEMPTED]}},
    ]
    job = {
        'parallelism': hosts,
        'completions': hosts,
        'completionMode': 'Indexed',
        'backoffLimit': 0,  # the hosts of a slice end together
        'podFailurePolicy': {'rules': preempted},
        'template': {'metadata': {'labels': labels(args.name)}, 'spec': pod},
    }
    restart = {
        'name': 'preempted',
        'action': 'RestartJobSetAndIgnoreMaxRestarts',
        'onJobFailureReasons': ['PodFailurePolicy'],  # one of the two above
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': {
            'name': args.name,
            'labels': labels(args.name) | {'kueue.x-k8s.io/queue-name': 'multislice-queue'},
            'annotations': {
                'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
            },
        },
        'spec': {
            'failurePolicy': {'maxRestarts': args.max_restarts, 'rules': [restart]},
            'replicatedJobs': [
                {'name': 'slice-job', 'replicas': args.slices, 'template': {'spec': job}}
            ],
        },
    }


def container(args: argparse.Namespace, command: list[str]) -> dict[str, Any]:
    """The one container of a pod: it has all chips of its host."""
    value: dict[str, Any] = {
        'name': 'jax-tpu',
        'image': args.image,
        'command': command,
        'env': [{'name': 'CNN_ARCH_JOIN_SECONDS', 'value': str(JOIN_SECONDS)}],
        'ports': [{'containerPort': port, 'protocol': 'TCP'} for port in PORTS],
        'securityContext': {'privileged': True},  # for the TPU's device files
        'resources': {'limits': {'google.com/tpu': str(CHIPS_PER_HOST)}},
    }
    if args.claim:
        value['volumeMounts'] = [{'name': 'runs', 'mountPath': '/runs'}]
    return value


def labels(name: str) -> dict[str, str]:
    """By which XPK finds the run."""
    return {'xpk.google.com/workload': name}


def parse_topology(topology: str) -> tuple[str, str, int]:
    """'v5e:16x16' -> ('v5e', '16x16', 64 hosts)."""
    chip, _, shape = topology.partition(':')
    if chip not in ACCELERATORS or not re.fullmatch(r'\d+(x\d+){1,2}', shape):
        known = ', '.join(ACCELERATORS)
        raise UserError(f'--topology={topology}: expected CHIP:SHAPE, CHIP one of {known}')
    chips = math.prod(int(side) for side in shape.split('x'))
    if chips < CHIPS_PER_HOST or chips % CHIPS_PER_HOST:
        raise UserError(f'--topology={topology}: {chips} chips are no multiple of {CHIPS_PER_HOST}')
    return chip, shape, chips // CHIPS_PER_HOST


if __name__ == '__main__':
    commands.run(main)
