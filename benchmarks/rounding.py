"""How far numbers move when only the hardware's use changes, as docs/numbers.md quotes.

    python benchmarks/rounding.py --weights=resnet50.h5 --data=FOLDER [--images=60] --out=FILE.json
    python benchmarks/rounding.py --markdown=FILE.json

Threads: the demo's networks after some steps, from one seed, by processes that may use one core and
two. Precision: the authors' ResNet-50 on pictures of a folder source, in float32 and in bfloat16.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RUNS = (
    ('lenet5', 1),
    ('lenet5', 100),
    ('vgg_fixed', 1),
    ('vgg_fixed', 100),
)  # variants of configs/demo.py, steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--weights', type=pathlib.Path, help='Keras file of ResNet-50')
    parser.add_argument('--data', type=pathlib.Path, help='folder of pictures')
    parser.add_argument('--images', type=int, default=60)
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--markdown', type=pathlib.Path, metavar='FILE.json')
    parser.add_argument('--step', nargs=4, help=argparse.SUPPRESS)  # see child
    args = parser.parse_args()
    if args.step:
        cores, network, count, file = args.step
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
        np.savez(file, **trained(network, int(count)))
    elif args.markdown:
        print(markdown(json.loads(args.markdown.read_text())), end='')
    else:
        os.environ.setdefault('JAX_PLATFORMS', 'cpu')
        found: dict[str, Any] = {'date': datetime.date.today().isoformat(), **where()}
        found['threads'] = [threads(*run) for run in RUNS]
        if args.weights:
            found['precision'] = precision(args.weights, args.data, args.images)
        args.out.write_text(json.dumps(found, indent=1) + '\n')


def where() -> dict[str, str]:
    """The processor."""
    from cnn_arch import environment

    return {'processor': f'{environment.processor()} ({environment.vector_extension()})'}


def trained(network: str, count: int) -> dict[str, Any]:
    """What so many steps add to the parameters, and the posteriors of some images before them."""
    import jax

    from cnn_arch import mesh, models
    from cnn_arch.data import sources
    from cnn_arch.data.loader import TrainingBatches
    from cnn_arch.evaluation import network as networks
    from cnn_arch.evaluation import protocols
    from cnn_arch.training import step as steps
    from configs import demo

    config = demo.get_config(network)
    devices = mesh.create_mesh(config.mesh)
    source = sources.open_for(config, 'train')
    model = models.build(config.model)
    state = steps.create_state(model, config, devices)
    batches = list(TrainingBatches(source, config, devices, 0, count))
    asked = networks.Network.create(model, config, protocols.resolve(config, 'center'), devices)
    posteriors = jax.jit(asked.posteriors)(steps.variables(state.model()), batches[0]['image'])
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    step = steps.compile_train_step(model, config, devices, steps.plan(config, 1000).per_epoch)
    for batch in batches:
        state, _ = step(state, batch)
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    moved = np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)])
    return {'update': moved, 'posteriors': np.asarray(posteriors)}


def threads(network: str, count: int) -> dict[str, Any]:
    """Two processes on two cores, and one on one core, against each other."""

    def child(cores: int) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            file = f'{folder}/step.npz'
            words = [sys.executable, __file__, '--step', str(cores), network, str(count), file]
            subprocess.run(words, check=True)
            with np.load(file) as kept:
                return dict(kept)

    one, two, again = child(1), child(2), child(2)
    length = np.linalg.norm(two['update'].astype(np.float64))
    return {
        'network': network,
        'steps': count,
        'identical_again': all(np.array_equal(two[name], again[name]) for name in two),
        'identical_on_one_core': all(np.array_equal(two[name], one[name]) for name in two),
        'update_difference': float(np.linalg.norm(two['update'] - one['update']) / length),
        'posterior_difference': float(np.abs(two['posteriors'] - one['posteriors']).max()),
    }


def precision(weights: pathlib.Path, data: pathlib.Path, images: int) -> dict[str, Any]:
    """Posteriors of ResNet-50 computed in bfloat16 against those in float32."""
    import jax
    import jax.numpy as jnp

    from cnn_arch import configuration, mesh, models
    from cnn_arch.data import preprocess, sources
    from cnn_arch.evaluation import protocols, reading
    from cnn_arch.weights import trained

    folder = pathlib.Path(tempfile.mkdtemp()) / 'resnet50'
    words = [sys.executable, '-m', 'cnn_arch.weights', str(weights.resolve()),
             '--config=configs/resnet.py:50', f'--to={folder}']  # fmt: skip
    subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    config = configuration.load(str(ROOT / 'configs/resnet.py:50'))
    found = trained.find(folder)
    found.adapt(config, evaluation=True)
    config.data.source, config.data.dir = 'folder', str(data)
    devices = mesh.create_mesh(config.mesh)
    variables = found.restore(config, devices)
    source = sources.open_for(config, 'eval')
    plan = protocols.resolve(config, 'center')
    reader = reading.Reader(source, config, plan)
    chosen = np.linspace(0, len(source) - 1, images).astype(int)
    exact = jax.jit(models.build(config.model).apply)
    config.model.dtype = 'bfloat16'
    rounded = jax.jit(models.build(config.model).apply)
    logits: dict[str, list[np.ndarray]] = {'float32': [], 'bfloat16': []}
    for index in chosen:
        example, size = reader.open(int(index))
        pixels = reader.prepare(int(index), example, size)[plan.scales[0]]
        pixels = preprocess.normalise({'image': pixels[None]}, config.data)
        for name, apply in (('float32', exact), ('bfloat16', rounded)):
            logits[name].append(np.asarray(apply(variables, pixels)[0])[0])
    one, other = (np.stack(logits[name]) for name in ('float32', 'bfloat16'))
    p, q = (np.asarray(jax.nn.softmax(jnp.asarray(x))) for x in (one, other))
    best = np.sort(other, axis=1)[:, ::-1]
    as_bfloat16 = np.asarray(jnp.asarray(other, jnp.bfloat16), np.float32)
    coarse = np.sort(as_bfloat16, axis=1)[:, ::-1]
    return {
        'images': len(chosen),
        'same_class': int((one.argmax(1) == other.argmax(1)).sum()),
        'probability_difference': float(np.abs(p - q).max()),
        'logit_difference': float(np.abs(one - other).max() / np.abs(one).max()),
        'ties': int((best[:, 0] == best[:, 1]).sum() + (best[:, 4] == best[:, 5]).sum()),
        'ties_if_rounded': [int((coarse[:, k] == coarse[:, k + 1]).sum()) for k in (0, 4)],
    }


def markdown(found: dict[str, Any]) -> str:
    """The figures as docs/numbers.md has them."""
    lines = [
        f'Measured {found["date"]}, {found["processor"]}.',
        '',
        '| trained | steps | two processes alike | one core against two: update | posteriors |',
        '| --- | ---: | --- | ---: | ---: |',
    ]
    for row in found['threads']:
        again = 'to the bit' if row['identical_again'] else 'no'
        lines.append(
            f'| {row["network"]} | {row["steps"]} | {again} | '
            f'{row["update_difference"]:.1e} | {row["posterior_difference"]:.1e} |'
        )
    if 'precision' in found:
        row = found['precision']
        first, fifth = row['ties_if_rounded']
        lines += [
            '',
            f'ResNet-50 in bfloat16 against float32, on a CPU: {row["same_class"]} of '
            f'{row["images"]} pictures have the same class, probabilities differ by at most '
            f'{row["probability_difference"]:.3f}. Ties at ranks 1 and 5: {row["ties"]}; if logits '
            f'were rounded to bfloat16, {first} and {fifth}.',
        ]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
