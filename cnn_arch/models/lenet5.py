"""Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-Based Learning Applied to Document
Recognition. Proceedings of the IEEE 86(11), 1998. Section II-B: LeNet-5, 60,000 parameters.

Every layer up to F6 ends in the squashing function; the output is the squared distance to a fixed
bitmap per class (equation 7), so the smallest wins and the logits are its negative. Losses:
equation 8 (`lenet_mse`) and equation 9 (`lenet_map`).

Departures: none. Of C3's connections the proceedings print 156,000 (345,308 in all); the authors'
preprint has 151,600 = 1,516 x 100, which is what table I gives and what this network has.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_arch.errors import UserError
from cnn_arch.models import backward
from cnn_arch.models.layers import (
    FullyConnected,
    Subsampling,
    TableConv,
    classifier_dtype,
    lecun_uniform,
)

# Table I: which of S2's six maps (lines) feed which of C3's sixteen (columns).
S2_C3 = (
    'X...XXX..XXXX.XX',
    'XX...XXX..XXXX.X',
    'XXX...XXX..X.XXX',
    '.XXX..XXXX..X.XX',
    '..XXX..XXXX.XX.X',
    '...XXX..XXXX.XXX',
)
# Figure 3: the ten digits as bitmaps of 12x7, '#' = +1, '.' = -1; F6's target for each class.
BITMAPS = (
    '.#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.',
    '....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###',
    '..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##',
    '.##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##',
    '##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###',
    '##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######',
    '##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##',
    '##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##',
    '.##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.',
    '..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..',
    '....... ....... ....... ....... .....## ....... ....... ....... ....... .......',
    '....... ....... ....... ....... .....## ....... ....... ....... ....... .......',
)
RBF = np.array(  # [classes, 84], row by row
    [
        [1.0 if mark == '#' else -1.0 for row in BITMAPS for mark in row.split()[digit]]
        for digit in range(10)
    ],
    np.float32,
)
VARIANTS: dict[str, dict[str, Any]] = {'LeNet-5': {'c3_table': S2_C3}}


class LeNet5(nn.Module):
    """Images [N, 28, 28, 1] or [N, 32, 32, 1], background -0.1, ink 1.175 -> logits [N, 10].

    Raises UserError for images of another size or another number of classes.
    """

    c3_table: tuple[str, ...]
    background: float = -0.1  # of the frame around an image of 28x28
    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        if images.shape[1:] not in ((28, 28, 1), (32, 32, 1)):
            raise UserError(
                f'LeNet-5 takes 28x28 or 32x32 grey images, not {images.shape[1:]}: set '
                'data.augment.size = 28 and data.channels = 1'
            )
        if self.num_classes != len(RBF):
            raise UserError(
                f'model.num_classes = {self.num_classes}: LeNet-5 has bitmaps for {len(RBF)} digits'
            )
        frame = (32 - images.shape[1]) // 2
        pads = ((0, 0), (frame, frame), (frame, frame), (0, 0))
        x = jnp.pad(images, pads, constant_values=self.background)  # [N, 32, 32, 1]
        endpoints: dict[str, Any] = {'input': x}
        layers = {
            'C1': nn.Conv(
                6, (5, 5), padding='VALID', kernel_init=lecun_uniform(25),
                bias_init=lecun_uniform(25), dtype=self.dtype, name='C1',
            ),  # [N, 28, 28, 6]
            'S2': Subsampling(dtype=self.dtype, name='S2'),  # [N, 14, 14, 6]
            'C3': TableConv(self.c3_table, dtype=self.dtype, name='C3'),  # [N, 10, 10, 16]
            'S4': Subsampling(dtype=self.dtype, name='S4'),  # [N, 5, 5, 16]
            'C5': FullyConnected(
                120, (5, 5), kernel_init=lecun_uniform(400), bias_init=lecun_uniform(400),
                dtype=self.dtype, name='C5',
            ),  # [N, 120]
            'F6': FullyConnected(
                84, kernel_init=lecun_uniform(120), bias_init=lecun_uniform(120),
                dtype=self.dtype, name='F6',
            ),  # [N, 84]
        }  # fmt: skip
        for name, layer in layers.items():
            x = endpoints[name] = backward.scaled_tanh(layer(x))
        x = x.astype(classifier_dtype(self.dtype))
        penalties = jnp.square(x[:, None] - RBF).sum(axis=2)  # equation 7
        endpoints['output'] = penalties
        return -penalties, endpoints
