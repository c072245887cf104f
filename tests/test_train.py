"""train.py as its users run it: resumption, determinism, hardware independence, ends of a run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

import cnn_arch.mesh as meshes
from cnn_arch import commands, models
from cnn_arch.training import checkpoint, workdir
from cnn_arch.training import step as steps
from tests.shared import ROOT

SMALL = ['--config=configs/demo.py:lenet5', '--config.train.batch_size=16',
         '--config.train.steps=60', '--config.train.eval_every=30', '--config.checkpoint.every=10',
         '--config.train.log_every=1']  # fmt: skip
ENDLESS = [flag for flag in SMALL if not flag.startswith('--config.train.steps')]


def start(*flags: str, devices: int = 1) -> subprocess.Popen:
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    return subprocess.Popen(
        [sys.executable, 'train.py', *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(*flags: str, devices: int = 1, code: int = 0) -> tuple[str, str]:
    process = start(*flags, devices=devices)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f'exit {process.returncode}\n{out}\n{err}'
    return out, err


def final_state(folder: pathlib.Path, *flags: str) -> list[np.ndarray]:
    """Every array of the newest checkpoint, optimiser and schedule included."""
    parser = commands.argparse.ArgumentParser()
    _, config = commands.parse(parser, flags)
    mesh = meshes.create_mesh(config.mesh)
    abstract = steps.abstract_state(models.build(config.model), config, mesh)
    with checkpoint.opened(folder, config.checkpoint) as checkpoints:
        state = steps.restore_state(checkpoints, abstract, mesh)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def restored(folder: pathlib.Path, abstract: Any) -> Any:
    """The `model` item of the newest checkpoint."""
    newest = checkpoint.step_folder(folder, checkpoint.find(folder))
    return checkpoint.restore_weights(newest, abstract)


def losses(folder: pathlib.Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if 'loss' in line}


def told_once(folder: pathlib.Path) -> set[tuple[int, str]]:
    """(step, name) of each figure in metrics.jsonl, which TensorBoard's events hold likewise.

    Raises AssertionError where one is there twice.
    """
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    told = [
        (line['step'], name)
        for line in lines
        for name in line
        if name != 'step' and not ('loss' not in line and name in workdir.WITH_EACH)
    ]
    shown = []
    for path in (folder / 'tensorboard').iterdir():
        data = path.read_bytes()
        while data:  # of each record: its length, a checksum, an event, a checksum
            length = int.from_bytes(data[:8], 'little')
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            shown += [(event.step, value.tag) for value in event.summary.value]
            data = data[16 + length :]
    assert len(told) == len(set(told))
    assert sorted(shown) == sorted(told)
    return set(told)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of SMALL."""
    folder = tmp_path_factory.mktemp('undisturbed')
    train(*SMALL, f'--workdir={folder}')
    return folder


def test_leaves_what_it_promises(undisturbed: pathlib.Path) -> None:
    result = json.loads((undisturbed / 'result.json').read_text())
    assert result['step'] == 60
    assert (result['images'], result['complete']) == (360, 360)
    assert result['updates'] == 60
    (environment,) = result['environments']
    assert environment == json.loads((undisturbed / 'environment.json').read_text())[0]
    assert (environment['from_step'], environment['platform']) == (0, 'cpu')
    assert environment['training'] == environment['evaluation'] == 'float32, products in float32'
    assert 0 <= result['top5_error'] <= result['top1_error'] <= 100
    assert checkpoint.steps(undisturbed) == [40, 50, 60]
    assert sorted(losses(undisturbed)) == list(range(1, 61))
    assert list((undisturbed / 'tensorboard').glob('events.*'))
    assert workdir.read_config(undisturbed).train.batch_size == 16


