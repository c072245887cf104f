"""launch/plan.py: the real steps compiled for TPUs that are not here."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from cnn_arch import commands, configuration, summary
from cnn_arch.errors import UserError
from launch import ahead, plan, plan_table
from launch.chips import CHIPS, GIB
from tests.shared import ROOT
from tests.test_readme import block

LENET = str(ROOT / 'configs/lenet.py:lenet5')
BATCH = 64


@pytest.fixture(scope='module')
def lenet() -> ahead.Program:
    """LeNet-5's training step on four chips: the one compilation of the fast tests."""
    config = configuration.load(LENET)
    config.train.batch_size = BATCH
    return ahead.training(config, ahead.find_pod('v5e:2x2'))


def test_figures_are_those_of_the_network(lenet: ahead.Program) -> None:
    """60,000 parameters and 325,680 multiply-adds an image, as tests/models/test_lenet.py has."""
    assert (lenet.chips, lenet.batch, lenet.fits) == (4, BATCH, True)
    assert lenet.parameters == lenet.parameters_whole == 60_000 * 4
    # Forward, and back to weights and to inputs, on a quarter of the images.
    assert lenet.flops == pytest.approx(3 * 2 * 325_680 * BATCH / 4, rel=0.3)
    assert lenet.arguments < lenet.hbm < lenet.hbm_of_chip == 16 * GIB
    (gradients,) = lenet.collectives
    assert gradients.kind == 'all-reduce'
    assert 60_000 * 4 <= gradients.bytes < 1.05 * 60_000 * 4


def test_roofline_is_the_larger_of_two_times(lenet: ahead.Program) -> None:
    chip = CHIPS['v5e']
    assert lenet.compute_seconds == lenet.flops / chip.flops
    assert lenet.memory_seconds == lenet.traffic / chip.bandwidth
    assert lenet.seconds == max(lenet.compute_seconds, lenet.memory_seconds)
    assert lenet.images_per_second == BATCH / lenet.seconds


def test_what_is_printed(lenet: ahead.Program) -> None:
    text = plan.describe(lenet)
    assert 'on v5e:2x2: 4 chips, training step of 64 images (16 per chip)' in text
    assert 'of 16 GiB (0%): fits' in text
    assert 'bound by memory' in text
    assert '1 all-reduce 0.24 MiB' in text
    split = dataclasses.replace(lenet, optimiser=lenet.optimiser / 4)
    assert '0.2 MiB saved by splitting' in plan.describe(split)
    assert 'DOES NOT FIT' in plan.describe(dataclasses.replace(lenet, fits=False))
    values = json.loads(plan.as_json(lenet))
    assert values['images_per_second'] == lenet.images_per_second
    assert values['collectives'][0]['kind'] == 'all-reduce'


@pytest.mark.parametrize(('limit', 'compilations'), [(5000, 14), (33, 5), (31, 1), (64, 5)])
def test_largest_batch(limit: int, compilations: int) -> None:
    """On a made-up chip that holds `limit` images and the bytes of a thousand besides."""
    pod = ahead.Pod('made up', CHIPS['v5e'], 4, [None] * 4)
    tried: list[int] = []

    def program_at(batch: int) -> ahead.Program:
        tried.append(batch)
        hbm, capacity = 1000.0 + batch, 1000.0 + limit
        return ahead.Program('n', 'p', 4, 'training', batch, hbm <= capacity, hbm, capacity)

    found = plan.largest(program_at, pod)
    if limit < 32:
        assert found is None
    else:
        assert found is not None
        assert found.batch == limit // 32 * 32
    assert len(tried) <= compilations


