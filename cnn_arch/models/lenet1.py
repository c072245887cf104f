"""Y. Le Cun, B. Boser, J. S. Denker, D. Henderson, R. E. Howard, W. Hubbard, L. D. Jackel.
Handwritten Digit Recognition with a Back-Propagation Network. NIPS 2, 1990.

The network that later papers call LeNet-1: 4,635 units, 98,442 connections, 2,578 parameters. On
MNIST it sees digits "down-sampled to 16x16 pixels and centered in the 28x28 input layer" (LeCun et
al. 1998, section III-C7), -1 the background, +1 the ink. Targets: +1 and -1 (`loss.name = 'mse'`).

Departures: none known. Squashing function and initialisation are those of the authors' paper of
the year before (Neural Computation 1:541-551).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError
from cnn_arch.models import backward
from cnn_arch.models.layers import (
    FullyConnected,
    Subsampling,
    TableConv,
    classifier_dtype,
    lecun_uniform,
)

# Table 1: which of H2's four maps (lines) feed which of H3's twelve (columns).
H2_H3 = (
    'XXX.XX......',
    '.XXXXX......',
    '......XXX.XX',
    '.......XXXXX',
)
VARIANTS: dict[str, dict[str, Any]] = {'LeNet-1': {'h3_table': H2_H3}}


def reduce_digits(images: jax.Array) -> jax.Array:
    """Shrinks images [N, 28, 28, 1] in [-1, 1] by 16 / 20 about their centre, into the same field.

    So MNIST's digits of 20x20 become the paper's 16x16. Each pixel is the mean of the 1.25 x 1.25
    pixels that it covers, so nothing is aliased; what lies outside counts as background.
    """

    def shrink_rows(x: jax.Array) -> jax.Array:
        quarters = jnp.repeat(x, 4, axis=1)  # [N, 112, 28, 1]
        frame = ((0, 0), (14, 14), (0, 0), (0, 0))
        quarters = jnp.pad(quarters, frame, constant_values=-1.0)  # [N, 140, 28, 1]
        return quarters.reshape(-1, 28, 5, 28, 1).mean(axis=2)

    return shrink_rows(shrink_rows(images).swapaxes(1, 2)).swapaxes(1, 2)


class LeNet1(nn.Module):
    """Images [N, 28, 28, 1] in [-1, 1] -> logits [N, classes] in (-1.7159, 1.7159).

    Raises UserError for images of another size.
    """

    h3_table: tuple[str, ...]
    reduce: bool = True  # 20x20 digits to 16x16; False where the digits have that size already
    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        if images.shape[1:] != (28, 28, 1):
            raise UserError(
                f'LeNet-1 takes 28x28 grey images, not {images.shape[1:]}: set '
                'data.augment.size = 28 and data.channels = 1'
            )
        x = reduce_digits(images) if self.reduce else images
        endpoints: dict[str, Any] = {'input': x}
        layers = {
            'H1': nn.Conv(
                4, (5, 5), padding='VALID', kernel_init=lecun_uniform(25),
                bias_init=lecun_uniform(25), conv_general_dilated=backward.convolution,
                dtype=self.dtype, name='H1',
            ),  # [N, 24, 24, 4]
            'H2': Subsampling(dtype=self.dtype, name='H2'),  # [N, 12, 12, 4]
            'H3': TableConv(self.h3_table, dtype=self.dtype, name='H3'),  # [N, 8, 8, 12]
            'H4': Subsampling(dtype=self.dtype, name='H4'),  # [N, 4, 4, 12]
            'output': FullyConnected(
                self.num_classes, (4, 4), kernel_init=lecun_uniform(192),
                bias_init=lecun_uniform(192), dtype=classifier_dtype(self.dtype), name='output',
            ),  # [N, classes]
        }  # fmt: skip
        for name, layer in layers.items():
            x = endpoints[name] = backward.scaled_tanh(layer(x))
        return x, endpoints
