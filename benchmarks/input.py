"""How fast training samples are made, beside the peers and the limit, in one run.

    python benchmarks/input.py [--folder=DIR] [--tensorflow=PYTHON] [--rounds=9]

Each row makes 224x224 samples of every picture below DIR, in turns with the others; printed are
medians over the rounds of images per second of CPU time of one thread, and of the ratio to the
first row in the same round, which a busy machine spoils less. Rows:

    libjpeg-turbo   decodes the whole picture and does nothing else: the usual limit
    this project    all of augment.train_example: crop, antialiased resize, mirror, colour draws
    Pillow          decodes, then resizes the box with antialiasing
    tf.data         decode_and_crop_jpeg, then an antialiased resize, in a tf.data pipeline; needs
                    an interpreter that has TensorFlow (--tensorflow), else it is left out
    slow way        decodes, resizes the whole picture with Pillow, then crops

Then: how far the samples are from the slow way's; one and two threads of the loader (wall time, and
CPU time per image); with --soak=N the memory over N samples.
"""

import argparse
import io
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable

import grain
import numpy as np
import simplejpeg
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cnn_arch.data import augment, decode
from cnn_arch.data.loader import SampleReader, generator, host_batch
from cnn_arch.data.sources import Example
from configs import base

SIZE = 224
BATCH = 25
RECIPES = {
    'scale jitter [256, 512]': {'crop': 'isotropic', 'scale_min': 256, 'scale_max': 512},
    'random resized crop': {'crop': 'random_resized'},
}
DATA = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'ilsvrc_sample'


class Pictures:
    """Encoded pictures in memory, as a training source."""

    name = 'pictures'
    num_classes = 1000

    def __init__(self, folder: pathlib.Path):
        files = sorted(f for f in folder.rglob('*') if f.suffix.lower() in ('.jpeg', '.jpg'))
        self.encoded = [file.read_bytes() for file in files]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Example:
        return Example(self.encoded[index], 0, str(index))


def recipe(name: str):
    config = base.get_config()
    config.data.augment.update(RECIPES[name], pca_colour=0.1)
    config.train.batch_size = BATCH
    return config


def slow_way(encoded: bytes, box: decode.Box) -> np.ndarray:
    """The picture resized as a whole, then cropped, by Pillow."""
    with Image.open(io.BytesIO(encoded)) as picture:
        whole = picture.convert('RGB')
    top, left, height, width = box
    scale = SIZE / height, SIZE / width
    size = (round(whole.width * scale[1]), round(whole.height * scale[0]))
    x, y = round(left * scale[1]), round(top * scale[0])
    return np.asarray(
        whole.resize(size, Image.Resampling.BILINEAR).crop((x, y, x + SIZE, y + SIZE))
    )


def pillow(encoded: bytes, box: decode.Box) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as picture:
        top, left, height, width = box
        edges = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        rgb = picture.convert('RGB')
        return np.asarray(rgb.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=edges))


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


class TensorFlow:
    """The tf.data row in a process of its own, asked for one round at a time."""

    def __init__(self, python: str, folder: pathlib.Path):
        script = pathlib.Path(__file__).with_name('input_tensorflow.py')
        self.process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.works = self._read() == 'ready'

    def seconds(self, name: str) -> float:
        self.process.stdin.write(json.dumps(RECIPES[name]) + '\n')
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> str:
        return self.process.stdout.readline().strip()


