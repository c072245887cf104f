"""The name of a stored answer: equal only where all is equal that determines the answer.

That is the data, the network's arrays, the plan of the test, the configuration, the arithmetic and
the code. What may be left out is listed with its reason; whatever is not listed counts, so that a
key which is added to the configuration is never forgotten. On how many devices or processes an
answer was computed does not count: the images are each computed alone, wherever they lie.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import ml_collections

from cnn_arch import commands, environment
from cnn_arch.evaluation import protocols

MEANING = 2  # of what is kept; raised when a fix outside CODE changes what a call would measure
PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# What computes an answer from arrays and pictures: an edit there is another measurement.
CODE = ('data', 'evaluation', 'models', 'mesh.py', 'weights/trained.py')
LIBRARIES = ('jax', 'jaxlib', 'flax', 'numpy', 'simplejpeg', 'pillow')
# Beside the flags of JAX's own configuration, what tells its compilers how to compute.
ENVIRONMENT = ('LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
DEVICE_COUNT = '--xla_force_host_platform_device_count'

_TRAINING = 'only training reads it'
_PLAN = 'the plan says what becomes of it'
_SPEED = 'says how fast pictures are read, not what is in them'
# Keys, or groups of keys, that have no influence on an answer, and why.
NO_INFLUENCE = {
    'seed': 'nothing is drawn in an evaluation: no dropout, no augmentation',
    'init_from': 'the arrays are keyed themselves',
    'loss.': _TRAINING,
    'data.dir': 'names, labels and contents are keyed themselves',
    'data.train_split': _TRAINING,
    'data.seed': _TRAINING,
    'data.threads': _SPEED,
    'data.workers': _SPEED,
    'data.prefetch': _SPEED,
    'data.augment.': 'training, and the scales of a protocol around it: the plan has these',
    'optim.': 'training; which of its arrays are taken, polyak_decay says',
    'schedule.': _TRAINING,
    'train.': _TRAINING,
    'eval.protocol': _PLAN,
    'eval.scale': _PLAN,
    'eval.scales': _PLAN,
    'eval.crop': _PLAN,
    'eval.views': _PLAN,
    'eval.average': _PLAN,
    'eval.view_average': _PLAN,
    'eval.mirror': _PLAN,
    'checkpoint.': _TRAINING,
    'mesh.shard_optimiser': _TRAINING,
}
# Of these groups, what does have.
INFLUENCE = ('data.augment.size', 'optim.polyak_decay')


class Arrays(Protocol):
    """A network on disk, see cnn_arch.weights.trained."""

    def digest(self) -> str: ...
    def checked(self) -> str: ...


def key(
    trained: Arrays, config: ml_collections.ConfigDict, plan: protocols.Plan, data: Mapping
) -> str:
    """32 hexadecimal digits; `data` is the identity of the source (data/fingerprint.py)."""
    text = json.dumps(ingredients(trained, config, plan, data), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def ingredients(
    trained: Arrays, config: ml_collections.ConfigDict, plan: protocols.Plan, data: Mapping
) -> dict[str, Any]:
    """All that determines an answer."""
    return {
        'meaning': MEANING,
        'data': dict(data),
        'arrays': [trained.digest(), trained.checked()],
        'plan': dataclasses.asdict(dataclasses.replace(plan, protocol='')),  # but for its name
        'config': {name: leaf for name, leaf in commands.flatten(config).items() if matters(name)},
        'arithmetic': arithmetic(),
        'code': code(),
    }


def matters(name: str) -> bool:
    """Whether a key of the configuration may have an influence on an answer."""
    if name in INFLUENCE:
        return True
    groups = tuple(group for group in NO_INFLUENCE if group.endswith('.'))
    return name not in NO_INFLUENCE and not name.startswith(groups)


def arithmetic() -> dict[str, Any]:
    """What multiplies and how: platform, device, processor, precision and libraries."""
    device = jax.devices()[0]
    return {
        'platform': jax.default_backend(),
        'compiler': device.client.platform_version,
        'device': device.device_kind,
        'processor': environment.processor(),
        'vector_extension': environment.vector_extension(),
        'threads': environment.threads(),
        **settings(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def settings() -> dict[str, Any]:
    """Of the process, without a look at its devices: precision and the compilers' flags."""
    flags = os.environ.get('XLA_FLAGS', '').split()
    return {
        'matmul_precision': jax.config.values['jax_default_matmul_precision'],
        'x64': jax.config.values['jax_enable_x64'],
        'XLA_FLAGS': sorted(flag for flag in flags if not flag.startswith(DEVICE_COUNT)),
        **{name: os.environ.get(name, '') for name in ENVIRONMENT},
    }


@functools.cache
def code() -> str:
    """SHA-256 of the files that compute an answer."""
    digest = hashlib.sha256()
    for place in CODE:
        path = PACKAGE / place
        for file in [path] if path.is_file() else sorted(path.rglob('*.py')):
            data = file.read_bytes()
            digest.update(f'{file.relative_to(PACKAGE).as_posix()} {len(data)}\n'.encode() + data)
    return digest.hexdigest()