def test_refusals_of_the_compiler_are_read() -> None:
    """Both of its sentences, as libtpu 0.0.42.1 writes them; other errors are errors."""
    said = 'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
    assert ahead.needed(said + 'temporaries (517.45G) exceeds available HBM (15.75G).') == (
        517.45 * GIB
    )
    said = 'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space '
    assert ahead.needed(said + 'hbm. Used 29.50M of 15.75G hbm.') == 29.5 * 2**20
    assert ahead.needed('INTERNAL: something else') is None


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        (['--topology=v9:2x2'], 'expected CHIP:SHAPE, CHIP one of v2, v3'),
        (['--topology=v5e:3x3'], '--topology=v5e:3x3: '),
        (['--topology=v5e'], '--topology=v5e: '),
        ([], '--topology is missing'),
        (['--topology=v5e:2x2', '--batch=62'], 'does not divide over 4 devices'),
        (['--topology=v5e:2x2', '--config.mesh.model=3'], 'number of devices, 4'),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        commands.run(plan.main, [f'--config={LENET}', *flags])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count('\n') == 1


def test_without_libtpu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise ahead.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ahead.importlib.metadata, 'version', absent)
    with pytest.raises(UserError, match='pip install -r requirements-dev'):
        ahead.find_pod('v5e:2x2')


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'launch/plan.py', *flags], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('step', ['training', 'evaluation'])
def test_what_does_not_fit_is_exit_code_1(step: str) -> None:
    flags = ['--eval'] if step == 'evaluation' else []
    for batch, code in ((64, 0), (400_000_000, 1)):
        done = run(f'--config={LENET}', '--topology=v5e:2x2', f'--batch={batch}', *flags)
        assert done.returncode == code, done.stderr
        assert f'{step} step of {batch:,} images' in done.stdout
        assert ('DOES NOT FIT' in done.stdout) == bool(code)


@pytest.mark.slow
@pytest.mark.parametrize('topology', ['v5e:16x16', 'v5p:4x4x4', 'v6e:8x8'])
@pytest.mark.parametrize(
    ('config', 'parameters', 'multiply_adds'),
    [('resnet.py:50', 25_557_032, 3.858e9), ('vgg.py:D', 138_357_544, 15.470e9)],
)
def test_papers_networks_on_pods(
    config: str, parameters: int, multiply_adds: float, topology: str, tmp_path: pathlib.Path
) -> None:
    chips = {'v5e:16x16': 256}.get(topology, 64)
    done = run(f'--config=configs/{config}', f'--topology={topology}', f'--batch={8 * chips}',
               '--json')  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values['chips'], values['batch']) == (chips, 8 * chips)
    assert values['parameters'] == 4 * parameters
    assert values['flops'] == pytest.approx(3 * 2 * multiply_adds * 8, rel=0.2)
    reduced = {c['kind']: c['bytes'] for c in values['collectives']}
    assert reduced['all-reduce'] >= 4 * parameters


def test_stored_plans_are_of_these_configs_and_versions() -> None:
    """Each stored figure was compiled from the configuration and by the compiler of today."""
    stored = plan_table.read()
    assert stored
    for key, entry in stored.items():
        network, _, topology = key.partition(' on ')
        devices = plan_table.program(entry).chips
        assert entry['made_from'] == plan_table.made_from(plan_table.load(network, devices)), (
            f'{key}: stale, run python launch/plan.py --table --topology={topology}'
        )


def test_stored_plans_do_the_work_of_their_networks() -> None:
    """Three times the multiply-adds of the summary: forward, to weights, to inputs (which the
    first layer does not need; nor is padding multiplied); and the update of the parameters.
    """
    for key, entry in plan_table.read().items():
        program = plan_table.program(entry)
        config = plan_table.load(key.partition(' on ')[0], program.chips)
        counted = summary.summarise(key, config)
        work = 3 * 2 * counted.multiply_adds * program.batch / program.chips
        assert 0.7 * work <= program.flops <= 1.3 * work + 30 * counted.parameters, key
        assert program.parameters_whole == 4 * counted.parameters


def test_the_table_is_in_the_readme() -> None:
    assert plan_table.render(plan_table.TOPOLOGY) == block('plan')
