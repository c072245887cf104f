"""How fast training samples are made, beside the peers and the limit, in one run.

    python benchmarks/input.py [--folder=DIR] [--tensorflow=PYTHON] [--rounds=9]
                               [--soak=100000] [--out=FILE.json]
    python benchmarks/input.py --markdown=FILE.json

Each row makes 224x224 samples of every picture below DIR, in turns with the others; taken are
medians over the rounds of images per second of CPU time of one thread, and of the ratio to the
first row in the same round, which a busy machine spoils less. Rows:

    libjpeg-turbo   decodes the whole picture and does nothing else: the usual limit
    this project    all of augment.train_example: crop, antialiased resize, mirror, colour draws
    Pillow          decodes, then resizes the box with antialiasing
    tf.data         decode_and_crop_jpeg, then an antialiased resize, in a tf.data pipeline; needs
                    an interpreter that has TensorFlow (--tensorflow), else it is left out
    tf.data, not antialiased    the same with the resize that is tf.image's default
    slow way        decodes, resizes the whole picture with Pillow, then crops

Then: how far the samples are from the slow way's; one and two threads of the loader (wall time, and
CPU time per image: needs two idle cores); the memory over --soak samples. `--markdown` renders a
result for the README.
"""

import argparse
import datetime
import io
import json
import os
import pathlib
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

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
LIMIT, OURS = 'libjpeg-turbo', 'this project'
LABELS = {
    LIMIT: 'libjpeg-turbo, full decoding alone (the limit)',
    OURS: '**this project**: crop, antialiased resize, mirror, PCA colour',
    'Pillow': 'Pillow, crop first',
    'slow way': 'Pillow, resize the whole picture, then crop',
    'tf.data': 'tf.data, crop first, antialiased',
    'tf.data, not antialiased': 'tf.data, crop first, not antialiased',
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

    def seconds(self, name: str, antialias: bool) -> float:
        self.process.stdin.write(json.dumps({**RECIPES[name], 'antialias': antialias}) + '\n')
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> str:
        return self.process.stdout.readline().strip()


def compare(name: str, pictures: Pictures, tensorflow: TensorFlow, rounds: int) -> dict[str, Any]:
    """The rows of one recipe, and how far this project's samples are from the slow way's."""
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
        LIMIT: each(lambda encoded, box: simplejpeg.decode_jpeg(encoded, strict=False)),
        OURS: lambda: cpu_seconds(ours),
        'Pillow': each(pillow),
        'slow way': each(slow_way),
    }
    if tensorflow.works:
        rows['tf.data'] = lambda: tensorflow.seconds(name, True)
        rows['tf.data, not antialiased'] = lambda: tensorflow.seconds(name, False)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for turn in range(rounds + 1):
        for row in random.Random(turn).sample(list(rows), len(rows)):
            taken = rows[row]()
            if turn:  # the first warms up
                seconds[row].append(taken)

    def ratio(row: str, other: str) -> float:
        pairs = zip(seconds[row], seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    result: dict[str, Any] = {
        'rows': {
            row: {
                'images_per_second': len(boxes) / statistics.median(seconds[row]),
                'of_the_limit': ratio(LIMIT, row),
                'ours_by_this': ratio(row, OURS),
            }
            for row in rows
        }
    }
    if config.crop == 'isotropic':  # Pillow's whole pictures have no place for the other's boxes
        off = [
            np.abs(
                decode.crop_and_resize(encoded, box, (SIZE, SIZE)).astype(int)
                - slow_way(encoded, box)
            ).mean()
            for encoded, box in zip(pictures.encoded, boxes, strict=True)
        ]
        result['from_slow_way'] = {'mean': float(np.mean(off)), 'worst': float(max(off))}
    return result


def threads(name: str, pictures: Pictures, rounds: int) -> dict[str, float]:
    """What a second thread of the loader brings."""
    reader = SampleReader(pictures, recipe(name))
    # Long enough that the last batch, while which one of two threads has nothing left, is nothing.
    count = max(1, 16 * len(pictures) // BATCH)
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
    pairs = list(zip(results[1], results[2], strict=True))
    return {
        'one_thread': count * BATCH / wall[1],
        'two_threads': count * BATCH / wall[2],
        'gain': statistics.median(a[0] / b[0] for a, b in pairs),
        'cpu_per_image': statistics.median(b[1] / a[1] for a, b in pairs),
    }


def soak(pictures: Pictures, samples: int) -> list[tuple[int, int]]:
    """(samples so far, MiB resident) ten times while two threads make that many samples."""
    reader = SampleReader(pictures, recipe('random resized crop'))
    steps = grain.MapDataset.range(samples // BATCH)
    batches = steps.map(lambda step: host_batch(reader, BATCH, slice(0, BATCH), step))
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    every = max(1, samples // BATCH // 10)
    found = []
    for step, _ in enumerate(batches.to_iter_dataset(options)):
        if step % every == every - 1:
            pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
            found.append(((step + 1) * BATCH, pages * resource.getpagesize() // 2**20))
    return found


def machine() -> str:
    """Processor and number of cores."""
    info = pathlib.Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{os.cpu_count()} cores, {names[0] if names else platform.processor()}'


def markdown(result: dict[str, Any]) -> str:
    """A result for the README."""
    recipes = result['recipes']
    text = (
        f'{result["pictures"]} ILSVRC pictures, medians of {result["rounds"]} rounds, '
        f'{result["machine"]}, {result["date"]}:\n\n'
        '| images/s of one core | ' + ' | '.join(f'{r} | of the limit' for r in recipes) + ' |\n'
        '|---|' + '---:|---:|' * len(recipes) + '\n'
    )
    for row in next(iter(recipes.values()))['rows']:
        found = [recipe['rows'][row] for recipe in recipes.values()]
        cells = [f'{f["images_per_second"]:.0f} | {f["of_the_limit"]:.2f}' for f in found]
        text += f'| {LABELS[row]} | {" | ".join(cells)} |\n'
    text += '\n'
    for name, recipe in recipes.items():
        both = recipe['loader']
        text += (
            f'- {name}: {both["one_thread"]:.0f} images/s from one thread of the loader, '
            f'{both["two_threads"]:.0f} from two (x {both["gain"]:.2f})'
        )
        if tensorflow := recipe['rows'].get('tf.data'):
            text += f'; {tensorflow["ours_by_this"]:.2f} times tf.data'
        if off := recipe.get('from_slow_way'):
            text += f'; {off["mean"]:.2f} grey levels off the slow way, at worst {off["worst"]:.2f}'
        text += '\n'
    if result['soak']:
        (first, before), (last, after) = result['soak'][0], result['soak'][-1]
        text += f'- memory: {before} MiB after {first:,} samples, {after} after {last:,}\n'
    return text


def measure(arguments: argparse.Namespace, pictures: Pictures) -> dict[str, Any]:
    """All of it."""
    tensorflow = TensorFlow(arguments.tensorflow, arguments.folder)
    recipes = {name: compare(name, pictures, tensorflow, arguments.rounds) for name in RECIPES}
    tensorflow.close()
    for name, found in recipes.items():
        found['loader'] = threads(name, pictures, max(3, arguments.rounds // 2))
    return {
        'date': datetime.date.today().isoformat(),
        'machine': machine(),
        'pictures': len(pictures),
        'rounds': arguments.rounds,
        'recipes': recipes,
        'soak': soak(pictures, arguments.soak) if arguments.soak else [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--folder', type=pathlib.Path, default=DATA)
    parser.add_argument('--tensorflow', default=sys.executable, metavar='PYTHON')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--soak', type=int, default=0, metavar='SAMPLES')
    parser.add_argument('--out', type=pathlib.Path, metavar='FILE.json')
    parser.add_argument('--markdown', type=pathlib.Path, metavar='FILE.json')
    arguments = parser.parse_args()
    if arguments.markdown:
        print(markdown(json.loads(arguments.markdown.read_text())), end='')
        return
    pictures = Pictures(arguments.folder)
    if not pictures:
        parser.error(f'no JPEG files below {arguments.folder}')
    result = measure(arguments, pictures)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + '\n')
    print(markdown(result), end='')


if __name__ == '__main__':
    main()
