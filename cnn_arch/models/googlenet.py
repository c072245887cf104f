"""C. Szegedy et al. Going Deeper with Convolutions. CVPR 2015 (arXiv 1409.4842).

Table 1 and figure 3; `naive` builds every inception module as figure 2(a) has it, without the 1x1
reductions, so that the maps pile up from module to module. Max-pooling rounds the number of windows
up, which gives table 1's sizes: 112, 56, 28, 14, 7.

Options: `auxiliary` (figure 3's two side classifiers: they have parameters always, logits in
training only), `batch_norm` (off: the paper came before it; on, it follows every convolution in
place of the bias and replaces response normalisation, as in Ioffe & Szegedy 2015).

Departures: the paper prints neither the constants of the response normalisation (ours are
Krizhevsky's; `lrn_k=1, lrn_alpha=2e-5` are Caffe's) nor an initialisation: ours is that of the
public replication in Caffe, uniform with variance 1 / fan-in, biases 0.2, 0 for what feeds a
softmax. The average before the last layer is over the whole map, 7x7 at 224x224 as in the paper.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.models.backward import relu
from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    avg_pool,
    check_size,
    classifier_dtype,
    global_average_pool,
    local_response_normalisation,
    max_pool,
)

# Table 1 from its fifth row on; the four rows above it are the stem, in `GoogLeNet`.
# name             #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
TABLE_1: list[tuple[Any, ...]] = [
    ('inception_3a', 64, 96, 128, 16, 32, 32),
    ('inception_3b', 128, 128, 192, 32, 96, 64),
    ('pool3',),
    ('inception_4a', 192, 96, 208, 16, 48, 64),
    ('inception_4b', 160, 112, 224, 24, 64, 64),
    ('inception_4c', 128, 128, 256, 24, 64, 64),
    ('inception_4d', 112, 144, 288, 32, 64, 64),
    ('inception_4e', 256, 160, 320, 32, 128, 128),
    ('pool4',),
    ('inception_5a', 256, 160, 320, 32, 128, 128),
    ('inception_5b', 384, 192, 384, 48, 128, 128),
]
HEADS = {'inception_4a': 'loss1', 'inception_4d': 'loss2'}  # figure 3
VARIANTS: dict[str, dict[str, Any]] = {
    'googlenet': {'naive': False, 'batch_norm': None},
    'naive': {'naive': True, 'batch_norm': None},
}
MINIMUM = 47  # pixels, smallest side on which every 3x3 pooling window fits

KERNEL_INIT = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')
BIAS_INIT = nn.initializers.constant(0.2)
Conv = Callable[..., jax.Array]


def convolution(
    x: jax.Array,
    maps: int,
    kernel: int,
    stride: int = 1,
    *,
    name: str,
    batch_norm: BatchNormSettings | None,
    train: bool,
    dtype: Any,
) -> jax.Array:
    """A convolution padded to keep the size (over the stride), ReLU, [N, H, W, C] -> [.., maps]."""
    x = nn.Conv(
        maps, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=batch_norm is None,
        kernel_init=KERNEL_INIT, bias_init=BIAS_INIT, dtype=dtype, name=name,
    )(x)  # fmt: skip
    if batch_norm is not None:
        x = BatchNorm(batch_norm, dtype=dtype, name=f'{name}_bn')(x, train)
    return relu(x)


class Inception(nn.Module):
    """Figure 2(b), or 2(a) if `naive`; the four branches are concatenated in the figure's order."""

    row: tuple[int, ...]
    naive: bool
    conv: Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n_1x1, n_3x3_reduce, n_3x3, n_5x5_reduce, n_5x5, n_pool_proj = self.row
        pool = max_pool(x, 3, 1, padding=1)
        if self.naive:
            branches = [
                self.conv(x, n_1x1, 1, name='1x1'),
                self.conv(x, n_3x3, 3, name='3x3'),
                self.conv(x, n_5x5, 5, name='5x5'),
                pool,
            ]
        else:
            branches = [
                self.conv(x, n_1x1, 1, name='1x1'),
                self.conv(self.conv(x, n_3x3_reduce, 1, name='3x3_reduce'), n_3x3, 3, name='3x3'),
                self.conv(self.conv(x, n_5x5_reduce, 1, name='5x5_reduce'), n_5x5, 5, name='5x5'),
                self.conv(pool, n_pool_proj, 1, name='pool_proj'),
            ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryClassifier(nn.Module):
    """Section 5: [N, 14, 14, C] -> logits float32 [N, classes]."""

    num_classes: int
    dropout: float
    conv: Conv
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = avg_pool(x, 5, 3)  # [N, 4, 4, C]
        x = self.conv(x, 128, 1, name='conv')
        x = FullyConnected(
            1024, (4, 4), kernel_init=KERNEL_INIT, bias_init=BIAS_INIT, dtype=self.dtype, name='fc'
        )(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(relu(x))
        return FullyConnected(
            self.num_classes, kernel_init=KERNEL_INIT, dtype=classifier_dtype(self.dtype),
            name='linear',
        )(x)  # fmt: skip


class GoogLeNet(nn.Module):
    """Images [N, H, W, 3] of 47x47 or more -> logits [N, classes].

    Endpoints of a call in training hold the auxiliary logits [N, classes] as `loss1` and `loss2`;
    they take images of 224x224. With `auxiliary` their parameters are created by every `init` and
    ignored outside training.
    """

    naive: bool = False
    num_classes: int = 1000
    auxiliary: bool = True
    dropout: float = 0.4
    auxiliary_dropout: float = 0.7
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    batch_norm: BatchNormSettings | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        check_size(images, MINIMUM)
        conv = functools.partial(
            convolution, batch_norm=self.batch_norm, train=train, dtype=self.dtype
        )
        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)

        x = endpoints['conv1'] = conv(x, 64, 7, 2, name='conv1')  # [N, 112, 112, 64]
        x = endpoints['pool1'] = max_pool(x, 3, 2, ceil_mode=True)  # [N, 56, 56, 64]
        x = self._normalise(x, endpoints, 'norm1')
        x = endpoints['conv2_reduce'] = conv(x, 64, 1, name='conv2_reduce')
        x = endpoints['conv2'] = conv(x, 192, 3, name='conv2')  # [N, 56, 56, 192]
        x = self._normalise(x, endpoints, 'norm2')
        x = endpoints['pool2'] = max_pool(x, 3, 2, ceil_mode=True)  # [N, 28, 28, 192]

        for name, *row in TABLE_1:
            if not row:
                x = endpoints[name] = max_pool(x, 3, 2, ceil_mode=True)
                continue
            x = endpoints[name] = Inception(tuple(row), self.naive, conv, name=name)(x)
            if self.auxiliary and name in HEADS:
                head = AuxiliaryClassifier(
                    self.num_classes, self.auxiliary_dropout, conv, self.dtype, name=HEADS[name]
                )
                if train:
                    endpoints[HEADS[name]] = head(x, train)
                elif self.is_initializing():
                    # Parameters for training, whatever the size of the images given now.
                    head(jnp.zeros((1, 14, 14, x.shape[-1]), x.dtype), train)

        x = endpoints['pool5'] = global_average_pool(x)  # [N, 1024]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(
            self.num_classes, kernel_init=KERNEL_INIT, dtype=classifier_dtype(self.dtype),
            name='linear',
        )(x)  # fmt: skip
        return x, endpoints

    def _normalise(self, x: jax.Array, endpoints: dict[str, Any], name: str) -> jax.Array:
        if self.batch_norm is not None:
            return x
        endpoints[name] = local_response_normalisation(x, k=self.lrn_k, alpha=self.lrn_alpha)
        return endpoints[name]
