"""From a folder of pictures to a finished evaluation: the input is counted, timed, never short."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.shared import ROOT, shared_data

WAIT = 5.0  # percent of the time between two lines of the log that steps may wait for input


def train(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'train.py', *flags],
        cwd=ROOT,
        env={**os.environ, 'XLA_FLAGS': ''},  # one device
        capture_output=True,
        text=True,
        check=False,
    )


def steps_of(workdir: pathlib.Path) -> list[dict]:
    """What metrics.jsonl says of the steps."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


@pytest.fixture
def damaged(tmp_path: pathlib.Path) -> list[str]:
    """Flags of a run over two epochs of 32 small pictures, of which c3/03.png and c5/15.png do not
    decode.
    """
    rng = np.random.default_rng(0)
    for k in range(32):
        file = tmp_path / 'pictures' / 'train' / f'c{k % 10}' / f'{k:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(file)
    shutil.copytree(tmp_path / 'pictures' / 'train', tmp_path / 'pictures' / 'val')
    for name in ('c3/03.png', 'c5/15.png'):
        (tmp_path / 'pictures' / 'train' / name).write_bytes(b'no picture')
    return ['--config=configs/demo.py:lenet5', f'--workdir={tmp_path / "run"}',
            '--config.data.source=folder', f'--config.data.dir={tmp_path / "pictures"}',
            '--config.data.eval_split=validation', '--config.train.batch_size=16',
            '--config.train.steps=4', '--config.train.log_every=1',
            '--config.train.eval_every=4']  # fmt: skip


@pytest.mark.parametrize('workers', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_replaced_pictures_are_in_the_log_of_the_run(
    workers: int, damaged: list[str], tmp_path: pathlib.Path
) -> None:
    done = train(*damaged, '--config.data.on_bad_image=skip', f'--config.data.workers={workers}')
    assert done.returncode == 0, done.stderr
    counts = [line['bad_images'] for line in steps_of(tmp_path / 'run')]
    assert (sum(counts[:2]), sum(counts[2:])) == (2, 2)  # each of the two once an epoch
    shown = [line for line in done.stdout.splitlines() if 'images replaced' in line]
    assert len(shown) == sum(count > 0 for count in counts)
    for name in ('c3/03.png', 'c5/15.png'):
        assert done.stderr.count(f'replaced image {name}: not a picture') == 2


def test_a_worker_stops_the_run_with_the_pictures_name(damaged: list[str]) -> None:
    done = train(*damaged, '--config.data.workers=1')
    assert done.returncode == 2, done.stderr
    # Python's resource tracker may tell of a batch in shared memory that it cleared away.
    lines = [line for line in done.stderr.splitlines() if line and 'resource_tracker' not in line]
    lines = [line for line in lines if not line.startswith('  warnings.warn')]
    assert len(lines) == 1, lines
    assert re.match(r'error: image (c3/03|c5/15).png: not a picture .*on_bad_image=skip$', lines[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'batch', 'flags'),
    [
        # One crop: VGG's dense evaluation of 300 pictures takes a quarter of an hour on two cores.
        ('vgg.py:D', 16, ['--config.train.steps=4', '--config.eval.protocol=center',
                          '--config.data.augment.scale_max=512']),
        ('alexnet.py:two_tower', 128, ['--config.train.epochs=3', '--config.train.eval_every=7']),
    ],
)  # fmt: skip
def test_input_is_never_the_bottleneck(
    config: str, batch: int, flags: list[str], tmp_path: pathlib.Path
) -> None:
    """All 300 real pictures, each once in the evaluation; steps do not wait for decoding."""
    pictures = shared_data('ilsvrc_sample')
    done = train(
        f'--config=configs/{config}', f'--workdir={tmp_path}', '--config.data.source=folder',
        f'--config.data.dir={pictures}', f'--config.train.batch_size={batch}',
        '--config.train.log_every=1', '--config.eval.batch_size=20', *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    steps = steps_of(tmp_path)
    result = json.loads((tmp_path / 'result.json').read_text())
    shutil.rmtree(tmp_path)  # a gigabyte of checkpoint
    assert len(steps) == result['step'] == {16: 4, 128: 7}[batch]
    assert [line['bad_images'] for line in steps] == [0] * len(steps)
    # While the first batch is made there is nothing to compute yet.
    assert max(line['input_wait_percent'] for line in steps[1:]) < WAIT, steps
    assert str(result['images']).split()[0] == '300'
    assert 0 <= result['top5_error'] <= result['top1_error'] <= 100
