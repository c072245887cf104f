"""What computes is recorded, and a run that goes on elsewhere says so."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from cnn_arch import environment, mesh
from cnn_arch.training import report, workdir
from cnn_arch.training import step as steps
from configs import demo

CPUINFO = """processor : 0
model name	: Some Processor 9000
flags		: fpu sse4_2 avx avx2 avx512f amx_tile
"""


@pytest.fixture
def config():
    config = demo.get_config('lenet5')
    config.train.update({'batch_size': 16, 'steps': 40})
    return config


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        ('', 'AMX'),
        ('--xla_cpu_max_isa=AVX512', 'AVX512'),
        ('--xla_cpu_max_isa=AVX512_BF16', 'AVX512'),
        ('--xla_other=1 --xla_cpu_max_isa=AVX2', 'AVX2'),
        ('--xla_cpu_max_isa=SSE4_2', 'SSE4_2'),
    ],
)
def test_the_processor_and_what_is_used_of_it(monkeypatch, tmp_path, config, flags, expected):
    devices = mesh.create_mesh(config.mesh)  # JAX starts under the tests' own flags
    monkeypatch.setattr(environment, 'CPUINFO', tmp_path / 'cpuinfo')
    monkeypatch.setenv('XLA_FLAGS', flags)
    (tmp_path / 'cpuinfo').write_text(CPUINFO)
    found = environment.describe(config, devices)
    assert found['processor'] == 'Some Processor 9000'
    assert found['vector_extension'] == expected
    assert found['devices'] == jax.device_count()
    assert found['versions']['jax'] == jax.__version__
    assert found == json.loads(json.dumps(found))
    assert f'Some Processor 9000 ({expected})' in environment.line(found)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='one system alone can do this')
def test_threads_are_those_that_a_process_may_use():
    code = 'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); '
    code += 'from cnn_arch import environment; print(environment.threads())'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout == '1\n'


@pytest.mark.parametrize(
    ('platform', 'dtype', 'precision', 'training', 'evaluation'),
    [
        ('cpu', 'float32', 'float32', 'float32, products in float32', 'float32, products in'),
        ('gpu', 'float32', 'float32', 'float32, products in TF32', 'float32, products in float32'),
        ('gpu', 'bfloat16', 'float32', 'bfloat16, products in bfloat16', 'float32, products in f'),
        ('gpu', 'float32', 'fast', 'float32, products in TF32', 'float32, products in TF32'),
        ('tpu', 'float32', 'float32', 'float32, products in bfloat16', 'float32, products in fl'),
        ('tpu', 'float32', 'fast', 'float32, products in bfloat16', 'float32, products in bfl'),
    ],
)
def test_the_arithmetic_of_each_platform(config, platform, dtype, precision, training, evaluation):
    config.model.dtype, config.eval.precision = dtype, precision
    assert environment.training(config, platform).startswith(training)
    assert environment.evaluation(config, platform).startswith(evaluation)
    with jax.default_matmul_precision('highest'):  # JAX's own setting: of training alone
        assert 'JAX_DEFAULT_MATMUL_PRECISION=highest' in environment.training(config, platform)
        assert environment.evaluation(config, platform).startswith(evaluation)


def test_differences_are_named():
    before = {'threads': 1, 'platform': 'cpu', 'versions': {'jax': '0.10.1', 'numpy': '2'}}
    now = {'threads': 2, 'platform': 'cpu', 'versions': {'jax': '0.10.2', 'numpy': '2'}}
    assert environment.differences(before, before) == []
    assert environment.differences(before, now) == [
        'threads = 1, now 2', "versions.jax = '0.10.1', now '0.10.2'",
    ]  # fmt: skip


END = types.SimpleNamespace(updates=40)


def begin(folder, config, start: int) -> report.Report:
    """A report of a run of 40 steps that has begun at a step."""

    class Source:
        name, num_classes = 'digits', 10

        def __len__(self) -> int:
            return 320

    log = report.Report(folder, config, steps.plan(config, 320), start, None, True)
    state = types.SimpleNamespace(params={})
    log.begin(None, state, Source(), Source(), mesh.create_mesh(config.mesh))
    return log


def test_a_run_that_goes_on_elsewhere_says_so(tmp_path, config, monkeypatch, capsys):
    begin(tmp_path, config, 0).finish(40, END)
    first = capsys.readouterr().out
    assert 'trains in float32, products in float32; evaluates in float32, pr' in first
    assert 'not what began' not in first
    begin(tmp_path, config, 20).finish(40, END)
    assert 'not what began' not in capsys.readouterr().out

    real = environment.describe
    monkeypatch.setattr(
        environment, 'describe', lambda *words: {**real(*words), 'processor': 'Another'}
    )
    log = begin(tmp_path, config, 20)
    said = capsys.readouterr().out
    assert 'not what began this run: processor = ' in said
    assert "now 'Another'; from here on" in said
    log.finish(40, END)
    result = json.loads((tmp_path / 'result.json').read_text())
    assert [entry['from_step'] for entry in result['environments']] == [0, 20]
    assert result['environments'][1]['processor'] == 'Another'
    monkeypatch.undo()
    begin(tmp_path, config, 40).finish(40, END)  # it had ended: nothing is computed
    result = json.loads((tmp_path / 'result.json').read_text())
    assert [entry['from_step'] for entry in result['environments']] == [0, 20]


def test_what_a_killed_run_computed_in_vain_is_not_recorded(tmp_path):
    one, two = {'threads': 1}, {'threads': 2}
    for start, here in ((0, one), (30, two), (20, one)):
        found = workdir.record_environment(tmp_path, start, here)
    assert found == [{'from_step': 0, 'threads': 1}]
    assert workdir.record_environment(tmp_path, 0, two) == [{'from_step': 0, 'threads': 2}]
