"""What the tests of imported weights share: small configurations, and logits of what was stored."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

import cnn_arch.mesh as meshes
from cnn_arch import configuration, models
from cnn_arch.data import preprocess
from cnn_arch.weights import importer, trained
from tests import oracles


def small_config(folder: pathlib.Path, paper: str, variant: str, **options: Any) -> str:
    """A configuration file like configs/<paper>.py:<variant>, with other fields of the network."""
    path = folder / f'{paper}_small.py'
    path.write_text(
        f'from configs import {paper} as paper\n\n\n'
        'VARIANTS = ()\n\n\n'
        "def get_config(variant=''):\n"
        f'    config = paper.get_config({variant!r})\n'
        '    with config.unlocked():\n'
        f'        config.model.options.update({options!r})\n'
        '    return config.lock()\n'
    )
    return str(path)


def imported(
    source: pathlib.Path, config: str, to: pathlib.Path, partial: bool = False
) -> dict[str, Any]:
    """The record of the folder written."""
    record = importer.import_weights(source, '', config, [], to, partial)
    assert record == json.loads((to / 'weights.json').read_text())
    return record


def logits(folder: pathlib.Path, config_name: str, pixels: np.ndarray) -> np.ndarray:
    """What eval.py's path from folder to network computes for RGB pixels, uint8 [N, H, W, 3].

    Including the mean and the scale that were stored beside the weights. The images are float32 as
    `torch_input` makes them, to the last bit; from there on it is float64.
    """
    config = configuration.load(config_name)
    found = trained.find(folder)
    found.check(config)
    found.adapt(config, evaluation=True)
    mesh = meshes.create_mesh(config.mesh)
    variables = found.restore(config, mesh)
    data = config.data
    images = (pixels.astype(np.float32) - np.float32(data.mean)) / np.float32(data.std)
    # XLA multiplies by reciprocals, which differs in the last bit.
    oracles.assert_close(preprocess.normalise({'image': pixels}, data), images, 1e-5)
    return oracles.in_float64(models.build(config.model))(variables, images)[0]


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """RGB, uint8 [N, H, W, 3], with a different colour in each image."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(0, 128, (shape[0], 1, 1, 3))
    return (tint + rng.integers(0, 128, shape)).astype(np.uint8)


def fill(module: Any, seed: int = 0) -> None:
    """Random values for all tensors of a torch module, none at a neutral one."""
    import torch

    rng = np.random.default_rng(seed)
    for name, tensor in module.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith('num_batches_tracked'):
            values = np.asarray(7)
        elif name.endswith('running_var') or (len(shape) == 1 and name.endswith('weight')):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = rng.standard_normal(shape) * 0.1
        tensor.copy_(torch.tensor(values))


def torch_input(pixels: np.ndarray, mean: Any, std: Any, bgr: bool = False) -> np.ndarray:
    """float32 [N, C, H, W] as the publisher's own code makes it."""
    images = (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    images = images[..., ::-1] if bgr else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


Writer = Callable[[Any, pathlib.Path], None]
