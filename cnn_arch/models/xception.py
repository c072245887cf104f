"""F. Chollet. Xception: Deep Learning with Depthwise Separable Convolutions. CVPR 2017
(arXiv 1610.02357v3). Figure 5.

A separable convolution is a 3x3 convolution of each map on its own (depthwise), then a 1x1
convolution (pointwise), with nothing between them; section 4.7 tries ReLU and ELU there
(`intermediate`). Batch normalisation follows every convolution and separable convolution. Section
3.2 tries two fully connected layers of 4,096 units before the classifier (`fc_units`).

Departures: none. What the paper leaves open is as in the author's code (Keras Applications): the
first two convolutions have no padding, all else is padded to keep the size ("same", with the odd
pixel at the bottom and right), kernels start from Glorot's uniform distribution. Layers bear the
author's names. The fully connected layers, which that code lacks, end in ReLU; dropout comes once,
before the classifier (section 4.3).
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError
from cnn_arch.models import cpu
from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    check_size,
    classifier_dtype,
    global_average_pool,
    max_pool,
)

# Figure 5, blocks 2 to 13: maps of the separable convolutions of each. A block that ends in 'pool'
# halves the map and adds a 1x1/2 convolution of its input; the others add their input.
ENTRY_FLOW = ((128, 128, 'pool'), (256, 256, 'pool'), (728, 728, 'pool'))
MIDDLE_FLOW = ((728, 728, 728),) * 8
EXIT_FLOW = ((728, 1024, 'pool'),)
LAST = (1536, 2048)  # block 14, each followed by ReLU

VARIANTS: dict[str, dict[str, Any]] = {
    'xception': {},
    'fc': {'fc_units': (4096, 4096)},  # table 2
    'relu': {'intermediate': 'relu'},  # figure 10
    'elu': {'intermediate': 'elu'},
}
INTERMEDIATE: dict[str, Callable[[jax.Array], jax.Array]] = {
    'none': lambda x: x,
    'relu': nn.relu,
    'elu': nn.elu,
}
BATCH_NORM = BatchNormSettings(momentum=0.99, epsilon=1e-3)  # the author's code, as in Keras
KERNEL_INIT = nn.initializers.glorot_uniform()
MINIMUM = 7  # pixels: what the two convolutions without padding need


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """(before, after) such that ceil(size / stride) windows fit; an odd pixel goes after."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


class SeparableConv(nn.Module):
    """[N, H, W, C] -> [N, H, W, maps], without biases."""

    maps: int
    intermediate: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = nn.Conv(
            channels, (3, 3), padding=1, feature_group_count=channels, use_bias=False,
            kernel_init=KERNEL_INIT, dtype=self.dtype, name='depthwise',
            conv_general_dilated=cpu.convolution,
        )(x)  # fmt: skip
        x = INTERMEDIATE[self.intermediate](x)
        return nn.Conv(
            self.maps, (1, 1), use_bias=False, kernel_init=KERNEL_INIT, dtype=self.dtype,
            name='pointwise',
        )(x)  # fmt: skip


class Xception(nn.Module):
    """Images [N, H, W, 3], 299x299 in the paper -> logits [N, classes]."""

    blocks: Sequence[Sequence[Any]] = (*ENTRY_FLOW, *MIDDLE_FLOW, *EXIT_FLOW)
    last: Sequence[int] = LAST
    intermediate: str = 'none'  # activation between depthwise and pointwise: none, relu or elu
    fc_units: Sequence[int] = ()  # fully connected layers before the classifier
    dropout: float = 0.5  # before the classifier
    num_classes: int = 1000
    batch_norm: BatchNormSettings = BATCH_NORM
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        if self.intermediate not in INTERMEDIATE:
            raise UserError(
                f'model.options.intermediate = {self.intermediate!r}: choose one of '
                f'{", ".join(INTERMEDIATE)}'
            )
        check_size(images, MINIMUM)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.batch_norm, dtype=self.dtype, name=f'{name}_bn')(x, train)

        def conv(x: jax.Array, maps: int, kernel: int, stride: int, name: str) -> jax.Array:
            x = nn.Conv(
                maps, (kernel, kernel), (stride, stride), 'VALID', use_bias=False,
                kernel_init=KERNEL_INIT, dtype=self.dtype, name=name,
            )(x)  # fmt: skip
            return norm(x, name)

        def separable(x: jax.Array, maps: int, name: str) -> jax.Array:
            return norm(SeparableConv(maps, self.intermediate, self.dtype, name=name)(x), name)

        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        x = nn.relu(conv(x, 32, 3, 2, 'block1_conv1'))  # [N, 149, 149, 32]
        x = nn.relu(conv(x, 64, 3, 1, 'block1_conv2'))  # [N, 147, 147, 64]
        endpoints['block1'] = x

        for block, layers in enumerate(self.blocks, 2):
            shortcut = x
            if layers[-1] == 'pool':
                shortcut = conv(x, layers[-2], 1, 2, f'block{block}_shortcut')
            for index, maps in enumerate(layers, 1):
                if maps == 'pool':
                    height, width = x.shape[1:3]
                    pads = same_padding(height, 3, 2), same_padding(width, 3, 2)
                    x = max_pool(x, 3, 2, pads)  # [N, H / 2, W / 2, C]
                else:
                    if block > 2 or index > 1:  # block 2 starts from an activation
                        x = nn.relu(x)
                    x = separable(x, maps, f'block{block}_sepconv{index}')
            x = endpoints[f'block{block}'] = x + shortcut

        block = len(self.blocks) + 2
        for index, maps in enumerate(self.last, 1):
            x = nn.relu(separable(x, maps, f'block{block}_sepconv{index}'))
        endpoints[f'block{block}'] = x  # [N, 10, 10, 2048]

        x = endpoints['global_pool'] = global_average_pool(x)
        for index, units in enumerate(self.fc_units, 1):
            x = FullyConnected(units, kernel_init=KERNEL_INIT, dtype=self.dtype, name=f'fc{index}')(
                x
            )
            x = endpoints[f'fc{index}'] = nn.relu(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(
            self.num_classes, kernel_init=KERNEL_INIT, dtype=classifier_dtype(self.dtype),
            name='classifier',
        )(x)  # fmt: skip
        return x, endpoints