def compare(name: str, pictures: Pictures, tensorflow: TensorFlow, rounds: int) -> None:
    """Prints the rows of one recipe."""
    config = types.SimpleNamespace(**recipe(name).data.augment)
    boxes = []
    for place, encoded in enumerate(pictures.encoded):
        boxes.append(augment.crop_box(*decode.image_size(encoded), generator(0, 9, place), config))

    def each(function: Callable) -> Callable[[], float]:
        def work():
            for encoded, box in zip(pictures.encoded, boxes, strict=True):
                function(encoded, box)

        return lambda: cpu_seconds(work)

    def ours():
        for place, encoded in enumerate(pictures.encoded):
            augment.train_example(encoded, generator(0, 1, place), config)

    rows = {
        'libjpeg-turbo': each(lambda encoded, box: simplejpeg.decode_jpeg(encoded, strict=False)),
        'this project': lambda: cpu_seconds(ours),
        'Pillow': each(pillow),
        'slow way': each(slow_way),
    }
    if tensorflow.works:
        rows['tf.data'] = lambda: tensorflow.seconds(name)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for turn in range(rounds + 1):
        for row in random.Random(turn).sample(list(rows), len(rows)):
            taken = rows[row]()
            if turn:  # the first warms up
                seconds[row].append(taken)
    print(f'\n{name}: {len(boxes)} pictures, {rounds} rounds, one core')
    print(f'{"":16}{"images/s":>10}{"of the limit":>14}{"this / it":>11}')
    for row in rows:
        limit = zip(seconds['libjpeg-turbo'], seconds[row], strict=True)
        ratio = zip(seconds[row], seconds['this project'], strict=True)
        print(
            f'{row:16}{len(boxes) / statistics.median(seconds[row]):10.0f}'
            f'{statistics.median(a / b for a, b in limit):14.2f}'
            f'{statistics.median(a / b for a, b in ratio):11.2f}'
        )
    if not tensorflow.works:
        print('tf.data         left out: pass --tensorflow=PYTHON, an interpreter that has it')

    if config.crop == 'isotropic':
        off = [
            np.abs(
                decode.crop_and_resize(encoded, box, (SIZE, SIZE)).astype(int)
                - slow_way(encoded, box)
            ).mean()
            for encoded, box in zip(pictures.encoded, boxes, strict=True)
        ]
        print(
            f'from the slow way: mean {np.mean(off):.3f} grey levels, worst picture {max(off):.3f}'
        )


def threads(name: str, pictures: Pictures, rounds: int) -> None:
    """Prints what a second thread of the loader brings."""
    config = recipe(name)
    reader = SampleReader(pictures, config)
    count = max(1, 4 * len(pictures) // BATCH)
    results: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(rounds + 1):
        for number in (1, 2):
            steps = grain.MapDataset.range(turn * count, (turn + 1) * count)
            batches = steps.map(lambda step: host_batch(reader, BATCH, slice(0, BATCH), step))
            options = grain.ReadOptions(num_threads=number, prefetch_buffer_size=4)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in batches.to_iter_dataset(options):
                pass
            if turn:
                results[number].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall = {n: statistics.median(w for w, _ in r) for n, r in results.items()}
    gain = statistics.median(a[0] / b[0] for a, b in zip(results[1], results[2], strict=True))
    cost = statistics.median(b[1] / a[1] for a, b in zip(results[1], results[2], strict=True))
    print(
        f'\nloader, {name}: {count * BATCH / wall[1]:.0f} images/s with one thread, '
        f'{count * BATCH / wall[2]:.0f} with two: x {gain:.2f} '
        f'(CPU time per image x {cost:.2f})'
    )


def soak(pictures: Pictures, samples: int) -> None:
    """Prints the memory in use while that many samples are made by two threads."""
    reader = SampleReader(pictures, recipe('random resized crop'))
    steps = grain.MapDataset.range(samples // BATCH)
    batches = steps.map(lambda step: host_batch(reader, BATCH, slice(0, BATCH), step))
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    every = max(1, samples // BATCH // 10)
    for step, _ in enumerate(batches.to_iter_dataset(options)):
        if step % every == every - 1:
            pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
            size = pages * resource.getpagesize() / 2**20
            print(f'after {(step + 1) * BATCH:,} samples: {size:.0f} MiB resident')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--folder', type=pathlib.Path, default=DATA)
    parser.add_argument('--tensorflow', default=sys.executable, metavar='PYTHON')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--soak', type=int, default=0, metavar='SAMPLES')
    arguments = parser.parse_args()
    pictures = Pictures(arguments.folder)
    if not pictures:
        parser.error(f'no JPEG files below {arguments.folder}')
    if arguments.soak:
        soak(pictures, arguments.soak)
        return
    tensorflow = TensorFlow(arguments.tensorflow, arguments.folder)
    for name in RECIPES:
        compare(name, pictures, tensorflow, arguments.rounds)
    tensorflow.close()
    for name in RECIPES:
        threads(name, pictures, max(3, arguments.rounds // 3))


if __name__ == '__main__':
    main()
