"""S. Ioffe, C. Szegedy. Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift. ICML 2015 (arXiv 1502.03167), figure 5: BN-Inception. With `reduction`
the SE-BN-Inception of J. Hu, L. Shen, G. Sun. Squeeze-and-Excitation Networks. CVPR 2018, table 2.

GoogLeNet with batch normalisation after each convolution, two 3x3 convolutions for the 5x5, and no
pooling between the stages: 3c and 4e have stride 2. SE gates scale the output of each module.

Departures, as in the Caffe network that SENet's authors built on: the first convolution is a plain
7x7 (the paper: separable with depth multiplier 8), and there are no auxiliary classifiers. The
output column of figure 5 prints 576 maps for 4c and 4d and 1024 for 4e, where its own branches add
up to 608 and 1056; the branches count. Pooling is Caffe's: without padding, rounded up. In 3c and
4e that matches the convolutions beside it on maps of even size only; on odd ones, where the Caffe
network cannot run, the pooling is padded by 1 on both sides ("same").
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    SqueezeExcitation,
    avg_pool,
    check_size,
    classifier_dtype,
    global_average_pool,
    he_normal,
    max_pool,
)

# Figure 5. #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, pool, #pool proj; the modules
# without 1x1 have stride 2 and pass the pooled maps through.
FIGURE_5 = {
    '3a': (64, 64, 64, 64, 96, 'avg', 32),
    '3b': (64, 64, 96, 64, 96, 'avg', 64),
    '3c': (0, 128, 160, 64, 96, 'max', 0),
    '4a': (224, 64, 96, 96, 128, 'avg', 128),
    '4b': (192, 96, 128, 96, 128, 'avg', 128),
    '4c': (160, 128, 160, 128, 160, 'avg', 128),
    '4d': (96, 128, 192, 160, 192, 'avg', 128),
    '4e': (0, 128, 192, 192, 256, 'max', 0),
    '5a': (352, 192, 320, 160, 224, 'avg', 128),
    '5b': (352, 192, 320, 192, 224, 'max', 128),
}
VARIANTS: dict[str, dict[str, Any]] = {
    'bn_inception': {},
    'se_bn_inception': {'reduction': 16},
}


class BNInception(nn.Module):
    """Images [N, H, W, 3], 11x11 pixels or more, -> logits [N, classes]."""

    num_classes: int = 1000
    reduction: int = 0  # ratio r of the gates; 0 = no gates
    gate_bias: bool = True
    batch_norm: BatchNormSettings = BatchNormSettings()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        check_size(images, 11)
        layer = functools.partial(ConvBN, settings=self.batch_norm, dtype=self.dtype)
        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        x = endpoints['conv1'] = layer(64, 7, 2, name='conv1')(x, train)  # [N, H / 2, W / 2, 64]
        x = endpoints['pool1'] = max_pool(x, 3, 2, ceil_mode=True)  # [N, H / 4, W / 4, 64]
        x = layer(64, 1, name='conv2_reduce')(x, train)
        x = endpoints['conv2'] = layer(192, 3, name='conv2')(x, train)
        x = endpoints['pool2'] = max_pool(x, 3, 2, ceil_mode=True)  # [N, H / 8, W / 8, 192]
        for label, row in FIGURE_5.items():  # [N, H / 16, ...] after 3c, [N, H / 32, ...] after 4e
            name = f'inception_{label}'
            x = Inception(row, layer, name=name)(x, train)
            if self.reduction:
                x = SqueezeExcitation(
                    self.reduction, self.gate_bias, self.dtype, name=f'{name}_se'
                )(x)
            endpoints[name] = x
        x = endpoints['pool5'] = global_average_pool(x)  # [N, 1024]
        x = FullyConnected(
            self.num_classes, kernel_init=he_normal, dtype=classifier_dtype(self.dtype), name='fc'
        )(x)
        return x, endpoints


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; [N, H, W, C] -> [N, H', W', maps]."""

    maps: int
    kernel: int
    stride: int = 1
    settings: BatchNormSettings = BatchNormSettings()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.maps, (self.kernel, self.kernel), self.stride, padding=self.kernel // 2,
            use_bias=False, kernel_init=he_normal, dtype=self.dtype, name='conv',
        )(x)  # fmt: skip
        return nn.relu(BatchNorm(self.settings, dtype=self.dtype, name='bn')(x, train))


class Inception(nn.Module):
    """One line of figure 5; `layer` constructs its convolutions."""

    row: tuple[Any, ...]
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        ones, reduce3, three, reduce_double, double, pool, projection = self.row
        stride = 1 if ones else 2
        a = self.layer(reduce3, 1, name='3x3_reduce')(x, train)
        a = self.layer(three, 3, stride, name='3x3')(a, train)
        b = self.layer(reduce_double, 1, name='double3x3_reduce')(x, train)
        b = self.layer(double, 3, name='double3x3a')(b, train)
        b = self.layer(double, 3, stride, name='double3x3b')(b, train)
        if stride == 2:
            height, width = ((length % 2, 1) for length in x.shape[1:3])
            return jnp.concatenate([a, b, max_pool(x, 3, 2, (height, width))], axis=-1)
        c = max_pool(x, 3, 1, 1) if pool == 'max' else avg_pool(x, 3, 1, 1)
        c = self.layer(projection, 1, name='pool_proj')(c, train)
        d = self.layer(ones, 1, name='1x1')(x, train)
        return jnp.concatenate([d, a, b, c], axis=-1)
