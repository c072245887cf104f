"""K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016
(arXiv 1512.03385): table 1, sections 3.3 and 4.2 and figure 5. With `preactivation`, the same
authors' Identity Mappings in Deep Residual Networks. ECCV 2016 (arXiv 1603.05027; "2016b" below).

Each convolution is followed by batch normalisation and ReLU, the last of a block by batch
normalisation, the addition of the shortcut and ReLU. Convolutions have no biases. A stage halves
the map in its first block: in a bottleneck by its first 1x1 convolution (the authors' released
models), or by its 3x3 ("v1.5", as torchvision's).

Pre-activation as in 2016b: batch normalisation and ReLU stand before each convolution, and nothing
after the addition. The first activation follows conv1, so the first block has none of its own; one
more follows the last block (2016b, appendix). Where the maps grow, the projection reads the
activation and is not normalised. 2016b does not say which convolution of a bottleneck has the
stride: the 3x3 here, as in the Torch code of its ResNet-200.

The networks for CIFAR (section 4.2) have 6n + 2 layers: a 3x3 convolution to 16 maps in place of
conv1 and pool1, then three stages of n blocks.

Keras' ResNet50V2, 101V2 and 152V2 (`-keras`) have the same blocks, except: a stage halves the map
in its last block, by the 3x3 and by subsampling the identity; conv1 is pooled without an
activation, over zeros in the padding; the first block has an activation of its own; conv1, the last
convolution of each block and the projections have biases.

Departures: none. What the paper leaves open: max-pooling has padding 1 (Torch, Keras); the authors'
Caffe models have none and round up (`ceil_mode_pool`). Initialisation is normal with variance
2 / fan-in, equation 10 of He et al. 2015, which is Caffe's; its equation 14 (fan-out, Torch's) is
said to do as well. Labels 18 and 34 are option B, as in table 4; table 2 has option A. Option A's
zeros stand after the maps that there are (as in Torch's fb.resnet.torch), or `around` them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.errors import UserError
from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    at_least_float32,
    avg_pool,
    check_size,
    classifier_dtype,
    global_average_pool,
    he_normal,
    max_pool,
)

# Table 1: blocks in conv2_x, conv3_x, conv4_x and conv5_x; a block is two 3x3 convolutions or a
# bottleneck of 1x1, 3x3 and 1x1, the last with four times the maps.
TABLE_1: dict[int, dict[str, Any]] = {
    18: {'blocks': (2, 2, 2, 2), 'bottleneck': False},
    34: {'blocks': (3, 4, 6, 3), 'bottleneck': False},
    50: {'blocks': (3, 4, 6, 3), 'bottleneck': True},
    101: {'blocks': (3, 4, 23, 3), 'bottleneck': True},
    152: {'blocks': (3, 8, 36, 3), 'bottleneck': True},
}
WIDTHS = (64, 128, 256, 512)  # maps of the 3x3 convolutions in conv2_x .. conv5_x
BLOCKS_200 = (3, 24, 36, 3)  # 2016b, section 4: conv3_x has sixteen blocks more than in 152
# Section 4.2: maps of conv2_x (32x32 places), conv3_x (16x16) and conv4_x (8x8), 2n layers each.
CIFAR_WIDTHS = (16, 32, 64)
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)  # table 6
CIFAR_PLAIN_DEPTHS = (20, 32, 44, 56)  # figure 6, left


def _cifar(depth: int, shortcut: str) -> dict[str, Any]:
    blocks = ((depth - 2) // 6,) * 3
    return {'blocks': blocks, 'bottleneck': False, 'shortcut': shortcut, 'widths': CIFAR_WIDTHS,
            'large_images': False}  # fmt: skip


V2 = {'stride_in': '3x3', 'preactivation': 'paper'}
V2_KERAS = {'stride_in': '3x3', 'preactivation': 'keras'}
VARIANTS: dict[str, dict[str, Any]] = {
    'plain18': {**TABLE_1[18], 'shortcut': 'none'},
    'plain34': {**TABLE_1[34], 'shortcut': 'none'},
    '18': TABLE_1[18],
    '34': TABLE_1[34],
    '50': TABLE_1[50],
    '101': TABLE_1[101],
    '152': TABLE_1[152],
    '18-A': {**TABLE_1[18], 'shortcut': 'A'},
    '18-B': {**TABLE_1[18], 'shortcut': 'B'},
    '18-C': {**TABLE_1[18], 'shortcut': 'C'},
    '34-A': {**TABLE_1[34], 'shortcut': 'A'},
    '34-B': {**TABLE_1[34], 'shortcut': 'B'},
    '34-C': {**TABLE_1[34], 'shortcut': 'C'},
    '50-v1_5': {**TABLE_1[50], 'stride_in': '3x3'},
    '101-v1_5': {**TABLE_1[101], 'stride_in': '3x3'},
    '152-v1_5': {**TABLE_1[152], 'stride_in': '3x3'},
    '50-v2': {**TABLE_1[50], **V2},
    '101-v2': {**TABLE_1[101], **V2},
    '152-v2': {**TABLE_1[152], **V2},
    '200-v2': {**TABLE_1[152], **V2, 'blocks': BLOCKS_200},
    '50-v2-keras': {**TABLE_1[50], **V2_KERAS},
    '101-v2-keras': {**TABLE_1[101], **V2_KERAS},
    '152-v2-keras': {**TABLE_1[152], **V2_KERAS},
    **{f'cifar-{depth}': _cifar(depth, 'A') for depth in CIFAR_DEPTHS},
    **{f'cifar-plain-{depth}': _cifar(depth, 'none') for depth in CIFAR_PLAIN_DEPTHS},
}


class ResNet(nn.Module):
    """Images [N, H, W, 3] of any size (5x5 or more with `ceil_mode_pool`) -> logits [N, classes].

    At sizes other than 224 this is the fully convolutional form of section 3.4: the classifier is
    linear, so its scores averaged over places are its scores of the averaged maps. With `sliding`
    the last pooling is 7x7 places at any size, in steps of one, and the logits are a map [N, h, w,
    classes]: the other reading of that section. Raises UserError where the map is smaller.
    """

    blocks: Sequence[int]
    bottleneck: bool
    num_classes: int = 1000
    widths: Sequence[int] = WIDTHS
    large_images: bool = True  # False: without the two reductions before conv2_x (section 4.2)
    shortcut: str = 'B'  # A, B (section 3.3), C (section 4.1), or none: a plain network
    shortcut_zeros: str = 'after'  # option A's, or around
    stride_in: str = '1x1'  # or 3x3: the convolution of a bottleneck that halves the map
    preactivation: str = 'none'  # paper (2016b) or keras
    ceil_mode_pool: bool = False
    zero_init_last: bool = False  # a block's last scale starts at 0 (Goyal et al. 2017, 5.1)
    batch_norm: BatchNormSettings = BatchNormSettings()
    sliding: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        check_size(images, 5 if self.ceil_mode_pool else 1)
        if self.zero_init_last and (self.shortcut == 'none' or self.preactivation != 'none'):
            raise UserError(
                'model.options.zero_init_last: a plain network cannot learn from scales of zero, '
                'and a pre-activation block has no last scale; set it to False'
            )
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = functools.partial(BatchNorm, self.batch_norm, dtype=self.dtype)
        keras = self.preactivation == 'keras'
        endpoints: dict[str, Any] = {}

        x = images.astype(self.dtype)
        if self.large_images:
            # [N, H / 2, W / 2, 64]
            x = conv(64, (7, 7), 2, padding=3, use_bias=keras, name='conv1')(x)
        else:
            x = conv(self.widths[0], (3, 3), padding=1, name='conv1')(x)  # [N, H, W, 16]
        if keras:
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros may win against x < 0
        else:
            x = endpoints['conv1'] = nn.relu(norm(name='bn1')(x, train))
        if self.large_images:
            padding = 0 if keras or self.ceil_mode_pool else 1
            x = max_pool(x, 3, 2, padding, self.ceil_mode_pool)
            endpoints['pool1'] = x  # [N, H / 4, W / 4, 64]

        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), 2):
            for index in range(1, count + 1):
                if keras:
                    stride = 2 if index == count and stage < 5 else 1
                else:
                    stride = 2 if index == 1 and stage > 2 else 1
                layers = _layers(width, stride, self.bottleneck, self.stride_in)
                name = f'conv{stage}_{index}'
                block: Block | PreactivationBlock
                if self.preactivation == 'none':
                    scale_init = nn.initializers.constant(0.0 if self.zero_init_last else 1.0)
                    block = Block(
                        layers, self.shortcut, self.shortcut_zeros, conv, norm, scale_init,
                        name=name,
                    )  # fmt: skip
                else:
                    first = stage == 2 and index == 1 and not keras
                    block = PreactivationBlock(layers, conv, norm, first, keras, name=name)
                # [N, H / 2^stage, W / 2^stage, C], for CIFAR [N, H / 2^(stage - 2), ...]
                x = endpoints[name] = block(x, train)
        if self.preactivation != 'none':
            x = nn.relu(norm(name='bn5')(x, train))
        if self.sliding:
            x = avg_pool(at_least_float32(x), 7, 1).astype(self.dtype)
        else:
            x = global_average_pool(x)
        endpoints['pool5'] = x  # [N, C], or [N, h, w, C] with `sliding`
        x = FullyConnected(
            self.num_classes, dense=self.sliding, kernel_init=he_normal,
            dtype=classifier_dtype(self.dtype), name='fc',
        )(x)  # fmt: skip
        return x, endpoints


Layers = tuple[tuple[int, int, int], ...]  # of a block, each (kernel, maps, stride)


def _layers(width: int, stride: int, bottleneck: bool, stride_in: str) -> Layers:
    if not bottleneck:
        return ((3, width, stride), (3, width, 1))
    first, second = (stride, 1) if stride_in == '1x1' else (1, stride)
    return ((1, width, first), (3, width, second), (1, 4 * width, 1))


class Block(nn.Module):
    """Figure 5: ReLU(F(x) + shortcut(x)), [N, H, W, C] -> [N, H / stride, W / stride, maps].

    Here and below `conv` and `norm` construct the layers of the network.
    """

    layers: Layers
    shortcut: str
    shortcut_zeros: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    last_scale_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        for place, (kernel, maps, stride) in enumerate(self.layers, 1):
            size = (kernel, kernel)
            y = self.conv(maps, size, stride, padding=kernel // 2, name=f'conv{place}')(y)
            if place < len(self.layers):
                y = nn.relu(self.norm(name=f'bn{place}')(y, train))
            else:
                y = self.norm(scale_init=self.last_scale_init, name=f'bn{place}')(y, train)
        if self.shortcut == 'none':
            return nn.relu(y)

        stride = math.prod(stride for _, _, stride in self.layers)
        if self.shortcut == 'C' or (self.shortcut == 'B' and x.shape[-1] != maps):
            x = self.conv(maps, (1, 1), stride, name='projection')(x)
            x = self.norm(name='projection_bn')(x, train)
        else:  # the identity: every second place, zeros in the maps that are new (option A)
            x = max_pool(x, 1, stride) if stride > 1 else x
            new = maps - x.shape[-1]
            before = new // 2 if self.shortcut_zeros == 'around' else 0
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, new - before)))
        return nn.relu(y + x)


class PreactivationBlock(nn.Module):
    """2016b, figure 1(b): F(ReLU(BN(x))) + shortcut, shapes as above.

    The `first` block reads an activation already. `biases`: Keras' form, see above.
    """

    layers: Layers
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    first: bool
    biases: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activation = x if self.first else nn.relu(self.norm(name='bn1')(x, train))
        y = activation
        for place, (kernel, maps, stride) in enumerate(self.layers, 1):
            if place > 1:
                y = nn.relu(self.norm(name=f'bn{place}')(y, train))
            y = self.conv(
                maps, (kernel, kernel), stride, padding=kernel // 2,
                use_bias=self.biases and place == len(self.layers), name=f'conv{place}',
            )(y)  # fmt: skip

        stride = math.prod(stride for _, _, stride in self.layers)
        if x.shape[-1] != maps:
            x = self.conv(maps, (1, 1), stride, use_bias=self.biases, name='projection')(activation)
        elif stride > 1:
            x = max_pool(x, 1, stride)  # every second place
        return y + x
