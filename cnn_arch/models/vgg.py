"""K. Simonyan, A. Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition.
ICLR 2015 (arXiv 1409.1556v6).

All convolutions are 3x3 with stride 1 and padding 1 (configuration C also has 1x1 ones), each
followed by ReLU; max-pooling is 2x2 with stride 2 (section 2.1).

Departures: none in the architecture. Initialisation: section 3.1 draws A from a normal
distribution "with the zero mean and 10^-2 variance"; the authors' code and everybody since use a
standard deviation of 10^-2, and so do we. The deeper networks started from a trained A; the paper's
footnote says that Glorot's initialisation does as well, which is what B to E use.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.models.backward import relu
from cnn_arch.models.layers import (
    SPLIT_UNITS,
    FullyConnected,
    check_size,
    classifier_dtype,
    local_response_normalisation,
    max_pool,
)

# Table 1. Numbers are the maps of a 3x3 convolution, (1, n) is a 1x1 convolution with n maps,
# 'M' is maxpool.
CONFIGURATIONS: dict[str, list[Any]] = {
    'A': [64, 'M', 128, 'M', 256, 256, 'M', 512, 512, 'M', 512, 512, 'M'],
    'A-LRN': [64, 'LRN', 'M', 128, 'M', 256, 256, 'M', 512, 512, 'M', 512, 512, 'M'],
    'B': [64, 64, 'M', 128, 128, 'M', 256, 256, 'M', 512, 512, 'M', 512, 512, 'M'],
    'C': [64, 64, 'M', 128, 128, 'M', 256, 256, (1, 256), 'M', 512, 512, (1, 512), 'M',
          512, 512, (1, 512), 'M'],
    'D': [64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M', 512, 512, 512, 'M',
          512, 512, 512, 'M'],
    'E': [64, 64, 'M', 128, 128, 'M', 256, 256, 256, 256, 'M', 512, 512, 512, 512, 'M',
          512, 512, 512, 512, 'M'],
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    label: {'layers': layers, 'initialisation': 'normal' if label.startswith('A') else 'glorot'}
    for label, layers in CONFIGURATIONS.items()
}
SHARDING = SPLIT_UNITS
INITIALISERS = {
    'normal': nn.initializers.normal(0.01),
    'glorot': nn.initializers.glorot_uniform(),
}


class VGG(nn.Module):
    """Images [N, 224, 224, 3] -> logits [N, classes]; larger ones with `dense` (section 3.2)."""

    layers: Sequence[Any]
    num_classes: int = 1000
    fc_units: int = 4096
    dropout: float = 0.5  # on fc6 and fc7
    input_size: int = 224
    initialisation: str = 'glorot'
    dense: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        reduction = 2 ** sum(layer == 'M' for layer in self.layers)  # 32
        side = self.input_size // reduction  # of fc6's window: 7 at 224
        check_size(images, side * reduction)
        init = INITIALISERS[self.initialisation]
        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        stage, index = 1, 1
        for layer in self.layers:
            if layer == 'M':
                x = endpoints[f'pool{stage}'] = max_pool(x, 2, 2)  # [N, H / 2, W / 2, C]
                stage, index = stage + 1, 1
            elif layer == 'LRN':
                x = endpoints[f'norm{stage}'] = local_response_normalisation(x)
            else:
                kernel, maps = layer if isinstance(layer, Sequence) else (3, layer)
                name = f'conv{stage}_{index}'
                x = nn.Conv(
                    maps, (kernel, kernel), padding=kernel // 2, kernel_init=init,
                    dtype=self.dtype, name=name,
                )(x)  # fmt: skip
                x = endpoints[name] = relu(x)
                index += 1

        for name, window in (('fc6', (side, side)), ('fc7', (1, 1))):
            x = FullyConnected(
                self.fc_units, window, self.dense, kernel_init=init, dtype=self.dtype, name=name
            )(x)
            x = endpoints[name] = relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(
            self.num_classes, (1, 1), self.dense, kernel_init=init,
            dtype=classifier_dtype(self.dtype), name='fc8',
        )(x)  # fmt: skip
        return x, endpoints
