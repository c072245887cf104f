"""J. Hu, L. Shen, G. Sun. Squeeze-and-Excitation Networks. CVPR 2018 (arXiv 1709.01507): table 1
and section 3.3; SENet-154 is in the journal version's appendix (TPAMI 2019, arXiv v4).
ResNeXt: S. Xie, R. Girshick, P. Dollar, Z. Tu, K. He. Aggregated Residual Transformations for Deep
Neural Networks. CVPR 2017 (arXiv 1611.05431), table 1 and figure 3(c).

A residual network of bottlenecks whose 3x3 convolution may have groups; before the addition, the
maps of each block are scaled by a squeeze-and-excitation gate (figure 3). Convolutions have no
biases and are followed by batch normalisation. SE-BN-Inception stands in `bn_inception.py`.

The ablations of section 6 and 7.1 of the journal version are `journal-...`: ResNet-50 with gates
without biases, of another ratio, with another squeeze or excitation, in one stage alone, or at
another place (figure 5): before the residual unit, after the addition and its ReLU, on the identity
beside it, or after the 3x3 convolution.

Departures: none. What the papers leave open follows the authors' released models: in Caffe for the
SE networks (first max-pooling without padding, rounded up; the stride in SE-ResNet's first 1x1
convolution but in SE-ResNeXt's and SENet-154's 3x3; biases in the gate, which the journal version
drops: `gate_bias`), in Torch for ResNeXt (padding 1). Initialisation is He et al.'s (section 5),
see `resnet.py`; the gate starts with it too. Not printed, hence our reading: the gate on the
identity follows the projection where there is one; that after the 3x3 convolution follows its
normalisation and ReLU.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_arch.models import cpu
from cnn_arch.models.layers import (
    BatchNorm,
    BatchNormSettings,
    FullyConnected,
    SqueezeExcitation,
    check_size,
    classifier_dtype,
    global_average_pool,
    he_normal,
    max_pool,
)

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # conv2_x .. conv5_x

# The columns of table 1 and their deeper relatives. `width`: maps of conv2_x's 3x3 convolution,
# doubled by each later stage; 32x4d is 32 groups of 4 maps, so 128.
RESNET: dict[str, Any] = {'width': 64, 'groups': 1, 'stride_in': '1x1'}
PLAIN: dict[str, Any] = {**RESNET, 'ceil_mode_pool': True}  # the column "re-implementation"
SE_RESNET: dict[str, Any] = {**PLAIN, 'reduction': 16}
JOURNAL: dict[str, Any] = {'blocks': BLOCKS[50], **SE_RESNET, 'gate_bias': False}
RESNEXT: dict[str, Any] = {'width': 128, 'groups': 32, 'stride_in': '3x3'}
SE_RESNEXT: dict[str, Any] = {**RESNEXT, 'reduction': 16, 'ceil_mode_pool': True}
VARIANTS: dict[str, dict[str, Any]] = {
    'resnet50': {'blocks': BLOCKS[50], **PLAIN},
    'resnet101': {'blocks': BLOCKS[101], **PLAIN},
    'resnet152': {'blocks': BLOCKS[152], **PLAIN},
    'se_resnet50': {'blocks': BLOCKS[50], **SE_RESNET},
    'se_resnet101': {'blocks': BLOCKS[101], **SE_RESNET},
    'se_resnet152': {'blocks': BLOCKS[152], **SE_RESNET},
    'resnext50': {'blocks': BLOCKS[50], **RESNEXT},
    'resnext101': {'blocks': BLOCKS[101], **RESNEXT},
    'resnext101_64x4d': {'blocks': BLOCKS[101], **RESNEXT, 'width': 256, 'groups': 64},
    'se_resnext50': {'blocks': BLOCKS[50], **SE_RESNEXT},
    'se_resnext101': {'blocks': BLOCKS[101], **SE_RESNEXT},
    'senet154': {
        'blocks': BLOCKS[152],
        'width': 256,  # 64x4d
        'groups': 64,
        'stride_in': '3x3',
        'reduction': 16,
        'ceil_mode_pool': True,
        'stem': (64, 64, 128),  # three 3x3 convolutions for one 7x7
        'narrow_first': True,  # half the maps in the first 1x1 of each block
        'projection': 3,  # 3x3 where a stage halves the map
        'dropout': 0.2,  # before the classifier
    },
    'journal-resnet50': {**JOURNAL, 'reduction': 0},
    'journal-se_resnet50': JOURNAL,
    **{f'journal-r{ratio}': {**JOURNAL, 'reduction': ratio} for ratio in (2, 4, 8, 32)},  # table 10
    'journal-max': {**JOURNAL, 'squeeze': 'max'},  # table 11
    'journal-relu': {**JOURNAL, 'excitation': 'relu'},  # table 12
    'journal-tanh': {**JOURNAL, 'excitation': 'tanh'},
    **{f'journal-stage{stage}': {**JOURNAL, 'gated_stages': (stage,)} for stage in (2, 3, 4)},  # 13
    'journal-pre': {**JOURNAL, 'gate_place': 'pre'},  # table 14
    'journal-post': {**JOURNAL, 'gate_place': 'post'},
    'journal-identity': {**JOURNAL, 'gate_place': 'identity'},
    'journal-3x3': {**JOURNAL, 'gate_place': '3x3'},  # table 15
    'journal-no_squeeze': {**JOURNAL, 'squeeze': 'none'},  # table 16
}


class SENet(nn.Module):
    """Images [N, H, W, 3], 5x5 pixels or more, -> logits [N, classes]."""

    blocks: Sequence[int]
    width: int
    groups: int
    stride_in: str  # 1x1 (the first one) or 3x3: which convolution halves the map
    num_classes: int = 1000
    reduction: int = 0  # ratio r of the gate, 16 in table 1; 0 = no gate
    gate_bias: bool = True
    gate_place: str = 'residual'  # as in figure 3; or pre, post, identity, 3x3
    gated_stages: Sequence[int] = (2, 3, 4, 5)
    squeeze: str = 'mean'  # see layers.SqueezeExcitation
    excitation: str = 'sigmoid'
    ceil_mode_pool: bool = False  # first pooling: no padding and rounded up, or padding 1
    stem: Sequence[int] = (64,)  # maps of the first layers: one 7x7 or three 3x3 convolutions
    narrow_first: bool = False
    projection: int = 1
    dropout: float = 0.0
    batch_norm: BatchNormSettings = BatchNormSettings()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        check_size(images, 5)
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype,
            conv_general_dilated=cpu.convolution,
        )  # fmt: skip
        norm = functools.partial(BatchNorm, self.batch_norm, dtype=self.dtype)
        gate = functools.partial(
            SqueezeExcitation, self.reduction, self.gate_bias, self.dtype, self.squeeze,
            self.excitation,
        )  # fmt: skip
        endpoints: dict[str, Any] = {}

        x = images.astype(self.dtype)
        kernel = 7 if len(self.stem) == 1 else 3
        for place, maps in enumerate(self.stem, 1):
            stride = 2 if place == 1 else 1
            name = 'conv1' if len(self.stem) == 1 else f'conv1_{place}'
            x = conv(maps, (kernel, kernel), stride, padding=kernel // 2, name=name)(x)
            x = endpoints[name] = nn.relu(norm(name=name.replace('conv', 'bn'))(x, train))
        x = max_pool(x, 3, 2, 0 if self.ceil_mode_pool else 1, self.ceil_mode_pool)
        endpoints['pool1'] = x  # [N, H / 4, W / 4, C]

        for stage, count in enumerate(self.blocks, 2):
            grouped, out = self.width * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
            gated = self.reduction and stage in self.gated_stages
            for index in range(1, count + 1):
                stride = 2 if index == 1 and stage > 2 else 1
                first, second = (stride, 1) if self.stride_in == '1x1' else (1, stride)
                layers = (
                    (1, grouped // 2 if self.narrow_first else grouped, first, 1),
                    (3, grouped, second, self.groups),
                    (1, out, 1, 1),
                )
                name = f'conv{stage}_{index}'
                x = endpoints[name] = Block(
                    layers, self.projection if stride == 2 else 1, conv, norm,
                    gate if gated else None, self.gate_place, name=name,
                )(x, train)  # fmt: skip  # [N, H / 2^stage, W / 2^stage, out]
        x = endpoints['pool5'] = global_average_pool(x)  # [N, C]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = FullyConnected(
            self.num_classes, kernel_init=he_normal, dtype=classifier_dtype(self.dtype), name='fc'
        )(x)
        return x, endpoints


class Block(nn.Module):
    """Figure 3: ReLU(gate(F(x)) + shortcut), [N, H, W, C] -> [N, H / stride, W / stride, maps].

    `layers`: (kernel, maps, stride, groups) of each convolution; `projection`: kernel of the
    shortcut where the maps grow. `conv`, `norm` and `gate` construct the layers of the network;
    `gate_place` is where the gate stands.
    """

    layers: tuple[tuple[int, int, int, int], ...]
    projection: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    gate: Callable[..., nn.Module] | None
    gate_place: str = 'residual'

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def gated(x: jax.Array, place: str) -> jax.Array:
            if self.gate is None or place != self.gate_place:
                return x
            return self.gate(name='se')(x)

        y = gated(x, 'pre')
        for place, (kernel, maps, stride, groups) in enumerate(self.layers, 1):
            y = self.conv(
                maps, (kernel, kernel), stride, padding=kernel // 2, feature_group_count=groups,
                name=f'conv{place}',
            )(y)  # fmt: skip
            y = self.norm(name=f'bn{place}')(y, train)
            y = nn.relu(y) if place < len(self.layers) else y
            y = gated(y, '3x3') if kernel == 3 else y
        y = gated(y, 'residual')
        if x.shape[-1] != maps:
            stride, kernel = math.prod(layer[2] for layer in self.layers), self.projection
            x = self.conv(maps, (kernel, kernel), stride, padding=kernel // 2, name='projection')(x)
            x = self.norm(name='projection_bn')(x, train)
        return gated(nn.relu(y + gated(x, 'identity')), 'post')
