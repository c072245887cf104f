"""One process of an evaluation by several: python -m tests.evaluation.worker JOB.json INDEX.

JOB.json: address, processes, protocol, folder, and perhaps `dies_after` (images finished).
Each process leaves `decoded_<index>.json`, the images it decoded, `warnings_<index>.json`, what it
said of those that are none, and `result_<index>.npz`.
"""

import json
import logging
import os
import pathlib
import signal
import sys

import jax
import numpy as np

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.data.sources import Example
from cnn_arch.evaluation import evaluate as evaluation
from cnn_arch.evaluation import reading
from cnn_arch.evaluation import store as stores
from cnn_arch.evaluation.evaluate import evaluate
from tests.evaluation.common import CLASSES, Pictures, random_variables, small_config

# More images than a round of two hosts, of few sizes: each size compiles.
SIZES = [(40, 40 + 8 * (n % 3)) for n in range(14)] + [(48, 40), (60, 41)]
BAD = 5  # of them does not decode


def pictures() -> Pictures:
    """Small pictures, one of which is none."""
    source = Pictures(SIZES)
    source.examples[BAD] = Example(b'not a picture', 0, 'bad')
    return source


def settings(protocol: str):
    """Of the network and its evaluation; with a bad picture left out."""
    config = small_config(protocol)
    config.eval.scales, config.eval.batch_size = (36, 40), 8
    config.data.on_bad_image = 'skip'
    return config


def note_decoded() -> list[int]:
    """A list to which each image is added when it is decoded."""
    prepare = reading.Reader.prepare
    decoded: list[int] = []

    def prepare_and_note(self, index, example, size):
        decoded.append(index)  # in one step, whatever the thread
        return prepare(self, index, example, size)

    reading.Reader.prepare = prepare_and_note
    return decoded


def die_after(count: int) -> None:
    """Kills this process when that many images are finished, as a machine that goes away."""
    finish = evaluation._Evaluation._finish
    done = []

    def finish_some(self, index, posteriors):
        finish(self, index, posteriors)
        done.append(index)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluation._Evaluation._finish = finish_some


def main() -> None:
    job, index = json.loads(pathlib.Path(sys.argv[1]).read_text()), int(sys.argv[2])
    folder = pathlib.Path(job['folder'])
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', job['devices'])
    jax.distributed.initialize(job['address'], job['processes'], index)
    evaluation.ROUND, stores.SAVE_EVERY = 4, 0.0
    if job.get('dies_after') and index == 0:
        die_after(job['dies_after'])

    decoded, warnings = note_decoded(), []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    config, source = settings(job['protocol']), pictures()
    model = models.build(config.model)
    store = stores.Store(folder / 'store', len(source), CLASSES)
    result = evaluate(
        model, random_variables(model, 32), source, config, meshes.create_mesh(config.mesh),
        store=store,
    )  # fmt: skip
    (folder / f'decoded_{index}.json').write_text(json.dumps(decoded))
    (folder / f'warnings_{index}.json').write_text(json.dumps(warnings))
    np.savez(
        folder / f'result_{index}.npz', labels=result.labels, classes=result.classes,
        probabilities=result.probabilities, counted=result.counted,
    )  # fmt: skip
    print(result)
    jax.distributed.shutdown()


if __name__ == '__main__':
    main()
