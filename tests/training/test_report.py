"""What a run tells: each figure of the progress line, of metrics.jsonl and of result.json."""

import contextlib
import io
import json
import types

import jax
import jax.numpy as jnp
import pytest

from cnn_arch.errors import Diverged
from cnn_arch.training import report
from cnn_arch.training import step as steps
from configs import demo

FINAL = types.SimpleNamespace(updates=39)  # of a state, what the report asks for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: `clock.now += seconds`."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(report, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def batches():
    return types.SimpleNamespace(waited=0.0, reader=types.SimpleNamespace(bad_images=0))


@pytest.fixture
def made(tmp_path, clock, batches):
    """Makes the report of a run of 40 steps of 16 images, 20 to an epoch; ends it afterwards."""
    with contextlib.ExitStack() as ends:

        def make(start=0, validated=False, **train) -> report.Report:
            config = demo.get_config('lenet5')
            config.train.update({'batch_size': 16, 'steps': 40, 'log_every': 10, **train})
            plan = steps.plan(config, 320)
            log = report.Report(tmp_path, config, plan, start, batches, validated)
            ends.callback(log.finish, 40, FINAL)
            return log

        yield make


def metrics(loss=2.0, error=50.0, rate=0.25, bad=0) -> dict[str, jax.Array]:
    values = {'loss': loss, 'top1_error': error, 'learning_rate': rate}
    return {**{k: jnp.float32(v) for k, v in values.items()}, 'bad_updates': jnp.int32(bad)}


def result(n=360) -> types.SimpleNamespace:
    return types.SimpleNamespace(top1_error=1.25, top5_error=0.5, n=n, complete=360, ties='')


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_each_figure_of_a_line(tmp_path, clock, batches, made, capsys):
    log = made()
    for step in range(1, 11):
        clock.now += 0.2
        batches.waited += 0.05
        assert log.step(step, metrics(loss=step, error=5.0 * step))
    count = jax.device_count()
    assert capsys.readouterr().out == (
        'step 10/40  epoch 0.50  loss 5.5000  error 27.5 %  rate 0.25  80 images/s '
        f'({80 / count:.0f} per device)  waits for input 25 %  ETA 0:00:06\n'
    )
    (line,) = lines(tmp_path)
    assert line.pop('images_per_second') == pytest.approx(80)
    assert line.pop('images_per_second_per_device') == pytest.approx(80 / count)
    assert line.pop('input_wait_percent') == pytest.approx(25)
    assert line == {
        'step': 10, 'epoch': 0.5, 'loss': 5.5, 'train_top1_error': 27.5, 'learning_rate': 0.25,
        'skipped_updates': 0, 'bad_images': 0,
        'seconds': pytest.approx(2), 'seconds_evaluating': 0,
    }  # fmt: skip


def test_evaluations_are_not_counted_as_training(tmp_path, clock, made, capsys):
    log = made()
    for step in range(1, 21):
        clock.now += 0.1
        log.step(step, metrics())
        if step == 5:
            clock.now += 1000
            log.validation(step, result(), seconds=1000)
    last = capsys.readouterr().out.splitlines()[-1]
    assert '160 images/s' in last
    assert 'ETA 0:00:02' in last
    evaluation, first, second = lines(tmp_path)
    assert evaluation == {
        'step': 5, 'epoch': 0.25, 'validation_top1_error': 1.25, 'validation_top5_error': 0.5,
        'seconds': pytest.approx(1000.5), 'seconds_evaluating': 1000,
    }  # fmt: skip
    assert [line['images_per_second'] for line in (first, second)] == pytest.approx([160, 160])
    log.test(20, result(n=320), seconds=0)
    log.finish(20, FINAL)
    record = json.loads((tmp_path / 'result.json').read_text())
    assert {key: record[key] for key in ('top1_error', 'top5_error', 'images', 'complete')} == {
        'top1_error': 1.25, 'top5_error': 0.5, 'images': 320, 'complete': 360,
    }  # fmt: skip
    assert record['seconds'] == pytest.approx(1002)
    assert record['seconds_evaluating'] == 1000
    assert record['updates'] == 39


