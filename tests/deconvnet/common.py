"""A small network with all that a deconvnet passes, and the folders that the command reads."""

from typing import Any

import ml_collections
import numpy as np

from cnn_arch.deconvnet.network import Network
from configs import base
from tests.evaluation.common import mesh_of, random_variables


def small_config(layers: Any = (6, 'LRN', 'M', 8, 'M', 8, 'M')) -> ml_collections.ConfigDict:
    """A narrow VGG on windows of 24 pixels."""
    config = base.get_config()
    config.model.name, config.model.variant, config.model.num_classes = 'vgg', 'A', 5
    config.model.options.layers = layers
    config.model.options.fc_units = 8
    config.model.options.input_size = 24
    config.data.augment.size, config.eval.scale, config.eval.batch_size = 24, 24, 8
    config.data.mean, config.data.std = (120.0, 110.0, 100.0), (60.0, 50.0, 55.0)
    return config.lock()


def small_network(config: Any = None, devices: int = 1, seed: int = 0) -> tuple[Network, Any]:
    """The network and its variables."""
    network = Network.create(config or small_config(), mesh_of(devices))
    return network, random_variables(network.model, network.size, network.data.channels, seed)


def random_images(count: int, network: Network, seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, C]."""
    rng = np.random.default_rng(seed)
    shape = count, network.size, network.size, network.data.channels
    return rng.integers(0, 256, shape).astype(np.uint8)
