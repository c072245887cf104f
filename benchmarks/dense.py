"""What dense evaluation costs: against crops, and against a compilation for each image shape.

    python benchmarks/dense.py [--folder=DIR] [--out=FILE.json]
                               [--images=8] [--crop-images=1] [--cold-images=32]
    python benchmarks/dense.py --markdown=FILE.json

VGG-16's convolutional part (fully connected layers of 16 units) with random weights tests the first
pictures of DIR. Printed are seconds per image, of wall time and of CPU time of all threads (which a
busy machine spoils less), from the encoded picture to its posteriors. In one run:

1. dense evaluation at one scale and at three, and 50 and 150 crops (Simonyan & Zisserman 2015,
   section 3.2), all mirrored too. The network has been compiled before: what 50,000 images cost.
2. dense evaluation of pictures in their own aspect ratios from a cold start, compilations included:
   this project's few canvases, and a jitted function that sees each picture at its own shape.

Costs of crops do not depend on the picture, so that few of them are enough. `--markdown` renders a
result for the README.
"""

import argparse
import dataclasses
import datetime
import json
import logging
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

# Must stand before JAX starts, as in cnn_arch.commands.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_cpu_experimental_ynn_fusion_type=-individual_convolution'
)

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cnn_arch import configuration, mesh, models
from cnn_arch.data import decode
from cnn_arch.data.sources import Example
from cnn_arch.evaluation import dense, network, protocols
from cnn_arch.evaluation.evaluate import evaluate

DATA = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'ilsvrc_sample'
FC_UNITS = 16
FIXED, JITTERED = (224, 256, 288), (256, 384, 512)  # of S = 256 and of S in [256; 512]
# Label, protocol, scales, and whether it is one of crops.
ROWS = (
    ('dense, Q = 256', 'vgg_dense', (256,), False),
    ('50 crops, Q = 256', 'vgg_150', (256,), True),
    ('dense, Q = 224, 256, 288', 'vgg_dense_multiscale', FIXED, False),
    ('dense, Q = 256, 384, 512', 'vgg_dense_multiscale', JITTERED, False),
    ('150 crops, Q = 256, 384, 512', 'vgg_150', JITTERED, True),
)
OURS, OWN_SHAPE = 'a few canvases', 'each picture at its own shape'


class Pictures:
    """Encoded pictures in memory, as a source of an evaluation."""

    name, num_classes = 'pictures', 1000

    def __init__(self, files: list[pathlib.Path]):
        self.encoded = [file.read_bytes() for file in files]
        self.complete = len(files)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Example:
        return Example(self.encoded[index], 0, str(index))


@dataclasses.dataclass
class Measured:
    """Seconds per image, and what was compiled meanwhile."""

    label: str
    images: int
    wall: float
    cpu: float
    shapes: int = 0  # of the resized pictures
    canvases: int = 0  # of whole images, and so compilations of the network
    padding: float = 0.0  # percent of the computed pixels


def settings(protocol: str, scales: tuple[int, ...]) -> ml_collections.ConfigDict:
    config = configuration.load('configs/vgg.py:D')
    with config.unlocked():
        config.model.options.fc_units = FC_UNITS
    config.eval.protocol, config.eval.scale, config.eval.scales = protocol, scales[0], scales
    config.eval.batch_size = 1  # few pictures do not fill larger batches
    return config


def random_variables(config: ml_collections.ConfigDict) -> Any:
    """He's spread; what the network says does not matter here."""
    abstract = dense.abstract_variables(models.build(config.model), 224, 3)
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, abstract)