def test_same_seed_gives_bit_identical_state(
    undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    train(*SMALL, f'--workdir={tmp_path}', '--config.data.threads=1')
    for one, other in zip(
        final_state(undisturbed, *SMALL), final_state(tmp_path, *SMALL), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_killed_and_restarted_is_bit_identical(
    undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """SIGKILL at a random step, then the same command again."""
    process = start(*SMALL, f'--workdir={tmp_path}')
    kill_at = random.randrange(2, 55)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        metrics = tmp_path / 'metrics.jsonl'
        if metrics.exists() and len(metrics.read_text().splitlines()) >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, 'the run ended before it could be killed'
    assert not (tmp_path / 'result.json').exists()

    train(*SMALL, f'--workdir={tmp_path}')
    for one, other in zip(
        final_state(undisturbed, *SMALL), final_state(tmp_path, *SMALL), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert losses(tmp_path) == losses(undisturbed)
    assert told_once(tmp_path) == told_once(undisturbed)


def test_a_finished_run_stays_as_it_is(undisturbed: pathlib.Path) -> None:
    """Started again it tells its result; no file changes, none comes, none goes."""

    def snapshot() -> dict[str, tuple[int, int, bytes]]:
        files = [path for path in undisturbed.rglob('*') if path.is_file()]
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
            for path in files
        }

    before = snapshot()
    result = json.loads((undisturbed / 'result.json').read_text())
    out, _ = train(*SMALL, f'--workdir={undisturbed}')
    assert f'top-1 error {result["top1_error"]:.2f} %' in out
    assert f'top-5 error {result["top5_error"]:.2f} %  n = 360;' in out
    assert snapshot() == before


def test_a_test_of_its_own_and_again_with_another(tmp_path: pathlib.Path) -> None:
    """Validations by `train.eval_protocol`; the result is the test's, also where that changes."""
    short = [flag for flag in SMALL if 'train.steps' not in flag and 'eval_every' not in flag]
    flags = [*short, '--config.train.steps=20', '--config.train.eval_every=10',
             '--config.train.eval_protocol=center', '--config.optim.freeze=C1/*',
             f'--workdir={tmp_path}']  # fmt: skip
    train(*flags, '--config.eval.protocol=ten_crop')
    for protocol in ('ten_crop', 'center'):
        lines = [
            json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().split('\n')[:-1]
        ]
        validations = [line for line in lines if 'validation_top1_error' in line]
        assert [line['step'] for line in validations] == [10, 20]
        (test,) = [line for line in lines if 'test_top1_error' in line]
        result = json.loads((tmp_path / 'result.json').read_text())
        assert (result['protocol'], result['top1_error']) == (protocol, test['test_top1_error'])
        assert result['seconds'] >= test['seconds'] >= validations[-1]['seconds']
        told_once(tmp_path)
        if protocol == 'ten_crop':
            seconds = result['seconds']
            out, _ = train(*flags, '--config.eval.protocol=center')
            assert 'changed since the last start: eval.protocol' in out
    assert result['seconds'] > seconds


def test_sigterm_saves_and_goes_on(undisturbed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = start(*SMALL, f'--workdir={tmp_path}')
    while process.poll() is None and not (tmp_path / 'metrics.jsonl').exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 75, out + err
    assert 'with a checkpoint' in out
    stopped_at = checkpoint.steps(tmp_path)[-1]
    assert stopped_at < 60
    out, _ = train(*SMALL, f'--workdir={tmp_path}')
    assert f'going on from the checkpoint of step {stopped_at}' in out
    assert told_once(tmp_path) == told_once(undisturbed)
    for one, other in zip(
        final_state(undisturbed, *SMALL), final_state(tmp_path, *SMALL), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_other_architecture_is_refused(undisturbed: pathlib.Path) -> None:
    _, err = train('--config=configs/demo.py:vgg_fixed', f'--workdir={undisturbed}', code=2)
    assert err.strip().count('\n') == 0
    assert 'model.name' in err


@pytest.mark.parametrize(
    ('variant', 'steps'),
    [
        ('lenet5', 50),
        # Dropout, colour noise, JPEG scenes. With ReLU and this rate, rounding errors grow tenfold
        # every few steps, on one device as on eight: a dozen steps are all that can be compared.
        ('vgg_jitter', 8),
    ],
)
def test_eight_devices_follow_one(variant: str, steps: int, tmp_path: pathlib.Path) -> None:
    flags = [f'--config=configs/demo.py:{variant}', f'--config.train.steps={steps}',
             '--config.train.log_every=1', '--config.eval.batch_size=16']  # fmt: skip
    if variant == 'vgg_jitter':
        flags.append(f'--config.data.dir={tmp_path / "scenes"}')
    train(*flags, f'--workdir={tmp_path / "one"}', devices=1)
    train(*flags, f'--workdir={tmp_path / "eight"}', devices=8)
    one, eight = losses(tmp_path / 'one'), losses(tmp_path / 'eight')
    assert sorted(one) == sorted(eight) == list(range(1, steps + 1))
    np.testing.assert_allclose(list(eight.values()), list(one.values()), rtol=1e-5)


# A tanh saturates where a ReLU overflows: LeNet would not do.
DIVERGES = ['--config=configs/demo.py:vgg_fixed', '--config.data.source=digits',
            '--config.train.steps=20', '--config.train.log_every=1',
            '--config.optim.learning_rate=1e30']  # fmt: skip


def test_not_finite_stops_at_that_step(tmp_path: pathlib.Path) -> None:
    _, err = train(*DIVERGES, f'--workdir={tmp_path}', code=3)
    assert 'not finite in step' in err
    assert 'learning rate 1e+30' in err or 'learning rate 9' in err
    assert 'last finite loss' in err
    assert 'Traceback' not in err
    assert not (tmp_path / 'result.json').exists()


def test_not_finite_is_skipped_and_counted(tmp_path: pathlib.Path) -> None:
    """A loss that is infinite at each step leaves the first parameters as they were."""
    # Sixteen such losses of the batch are more than float32 holds.
    flags = [*ENDLESS, '--config.train.steps=20', '--config.loss.map_j=-3e38']
    train(*flags, f'--workdir={tmp_path / "stop"}', code=3)
    out, _ = train(*flags, f'--workdir={tmp_path}', '--config.train.on_nonfinite=skip')
    assert 'updates skipped: not finite' in out
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert sum(line.get('skipped_updates', 0) for line in lines) == 20
    parser = commands.argparse.ArgumentParser()
    _, config = commands.parse(parser, flags)
    mesh, model = meshes.create_mesh(config.mesh), models.build(config.model)
    abstract = steps.abstract_state(model, config, mesh)
    trained = restored(tmp_path, abstract.model())
    fresh = steps.create_state(model, config, mesh)
    for one, other in zip(jax.tree.leaves(trained), jax.tree.leaves(fresh.model()), strict=True):
        np.testing.assert_array_equal(one, other)

    # Once the cause is mended, the run goes on: what was left out does not stop it for ever.
    train(*ENDLESS, '--config.train.steps=30', f'--workdir={tmp_path}')
    after = restored(tmp_path, abstract.model())
    for one, other in zip(jax.tree.leaves(trained), jax.tree.leaves(after), strict=True):
        assert (one != other).any()


@pytest.mark.slow
def test_precise_statistics_are_what_is_saved_and_evaluated(tmp_path: pathlib.Path) -> None:
    flags = ['--config=configs/resnet.py:18', '--config.data.source=digits',
             '--config.model.num_classes=10', '--config.data.augment.size=32',
             '--config.data.augment.scale_min=36', '--config.data.augment.scale_max=40',
             '--config.train.batch_size=32', '--config.train.steps=4', '--config.eval.scale=36',
             '--config.eval.protocol=center']  # fmt: skip
    for name, images in (('plain', 0), ('precise', 64)):
        more = f'--config.model.batch_norm.precise={images}'
        train(*flags, f'--workdir={tmp_path / name}', more)
    lines = (tmp_path / 'precise' / 'metrics.jsonl').read_text().splitlines()
    errors = [json.loads(line).get('validation_top1_error') for line in lines]
    errors = [error for error in errors if error is not None]
    assert len(errors) == 1, 'the validation, before'
    result = json.loads((tmp_path / 'precise' / 'result.json').read_text())
    assert json.loads(lines[-1])['test_top1_error'] == result['top1_error'], 'the test, after'
    parser = commands.argparse.ArgumentParser()
    _, config = commands.parse(parser, flags)
    mesh = meshes.create_mesh(config.mesh)
    abstract = steps.abstract_state(models.build(config.model), config, mesh).model()
    plain = restored(tmp_path / 'plain', abstract)
    precise = restored(tmp_path / 'precise', abstract)
    for one, other in zip(
        jax.tree.leaves(plain['params']), jax.tree.leaves(precise['params']), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    mean = [tree['batch_stats']['bn1']['mean'] for tree in (plain, precise)]
    assert not np.allclose(*mean)


@pytest.mark.parametrize(
    ('flag', 'expected'),
    [
        ('--config.modle.name=x', 'did you mean --config.model.name?'),
        ('--config.train.batch_size=many', 'expected int'),
        ('--config.data.augment.scale_min=300', 'larger than data.augment.scale_max'),
        ('--config.data.augment.size=300', 'a crop cannot be larger'),
        ('--config.train.batch_size=30', 'does not divide over 8 devices'),
        ('--config.model.num_classes=7', 'has 10 classes'),
        ('--config.schedule.kind=stairs', 'schedule.kind'),
        ('--config.optim.rule=adam', 'optim.rule'),
        ('--config.mesh.model=3', 'number of devices'),
        ('--config.data.source=nowhere', 'data.dir'),
        ('--config.data.dir=here', "--config.data.dir=here has no effect: data.source = 'digits'"),
        ('--config.data.channels=3', '--config.data.channels is given twice'),
        ('--workdir=other', '--workdir is given twice'),
        ('--config.optim.momentum=1.5', 'optim.momentum = 1.5: it must be a finite number, 0 or'),
    ],
)
def test_mistakes_are_one_line_before_anything_is_done(
    flag: str, expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    import train as command

    argv = ['--config=configs/demo.py:vgg_fixed', f'--workdir={tmp_path / "run"}', flag]
    argv += [f'--config.data.dir={tmp_path}'] if 'source' in flag else [
        '--config.data.source=digits', '--config.data.channels=3']  # fmt: skip
    with pytest.raises(SystemExit) as end:
        commands.run(command.main, argv)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'run').exists()
