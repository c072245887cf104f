"""A. Krizhevsky, I. Sutskever, G. E. Hinton. ImageNet Classification with Deep Convolutional Neural
Networks. NIPS 2012; and A. Krizhevsky. One weird trick for parallelizing convolutional neural
networks. arXiv 1404.5997, 2014.

`two_tower` is section 3.5 and figure 2 of the first paper: conv2, conv4 and conv5 see only the half
of the maps below that lies on their GPU, which is a convolution in two groups.

First-layer map: the paper's 224x224 input does not give 55x55 with an 11x11 window and stride 4.
The author's code rounds the number of windows up, so the last one overhangs the image by 3 pixels;
we pad 3 zeros at the bottom and at the right. At 227x227, Caffe's input, the padding is not reached
and the network is Caffe's. `one_tower` pads 2 on all sides, as torchvision does.

The networks that the first paper compares it with: `without_lrn` (section 3.3), `without_overlap`
(3.4: windows of 2x2), `one_gpu` (3.2: half the kernels in each layer but, by its footnote, the last
convolutional one, and no groups) and `tanh` (3.1, whose figure is of another, smaller network).
`without_3_4` and so on are `two_tower` without those layers, of Zeiler & Fergus 2014, table 2, who
trained each from scratch; the layers that remain are as they were, also their groups.

`one_tower` is torchvision's reading of the second paper, which prints no table of layers: 64, 192,
384, 256, 256 maps, no towers, no response normalisation.

Departures: response normalisation runs over all maps of a layer, as the formula of section 3.3 has
it; the author's two-GPU configuration normalised each tower's maps on their own. torchvision drops
inputs of fc6 and fc7, here their outputs are dropped, as in both papers' configurations (the same
at test time).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError
from cnn_arch.models import cpu
from cnn_arch.models.backward import relu
from cnn_arch.models.layers import (
    SPLIT_UNITS,
    FullyConnected,
    check_size,
    classifier_dtype,
    local_response_normalisation,
    max_pool,
)

OVERHANG = ((0, 3), (0, 3))  # (top, bottom), (left, right)

# Figure 2. Maps, kernel, stride, padding, groups, and what follows convolution and ReLU.
TWO_TOWER = [
    (96, 11, 4, OVERHANG, 1, 'norm pool'),
    (256, 5, 1, 2, 2, 'norm pool'),
    (384, 3, 1, 1, 1, ''),
    (384, 3, 1, 1, 2, ''),
    (256, 3, 1, 1, 2, 'pool'),
]
WITHOUT_LRN = [(*row[:-1], row[-1].replace('norm ', '')) for row in TWO_TOWER]
ONE_GPU = [
    (48, 11, 4, OVERHANG, 1, 'norm pool'),
    (128, 5, 1, 2, 1, 'norm pool'),
    (192, 3, 1, 1, 1, ''),
    (192, 3, 1, 1, 1, ''),
    (256, 3, 1, 1, 1, 'pool'),
]
ONE_TOWER = [
    (64, 11, 4, 2, 1, 'pool'),
    (192, 5, 1, 2, 1, 'pool'),
    (384, 3, 1, 1, 1, ''),
    (256, 3, 1, 1, 1, ''),
    (256, 3, 1, 1, 1, 'pool'),
]
VARIANTS: dict[str, dict[str, Any]] = {
    'two_tower': {'layers': TWO_TOWER, 'minimum': 224},
    'one_tower': {'layers': ONE_TOWER, 'minimum': 223},
    'without_lrn': {'layers': WITHOUT_LRN, 'minimum': 224},
    'without_overlap': {'layers': TWO_TOWER, 'minimum': 196, 'pool_window': 2},
    'one_gpu': {'layers': ONE_GPU, 'minimum': 224},
    'tanh': {'layers': TWO_TOWER, 'minimum': 224, 'activation': 'tanh'},
    'without_3_4': {'layers': TWO_TOWER, 'minimum': 224, 'removed': (3, 4)},
    'without_7': {'layers': TWO_TOWER, 'minimum': 224, 'removed': (7,)},
    'without_6_7': {'layers': TWO_TOWER, 'minimum': 224, 'removed': (6, 7)},
    'without_3_4_6_7': {'layers': TWO_TOWER, 'minimum': 224, 'removed': (3, 4, 6, 7)},
}
ACTIVATIONS = {'relu': relu, 'tanh': nn.tanh}
SHARDING = SPLIT_UNITS
ORDERS = {
    'relu-lrn-pool': ('norm', 'pool'),  # the paper, section 3.5
    'relu-pool-lrn': ('pool', 'norm'),  # CaffeNet
}
BIASED = (2, 4, 5, 6, 7)  # section 5: these layers start with biases of one


class AlexNet(nn.Module):
    """Images [N, 224, 224, 3] -> logits [N, classes]; larger ones with `dense`."""

    layers: Sequence[tuple[Any, ...]]
    minimum: int  # pixels, smallest side that leaves the first fully connected layer its 6x6 map
    num_classes: int = 1000
    fc_units: int = 4096
    dropout: float = 0.5  # on fc6 and fc7
    order: str = 'relu-lrn-pool'
    lrn_k: float = 2.0  # Caffe's weights: 1
    lrn_alpha: float = 1e-4  # Caffe's weights: 2e-5, because Caffe divides its 1e-4 by n = 5
    bias: float = 1.0  # of conv2, conv4, conv5, fc6 and fc7 at the start; Caffe: 0.1
    pool_window: int = 3  # at a stride of 2: overlapping; 2 = not
    activation: str = 'relu'  # or tanh
    removed: Sequence[int] = ()  # layers that are left out, by the paper's numbers
    dense: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        if self.order not in ORDERS:
            raise UserError(f'order = {self.order!r}: choose one of {", ".join(ORDERS)}')
        check_size(images, self.minimum)

        def initialisers(index: int) -> dict[str, Any]:
            """Section 5."""
            bias = self.bias if index in BIASED else 0.0
            return {
                'kernel_init': nn.initializers.normal(0.01),
                'bias_init': nn.initializers.constant(bias),
            }

        activate = ACTIVATIONS[self.activation]
        endpoints: dict[str, Any] = {}
        x = images.astype(self.dtype)
        for index, (maps, kernel, stride, padding, groups, then) in enumerate(self.layers, 1):
            if index in self.removed:
                continue
            x = nn.Conv(
                maps, (kernel, kernel), (stride, stride), padding, feature_group_count=groups,
                dtype=self.dtype, conv_general_dilated=cpu.convolution, name=f'conv{index}',
                **initialisers(index),
            )(x)  # fmt: skip
            x = endpoints[f'conv{index}'] = activate(x)
            for step in ORDERS[self.order]:
                if step == 'norm' and 'norm' in then:
                    x = local_response_normalisation(x, k=self.lrn_k, alpha=self.lrn_alpha)
                    endpoints[f'norm{index}'] = x
                if step == 'pool' and 'pool' in then:
                    x = max_pool(x, self.pool_window, 2)  # section 3.4
                    endpoints[f'pool{index}'] = x

        window = (6, 6)  # of the first of the fully connected layers
        for index in (6, 7):
            if index in self.removed:
                continue
            x = FullyConnected(
                self.fc_units, window, self.dense, dtype=self.dtype, name=f'fc{index}',
                **initialisers(index),
            )(x)  # fmt: skip
            x = endpoints[f'fc{index}'] = activate(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)  # section 4.2
            window = (1, 1)
        x = FullyConnected(
            self.num_classes, window, self.dense, dtype=classifier_dtype(self.dtype), name='fc8',
            **initialisers(8),
        )(x)  # fmt: skip
        return x, endpoints