def test_seconds_are_those_of_all_starts(tmp_path, clock, made):
    """Also of the steps that a killed run had gone beyond its checkpoint."""
    log = made()
    for step in range(1, 21):
        clock.now += 1
        log.step(step, metrics())
    log.validation(20, result(), seconds=4)
    clock.now += 500  # between the starts
    log = made(start=10)  # its checkpoint; now with another step that is left out, in between
    for step in range(11, 18):
        clock.now += 1
        log.step(step, metrics(bad=step == 16))
    log.stopped(17)
    assert [(line['step'], line['seconds']) for line in lines(tmp_path)] == [(10, 10), (17, 27)]
    log = made(start=17)
    for step in range(18, 41):
        clock.now += 1
        log.step(step, metrics(bad=2 * (step == 38)))
    log.test(40, result(), seconds=3)
    log.finish(40, FINAL)
    record = json.loads((tmp_path / 'result.json').read_text())
    assert (record['seconds'], record['seconds_evaluating']) == (50, 7)
    told = lines(tmp_path)
    assert [line['step'] for line in told] == [10, 17, 20, 30, 40, 40]
    assert [line.get('skipped_updates') for line in told] == [0, 1, 0, 0, 2, None]


def test_a_validation_that_will_come_again_is_told_once(tmp_path, made):
    """A run is stopped after a step that is validated, before its checkpoint knows of that."""
    log = made()
    log.step(1, metrics())
    log.flush(1)
    log.validation(1, result(), seconds=0)
    made(start=1, validated=True)
    assert ['loss' in line for line in lines(tmp_path)] == [True, False]
    log = made(start=1, validated=False)
    assert ['loss' in line for line in lines(tmp_path)] == [True]
    log.test(1, result(), seconds=0)
    (tmp_path / 'result.json').write_text('{}')
    log = made(start=1, validated=False)
    assert ['loss' in line for line in lines(tmp_path)] == [True], 'the test comes again'
    log.step(2, metrics())
    log.flush(2)
    assert not (tmp_path / 'result.json').exists(), 'the run goes on'


def test_lines_that_are_none(tmp_path, made):
    """A line that was cut off, and what nobody here wrote."""
    good = json.dumps({'step': 3, 'loss': 1.5})
    (tmp_path / 'metrics.jsonl').write_text(f'{good}\n[1]\n{{"step": "x"}}\nnull\n{good[:-4]}')
    made(start=5)
    assert lines(tmp_path) == [{'step': 3, 'loss': 1.5}]


def test_eta_after_a_restart_counts_from_there(clock, made, capsys):
    log = made(start=20)
    for step in range(21, 31):
        clock.now += 1.0
        log.step(step, metrics())
    assert capsys.readouterr().out.rstrip().endswith('ETA 0:00:10')


def test_a_bar_on_a_terminal(clock, made, monkeypatch):
    monkeypatch.setattr('sys.stdout', terminal := Terminal())
    log = made()
    for step in range(1, 11):
        clock.now += 0.2
        log.step(step, metrics())
    text = terminal.getvalue()
    assert text.startswith('\r\033[K[#####---------------] step 10/40  epoch 0.50')
    assert '\n' not in text, 'the next report overwrites it'


def test_a_loss_that_is_not_finite(tmp_path, clock, made, capsys):
    """Seen two steps later, so that the device does not wait; at the end at once."""
    bad = metrics(loss=float('nan'), rate=0.5, bad=1)
    log = made()
    assert [log.step(step, bad if step == 3 else metrics()) for step in range(1, 6)] == [
        True, True, True, True, False,
    ]  # fmt: skip
    words = r'in step 3 at learning rate 0.5; last finite loss 1.5; last good checkpoint none in '
    with pytest.raises(Diverged, match=words):
        log.raise_diverged(types.SimpleNamespace(bad_step=2, good_loss=1.5))
    (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
    with pytest.raises(Diverged, match=r'last finite loss none; last good checkpoint 2 in '):
        log.raise_diverged(types.SimpleNamespace(bad_step=2, good_loss=float('nan')))

    log = made(steps=1)
    assert not log.step(1, bad)


def test_updates_left_out_are_counted(tmp_path, clock, made, capsys):
    log = made(on_nonfinite='skip')
    bad = metrics(loss=float('inf'), bad=1)
    assert all(log.step(step, bad if step > 7 else metrics()) for step in range(1, 11))
    assert capsys.readouterr().out.endswith('  3 updates skipped: not finite\n')
    (line,) = lines(tmp_path)
    assert line['skipped_updates'] == 3
    assert line['loss'] is None, 'not a number that JSON knows'
