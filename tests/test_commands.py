"""The command line: keys, types, the nearest key, exit codes."""

import pathlib
import signal
import subprocess
import sys

import pytest

from cnn_arch import commands
from cnn_arch.errors import Diverged, UserError
from configs import base
from tests.shared import ROOT


def overridden(*flags: str):
    config = base.get_config().lock()
    overrides, rest = commands.split_overrides(list(flags))
    assert rest == []
    commands.apply_overrides(config, overrides)
    return config


def test_values_take_the_type_of_the_default() -> None:
    config = overridden(
        '--config.optim.learning_rate=1', '--config.train.batch_size', '64',
        '--config.data.augment.mirror=false', '--config.data.mean=(1,2,3)',
        '--config.schedule.rates=0.1', '--config.model.name=vgg', '--config.data.dir=12',
        '--config.schedule.boundaries=[30,60]', '--config.eval.views=grid, whole',
    )  # fmt: skip
    assert config.optim.learning_rate == 1.0
    assert isinstance(config.optim.learning_rate, float)
    assert config.train.batch_size == 64
    assert config.data.augment.mirror is False
    assert config.data.mean == (1, 2, 3)
    assert config.schedule.rates == (0.1,)
    assert config.schedule.boundaries == (30, 60)
    assert config.eval.views == ('grid', 'whole')
    assert config.data.dir == '12'


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--config.modle.name=x', 'did you mean --config.model.name?'),
        ('--config.train.batchsize=3', 'did you mean --config.train.batch_size?'),
        ('--config.train=3', 'no such key'),
        ('--config.seed.x=3', 'no such key'),
        ('--config.seed=1.5', 'expected int'),
        ('--config.seed=many', 'expected int'),
        ('--config.data.augment.mirror=1', 'expected true or false'),
        ('--config.optim.momentum=__import__("os")', 'expected float'),
        ('--config.seed', 'a value is missing'),
    ],
)
def test_mistakes_name_the_key(flag: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        overridden(flag)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('raised', 'code'), [(UserError('a'), 2), (Diverged('b'), 3), (None, 0)])
def test_exit_codes(raised: Exception | None, code: int, capsys: pytest.CaptureFixture) -> None:
    def main(argv: list[str]) -> int:
        assert argv == ['--flag']
        if raised:
            raise raised
        return 0

    with pytest.raises(SystemExit) as end:
        commands.run(main, ['--flag'])
    assert end.value.code == code
    assert capsys.readouterr().err == (f'error: {raised}\n' if raised else '')


def test_programming_errors_keep_their_traceback() -> None:
    def main(argv: list[str]) -> int:
        raise KeyError('a defect of ours')

    with pytest.raises(KeyError):
        commands.run(main, [])


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unwinds_and_is_one_line(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    half = tmp_path / 'half-written'
    code = f"""
import pathlib, time
from cnn_arch import commands

def main(argv):
    half = pathlib.Path({str(half)!r})
    try:
        half.touch()
        print('ready', flush=True)
        time.sleep(60)
    finally:
        half.unlink()

commands.run(main, [])
"""
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == f'ended by {number.name}\n'
    assert not half.exists()
