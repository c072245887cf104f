"""The JobSet of launch/gke.py against the schemas of JobSet v1alpha2 and of Kubernetes."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cnn_arch import commands
from cnn_arch.errors import PREEMPTED
from launch import gke
from tests.shared import ROOT

FLAGS = ['--name=vgg-d', '--image=registry/cnn:1', '--topology=v5e:16x16']
COMMAND = ['python', 'train.py', '--config=configs/vgg.py:D', "--workdir=/runs/it's"]


def printed(*flags: str, capsys: pytest.CaptureFixture) -> dict[str, Any]:
    with pytest.raises(SystemExit) as end:
        commands.run(gke.main, [*FLAGS, '--dry-run', *flags, '--', *COMMAND])
    assert end.value.code == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("kubectl apply --filename - <<'END'", 'END')
    return json.loads('\n'.join(lines))


@pytest.mark.parametrize('flags', [[], ['--claim=disk', '--slices=2', '--max-restarts=9']])
def test_manifest_fits_its_schema(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    """The models are generated from the published OpenAPI: wrong types and missing fields raise,
    and a key that they do not know is lost on the way through them.
    """
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    value = printed(*flags, capsys=capsys)
    model = JobsetV1alpha2JobSet.from_dict(value)
    assert model is not None
    assert json.loads(model.to_json()) == value


def test_the_schema_finds_mistakes(capsys: pytest.CaptureFixture) -> None:
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    value = printed(capsys=capsys)
    pod = value['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
    pod['nodeselector'] = pod.pop('nodeSelector')
    assert json.loads(JobsetV1alpha2JobSet.from_dict(value).to_json()) != value
    pod['containers'][0]['ports'] = 8471
    with pytest.raises((TypeError, ValueError)):
        JobsetV1alpha2JobSet.from_dict(value)


def test_one_pod_per_host_and_what_restarts(capsys: pytest.CaptureFixture) -> None:
    value = printed('--slices=2', capsys=capsys)
    assert value['metadata']['labels'] == {
        'xpk.google.com/workload': 'vgg-d', 'kueue.x-k8s.io/queue-name': 'multislice-queue',
    }  # fmt: skip
    (job,) = value['spec']['replicatedJobs']
    assert job['replicas'] == 2
    spec = job['template']['spec']
    assert spec['parallelism'] == spec['completions'] == 64
    pod = spec['template']['spec']
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '16x16',
    }
    assert pod['containers'][0]['command'] == COMMAND
    codes = [rule['onExitCodes']['values'] for rule in spec['podFailurePolicy']['rules']
             if 'onExitCodes' in rule]  # fmt: skip
    assert codes == [[PREEMPTED]]
    (rule,) = value['spec']['failurePolicy']['rules']
    assert rule['onJobFailureReasons'] == ['PodFailurePolicy']


@pytest.mark.parametrize(
    ('flag', 'expected'),
    [
        ('--topology=v5e', 'expected CHIP:SHAPE'),
        ('--topology=a100:8', 'CHIP one of v4, v5e'),
        ('--topology=v5e:3x3', '9 chips are no multiple of 4'),
        ('--name=VGG_D', 'expected small letters'),
        ('--slices=0', '--slices must be at least 1'),
    ],
)
def test_mistakes_are_one_line(flag: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        commands.run(gke.main, [*FLAGS, flag, '--dry-run', '--', 'true'])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count('\n') == 1


def test_without_kubectl_it_says_so() -> None:
    environment = {'PATH': '', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, 'launch/gke.py', *FLAGS, '--', 'true'], cwd=ROOT,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == 'error: kubectl: No such file or directory\n'
