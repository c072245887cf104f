"""M. D. Zeiler, R. Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014
(arXiv 1311.2901).

`a` is figure 3; `b` has 512, 1024, 512 maps in layers 3, 4 and 5 (table 1, row b). Every pooling is
followed by contrast normalisation across maps, where AlexNet normalises before it pools. The
deconvnet of section 2.1 is cnn_arch/deconvnet; the switches it goes back by are those of
`layers.max_pool_with_switches(endpoints['conv1'], **POOL)`, likewise conv2 and conv5.

Figure 3's map sizes (110, 55, 26, 13, 6) from 224x224 need one pixel of padding before conv1, none
before conv2, and a number of pooling windows that is rounded up (the windows' overhang never wins).

Departures: the paper prints no constants for the contrast normalisation; they are Krizhevsky's, to
whom it refers. "All weights are initialized to 10^-2" (section 3) would make all maps of a layer
equal for ever: we draw from a normal distribution with that standard deviation, as Krizhevsky did.
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

# Figure 3. Maps, kernel, stride, padding, and what follows convolution and ReLU.
FIGURE_3 = [
    (96, 7, 2, 1, 'pool norm'),  # 110 -> 55
    (256, 5, 2, 0, 'pool norm'),  # 26 -> 13
    (384, 3, 1, 1, ''),
    (384, 3, 1, 1, ''),
    (256, 3, 1, 1, 'pool'),  # 13 -> 6
]
WIDE = [
    *FIGURE_3[:2],
    (512, 3, 1, 1, ''),
    (1024, 3, 1, 1, ''),
    (512, 3, 1, 1, 'pool'),
]
VARIANTS: dict[str, dict[str, Any]] = {'a': {'layers': FIGURE_3}, 'b': {'layers': WIDE}}
SHARDING = SPLIT_UNITS
POOL: dict[str, Any] = {'window': 3, 'stride': 2, 'ceil_mode': True}
MINIMUM = 207  # pixels, smallest side that leaves fc6 its 6x6 map


class ZFNet(nn.Module):
    """Images [N, 224, 224, 3] -> logits [N, classes]; larger ones with `dense`."""

    layers: Sequence[tuple[Any, ...]]
    num_classes: int = 1000
    fc_units: int = 4096
    dropout: float = 0.5  # on fc6 and fc7
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    dense: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        check_size(images, MINIMUM)
        init = nn.initializers.normal(0.01)
        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        for index, (maps, kernel, stride, padding, then) in enumerate(self.layers, 1):
            x = nn.Conv(
                maps, (kernel, kernel), (stride, stride), padding, kernel_init=init,
                dtype=self.dtype, name=f'conv{index}',
            )(x)  # fmt: skip
            x = endpoints[f'conv{index}'] = relu(x)
            if 'pool' in then:
                x = endpoints[f'pool{index}'] = max_pool(x, **POOL)
            if 'norm' in then:
                x = local_response_normalisation(x, k=self.lrn_k, alpha=self.lrn_alpha)
                endpoints[f'norm{index}'] = x

        for index, window in ((6, (6, 6)), (7, (1, 1))):
            x = FullyConnected(
                self.fc_units, window, self.dense, kernel_init=init, dtype=self.dtype,
                name=f'fc{index}',
            )(x)  # fmt: skip
            x = endpoints[f'fc{index}'] = relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(
            self.num_classes, (1, 1), self.dense, kernel_init=init,
            dtype=classifier_dtype(self.dtype), name='fc8',
        )(x)  # fmt: skip
        return x, endpoints
