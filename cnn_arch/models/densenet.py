"""G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger. Densely Connected Convolutional Networks.
CVPR 2017 (arXiv 1608.06993v5).

Inside a block each layer takes the maps of all layers before it and adds k maps, the growth rate.
A layer is BN-ReLU-Conv 3x3; with bottlenecks (B) a BN-ReLU-Conv 1x1 to 4k maps comes first. Between
blocks a transition, BN-ReLU-Conv 1x1 and 2x2 average pooling, keeps the share theta of the maps:
theta = 0.5 is compression (C). Section 3.

Initialisation is He et al.'s (section 4.2): normal with variance 2 / fan-out, as the authors' code
draws convolutions (models/densenet.lua; their earlier file for ImageNet, densenet-imagenet.lua, has
2 / fan-in: `initialisation`), and evenly within 1 / sqrt(fan-in), Torch's own, for the classifier,
with biases of zero.

Departures: none. Table 1 is DenseNet-BC; 161, with k = 48, is in the conference print and among the
authors' models. BN-ReLU after the first convolution and after the last block are the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError
from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    avg_pool,
    check_size,
    classifier_dtype,
    global_average_pool,
    he_normal,
    max_pool,
)

# Table 1: layers of each dense block, all BC, k = 32 but for 161.
TABLE_1: dict[str, list[int]] = {
    '121': [6, 12, 24, 16],
    '169': [6, 12, 32, 32],
    '201': [6, 12, 48, 32],
    '264': [6, 12, 64, 48],
    '161': [6, 12, 36, 24],
}
# Table 2, the networks for CIFAR: depth L and growth rate k, plain and BC. Three equal blocks.
TABLE_2 = [(40, 12, ''), (100, 12, ''), (100, 24, ''), (100, 12, 'BC'), (250, 24, 'BC'),
           (190, 40, 'BC')]  # fmt: skip


def _cifar(depth: int, growth_rate: int, kind: str) -> dict[str, Any]:
    """Section 4.2: 16 first maps, or 2k with BC; four layers are outside the blocks."""
    return {
        'blocks': [(depth - 4) // (6 if kind else 3)] * 3,
        'growth_rate': growth_rate,
        'bottleneck': bool(kind),
        'compression': 0.5 if kind else 1.0,
        'first_maps': 2 * growth_rate if kind else 16,
        'large_images': False,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    **{
        label: {'blocks': blocks, 'growth_rate': 48 if label == '161' else 32}
        for label, blocks in TABLE_1.items()
    },
    **{f'{kind or "plain"}-L{depth}-k{k}': _cifar(depth, k, kind) for depth, k, kind in TABLE_2},
}


INITIALISERS = {
    'fan_out': nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    'fan_in': he_normal,
}
CLASSIFIER_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class DenseLayer(nn.Module):
    """The k new maps of one layer, [N, H, W, C] -> [N, H, W, k]."""

    growth_rate: int
    bottleneck: bool
    dropout: float
    kernel_init: nn.initializers.Initializer
    batch_norm: BatchNormSettings
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        convolutions = [(3, self.growth_rate)]
        if self.bottleneck:
            convolutions.insert(0, (1, 4 * self.growth_rate))
        for index, (kernel, maps) in enumerate(convolutions, 1):
            x = BatchNorm(self.batch_norm, dtype=self.dtype, name=f'bn{index}')(x, train)
            x = nn.Conv(
                maps, (kernel, kernel), padding=kernel // 2, use_bias=False,
                kernel_init=self.kernel_init, dtype=self.dtype, name=f'conv{index}',
            )(nn.relu(x))  # fmt: skip
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x


class DenseNet(nn.Module):
    """Images [N, H, W, 3] -> logits [N, classes]; 224x224 in the paper, 32x32 for CIFAR.

    Raises UserError for images that leave nothing to the last transition: below 29 pixels, or below
    4 without `large_images`; and for an unknown initialisation.
    """

    blocks: Sequence[int]  # layers of each
    growth_rate: int
    bottleneck: bool = True  # B
    compression: float = 0.5  # theta of C; 1 = none
    first_maps: int | None = None  # of the first convolution; None = 2k
    large_images: bool = True  # 7x7/2 convolution and pooling first; False: one 3x3 convolution
    dropout: float = 0.0  # after each convolution but the first
    initialisation: str = 'fan_out'  # or fan_in: by which the variance of convolutions is divided
    num_classes: int = 1000
    batch_norm: BatchNormSettings = BatchNormSettings()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        smallest = 2 ** (len(self.blocks) - 1)  # map before the first block
        check_size(images, 4 * (smallest - 1) + 1 if self.large_images else smallest)

        if self.initialisation not in INITIALISERS:
            raise UserError(
                f'model.options.initialisation = {self.initialisation!r}: choose one of '
                f'{", ".join(INITIALISERS)}'
            )
        kernel_init = INITIALISERS[self.initialisation]

        def norm_relu(x: jax.Array, name: str) -> jax.Array:
            return nn.relu(BatchNorm(self.batch_norm, dtype=self.dtype, name=name)(x, train))

        def conv(x: jax.Array, maps: int, kernel: int, stride: int, name: str) -> jax.Array:
            return nn.Conv(
                maps, (kernel, kernel), (stride, stride), kernel // 2, use_bias=False,
                kernel_init=kernel_init, dtype=self.dtype, name=name,
            )(x)  # fmt: skip

        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        maps = self.first_maps or 2 * self.growth_rate
        if self.large_images:
            x = norm_relu(conv(x, maps, 7, 2, 'conv1'), 'conv1_bn')  # [N, 112, 112, 2k]
            x = endpoints['pool1'] = max_pool(x, 3, 2, 1)  # [N, 56, 56, 2k]
        else:
            x = conv(x, maps, 3, 1, 'conv1')  # [N, 32, 32, 16]

        for block, layers in enumerate(self.blocks, 1):
            for layer in range(1, layers + 1):
                new = DenseLayer(
                    self.growth_rate, self.bottleneck, self.dropout, kernel_init, self.batch_norm,
                    self.dtype, name=f'block{block}_layer{layer}',
                )(x, train)  # fmt: skip
                x = jnp.concatenate([x, new], axis=-1)
            endpoints[f'block{block}'] = x
            if block < len(self.blocks):
                x = norm_relu(x, f'transition{block}_bn')
                kept = int(self.compression * x.shape[-1])
                x = conv(x, kept, 1, 1, f'transition{block}_conv')
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
                x = endpoints[f'transition{block}'] = avg_pool(x, 2, 2)  # [N, H / 2, W / 2, C]

        x = endpoints['features'] = norm_relu(x, 'bn')  # [N, 7, 7, C]
        x = endpoints['global_pool'] = global_average_pool(x)
        x = FullyConnected(
            self.num_classes, kernel_init=CLASSIFIER_INIT, dtype=classifier_dtype(self.dtype),
            name='classifier',
        )(x)  # fmt: skip
        return x, endpoints