def timed(label: str, images: int, work: Callable[[], Any]) -> tuple[Measured, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(label, images, wall / images, cpu / images), result


def run_ours(
    label: str, protocol: str, scales: tuple[int, ...], variables: Any, pictures: Pictures
) -> Measured:
    """The whole of `evaluate`, as eval.py calls it."""
    config = settings(protocol, scales)
    devices, model = mesh.create_mesh(config.mesh), models.build(config.model)
    measured, result = timed(
        label, len(pictures), lambda: evaluate(model, variables, pictures, config, devices)
    )
    measured.shapes = sum(len(usage.shapes) for usage in result.usage)
    measured.canvases = sum(len(usage.canvases) for usage in result.usage)
    used = sum(usage.used for usage in result.usage)
    measured.padding = 100 * (1 - used / sum(usage.computed for usage in result.usage))
    return measured


def run_own_shapes(
    label: str, protocol: str, scales: tuple[int, ...], variables: Any, pictures: Pictures
) -> Measured:
    """What one writes first: a jitted function, called with each picture as it comes."""
    config = settings(protocol, scales)
    plan = protocols.resolve(config)
    devices = mesh.create_mesh(config.mesh)
    peer = network.Network.create(models.build(config.model), config, plan, devices)
    apply = jax.jit(peer.dense_posteriors)
    shapes = set()

    def work() -> None:
        for encoded in pictures.encoded:
            height, width = decode.image_size(encoded)
            size = decode.isotropic_size(height, width, scales[0])
            image = decode.crop_and_resize(encoded, (0, 0, height, width), size)[None]
            shapes.add(size)
            both = [apply(variables, jnp.asarray(view)) for view in (image, image[:, :, ::-1])]
            np.asarray(sum(both) / 2)

    measured, _ = timed(label, len(pictures), work)
    measured.shapes = measured.canvases = len(shapes)
    return measured


def measure(
    folder: pathlib.Path, images: int, crop_images: int, cold_images: int
) -> dict[str, Any]:
    """Runs everything, printing as it goes."""
    files = sorted(f for f in folder.rglob('*') if f.suffix.lower() in ('.jpeg', '.jpg'))
    if not files:
        sys.exit(f'no JPEG files below {folder}')
    variables = random_variables(settings('vgg_dense', (256,)))
    several = Pictures(files[:cold_images])
    cold = []
    for label, run in ((OURS, run_ours), (OWN_SHAPE, run_own_shapes)):
        cold.append(run(label, 'vgg_dense', (256,), variables, several))
        print(describe(cold[-1]), flush=True)
    warm = []
    for label, protocol, scales, is_crops in ROWS:
        pictures = Pictures(files[: crop_images if is_crops else images])
        # All windows are of one shape, so that one view of each picture compiles what they need.
        run_ours(label, 'center' if is_crops else protocol, scales, variables, pictures)
        warm.append(run_ours(label, protocol, scales, variables, pictures))
        print(describe(warm[-1]), flush=True)
    return {
        'date': datetime.date.today().isoformat(),
        'machine': machine(),
        'warm': [dataclasses.asdict(one) for one in warm],
        'cold': [dataclasses.asdict(one) for one in cold],
    }


def machine() -> str:
    """E.g. '2 cores of Intel Xeon'."""
    name = platform.processor() or platform.machine()
    info = pathlib.Path('/proc/cpuinfo')
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith('model name')]
        name = names[0].partition(':')[2].strip() if names else name
    return f'{len(os.sched_getaffinity(0))} cores of {name}, JAX {jax.__version__}'


def describe(one: Measured) -> str:
    compiled = f'{one.shapes} shapes, {one.canvases} compiled, {one.padding:.1f} % padding'
    return (
        f'{one.label:32}{one.images:4} images{one.cpu:9.2f} s of CPU each{one.wall:9.2f} s'
        f'  {compiled}'
    )


def markdown(result: dict[str, Any]) -> str:
    """The README's block."""
    warm = [Measured(**row) for row in result['warm']]
    cold = {row['label']: Measured(**row) for row in result['cold']}
    by_label = {one.label: one for one in warm}
    crops = {label: by_label[label].cpu for label, _, _, is_crops in ROWS if is_crops}
    lines = [
        f'Measured {result["date"]} on {result["machine"]}; seconds of CPU time per image, from '
        'the JPEG to its posteriors.',
        '',
        '| VGG-16, convolutional part | images | s per image | of 50 crops | of 150 crops |',
        '| --- | ---: | ---: | ---: | ---: |',
    ]
    for one in warm:
        shares = ' | '.join(f'{one.cpu / cost:.3f}' for cost in crops.values())
        lines.append(f'| {one.label} | {one.images} | {one.cpu:.2f} | {shares} |')
    lines += [
        '',
        '| from a cold start, Q = 256 | images | shapes | compilations | padding | s per image |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for one in cold.values():
        lines.append(
            f'| {one.label} | {one.images} | {one.shapes} | {one.canvases} | '
            f'{one.padding:.1f} % | {one.cpu:.2f} |'
        )
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--folder', type=pathlib.Path, default=DATA)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--crop-images', type=int, default=1)
    parser.add_argument('--cold-images', type=int, default=32)
    parser.add_argument('--out', type=pathlib.Path, metavar='FILE.json')
    parser.add_argument('--markdown', type=pathlib.Path, metavar='FILE.json')
    arguments = parser.parse_args()
    if arguments.markdown:
        print(markdown(json.loads(arguments.markdown.read_text())), end='')
        return
    logging.getLogger('jax').setLevel(logging.ERROR)
    counts = (arguments.images, arguments.crop_images, arguments.cold_images)
    result = measure(arguments.folder, *counts)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + '\n')
    print(markdown(result), end='')


if __name__ == '__main__':
    main()
