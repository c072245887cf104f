"""What two or more of the papers share: pooling, normalisation, fully connected layers.

All spatial reductions of all models go through `max_pool`, `avg_pool` and `global_average_pool`,
so that an evaluation of images padded to a common size can find them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_arch.errors import UserError
from cnn_arch.models import backward, cpu

Pad = int | tuple[tuple[int, int], tuple[int, int]]


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, for sums that half precision would spoil; float64 stays what it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pads(
    size: tuple[int, ...], window: int, stride: int, padding: Pad, ceil_mode: bool
) -> tuple[tuple[int, int], ...]:
    """Padding ((top, bottom), (left, right)), enlarged at the end to reach ceil-mode's size."""
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else [tuple(p) for p in padding]
    result = []
    for length, (before, after) in zip(size, pads, strict=True):
        span = length + before + after - window
        if span < 0:
            raise UserError(
                f'pooling window of {window} on a map of {size[0]}x{size[1]}: the input image is '
                'too small for this network'
            )
        if ceil_mode:
            steps = -(-span // stride)
            # A window that would start in the padding behind the image is dropped (Caffe, PyTorch).
            if steps * stride >= length + before:
                steps -= 1
            after += max(0, steps * stride - span)
        result.append((before, after))
    return tuple(result)


def check_size(images: jax.Array, minimum: int) -> None:
    """Raises UserError, with the smallest size, for images [N, H, W, C] smaller than `minimum`."""
    height, width = images.shape[1:3]
    if min(height, width) < minimum:
        raise UserError(
            f'images of {height}x{width}: this network takes {minimum}x{minimum} pixels or more'
        )


def max_pool(
    x: jax.Array, window: int, stride: int, padding: Pad = 0, ceil_mode: bool = False
) -> jax.Array:
    """Maximum over `window` x `window` places, [N, H, W, C] -> [N, H', W', C].

    H' = floor((H + pads - window) / stride) + 1, or the ceiling with `ceil_mode`. Padding never
    wins: it counts as minus infinity. Raises UserError where the window does not fit.
    """
    pads = _pads(x.shape[1:3], window, stride, padding, ceil_mode)
    return cpu.max_pool(x, window, stride, pads)


def max_pool_with_switches(
    x: jax.Array, window: int, stride: int, padding: Pad = 0, ceil_mode: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`max_pool` and its switches, int32 [N, H', W', C]: where each maximum came from.

    A switch is the flat index h * W + w of the winning place of the map before pooling (Zeiler &
    Fergus 2014, section 2.1). Of equal maxima the first in row-major order wins.
    """
    pads = _pads(x.shape[1:3], window, stride, padding, ceil_mode)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((length - window) // stride + 1 for length in padded.shape[1:3])
    tops = stride * jnp.arange(rows) - pads[0][0]
    lefts = stride * jnp.arange(columns) - pads[1][0]
    best = jnp.full((x.shape[0], rows, columns, x.shape[3]), -jnp.inf, x.dtype)
    switches = jnp.zeros(best.shape, jnp.int32)
    for dy in range(window):
        for dx in range(window):
            ends = dy + stride * (rows - 1) + 1, dx + stride * (columns - 1) + 1
            values = padded[:, dy : ends[0] : stride, dx : ends[1] : stride]
            place = (tops + dy)[:, None] * x.shape[2] + (lefts + dx)  # [H', W']
            wins = values > best
            best = jnp.where(wins, values, best)
            switches = jnp.where(wins, place[None, :, :, None], switches)
    return best, switches


@functools.partial(jax.jit, static_argnames=('window', 'stride', 'padding', 'count_padding'))
def avg_pool(
    x: jax.Array, window: int, stride: int, padding: Pad = 0, count_padding: bool = True
) -> jax.Array:
    """Mean over `window` x `window` places, [N, H, W, C] -> [N, H', W', C], rounded down.

    With `count_padding` the zeros of the padding belong to the mean, else they do not.
    """
    pads = _pads(x.shape[1:3], window, stride, padding, ceil_mode=False)
    return nn.avg_pool(x, (window, window), (stride, stride), pads, count_include_pad=count_padding)


@jax.jit
def global_average_pool(x: jax.Array) -> jax.Array:
    """Mean over all places, at least in float32, [N, H, W, C] -> [N, C] of x's dtype."""
    return at_least_float32(x).mean(axis=(1, 2)).astype(x.dtype)


def local_response_normalisation(
    x: jax.Array, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """b_i = a_i / (k + alpha * sum of a_j^2 over the n maps j around i)^beta, [N, H, W, C].

    Krizhevsky et al. 2012, section 3.3, with the paper's constants. Alpha is not divided by n:
    Caffe's `local_size: 5, alpha: 1e-4` means alpha = 2e-5 here, and its k is 1.
    """

    def normalise(x: jax.Array) -> jax.Array:
        squares = jnp.square(at_least_float32(x))
        before = n // 2
        pads = ((0, 0), (0, 0), (0, 0), (before, n - 1 - before))
        total = jax.lax.reduce_window(squares, 0.0, jax.lax.add, (1, 1, 1, n), (1, 1, 1, 1), pads)
        return (x * (k + alpha * total) ** -beta).astype(x.dtype)

    return backward.contrast_normalisation(normalise, x)


# Normal with variance 2 / fan-in: He et al. 2015 (Delving Deep into Rectifiers), equation 10.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


@dataclasses.dataclass(frozen=True)
class BatchNormSettings:
    """`config.model.batch_norm`: images per group of statistics, running-mean momentum, epsilon.

    These values are the configs' too, unless a family's file has its own.
    `frozen`: training, too, normalises with the running statistics and leaves them alone.
    """

    group_size: int = 32
    momentum: float = 0.9
    epsilon: float = 1e-5
    frozen: bool = False


class BatchNorm(nn.Module):
    """Batch normalisation over groups of `group_size` images (Ioffe & Szegedy 2015).

    Statistics are taken over consecutive groups of the global batch, so they do not depend on how
    many devices it lies on; a batch smaller than a group is one group. Moments are in float32, of
    float64 in float64. Running statistics are the mean over groups of the groups' mean and unbiased
    variance (the paper's algorithm 2), decayed with `momentum`. Raises UserError when the groups do
    not divide the batch.
    """

    settings: BatchNormSettings = BatchNormSettings()
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # [N, H, W, C]
        channels = x.shape[-1]
        scale = self.param('scale', self.scale_init, (channels,))
        bias = self.param('bias', nn.initializers.zeros, (channels,))
        mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,))
        var = self.variable('batch_stats', 'var', jnp.ones, (channels,))
        if not train or self.settings.frozen:
            factor = scale * jax.lax.rsqrt(var.value + self.settings.epsilon)
            return (x * factor + (bias - mean.value * factor)).astype(self.dtype)

        size = min(self.settings.group_size, x.shape[0])
        if x.shape[0] % size:
            raise UserError(
                f'batch of {x.shape[0]} images in batch normalisation groups of {size}: choose '
                'train.batch_size a multiple of model.batch_norm.group_size'
            )

        def group_mean(per_image: jax.Array) -> jax.Array:  # [N, C] -> [N, 1, 1, C], one per group
            mean = per_image.reshape(-1, size, channels).mean(axis=1, keepdims=True)
            return jnp.broadcast_to(mean, (len(mean), size, channels)).reshape(-1, 1, 1, channels)

        # First over each image, then over groups: however groups lie on devices, [N, C] statistics
        # travel between them and maps do not.
        means = at_least_float32(x).mean(axis=(1, 2))
        centred = at_least_float32(x) - group_mean(means)
        variances = jnp.square(centred).mean(axis=(1, 2))  # around the group's mean
        if not self.is_initializing():
            count = size * x.shape[1] * x.shape[2]
            keep = self.settings.momentum
            unbiased = variances.mean(axis=0) * (count / max(count - 1, 1))
            mean.value = keep * mean.value + (1 - keep) * means.mean(axis=0)
            var.value = keep * var.value + (1 - keep) * unbiased
        normal = centred * jax.lax.rsqrt(group_mean(variances) + self.settings.epsilon)
        return (normal * scale + bias).astype(self.dtype)


SQUEEZES: dict[str, Callable[[jax.Array], jax.Array]] = {
    'mean': global_average_pool,
    'max': lambda x: x.max(axis=(1, 2)),  # of padded images, too, it can be found
    'none': lambda x: x,
}
EXCITATIONS = {'sigmoid': nn.sigmoid, 'relu': nn.relu, 'tanh': nn.tanh}


class SqueezeExcitation(nn.Module):
    """Scales each map by a gate that reads all maps (Hu et al. 2018, section 3), [N, H, W, C].

    Squeeze: the mean over places; excitation: C / reduction units with ReLU, then C with sigmoid.
    The journal version compares the maximum and no squeeze, in which each place has a gate of its
    own (section 7.1), and ReLU and tanh. Raises UserError for a reduction to nothing.
    """

    reduction: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    squeeze: str = 'mean'  # a key of SQUEEZES
    excitation: str = 'sigmoid'  # a key of EXCITATIONS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if not 1 <= self.reduction <= channels:
            raise UserError(
                f'model.options.reduction = {self.reduction}: it must be at most {channels}, the '
                'maps of the first gate; 0 = no gates'
            )
        layer = functools.partial(
            nn.Dense, use_bias=self.use_bias, kernel_init=he_normal, dtype=self.dtype
        )
        gate = SQUEEZES[self.squeeze](x)
        gate = nn.relu(layer(channels // self.reduction, name='down')(gate))
        gate = EXCITATIONS[self.excitation](layer(channels, name='up')(gate))
        return x * (gate if self.squeeze == 'none' else gate[:, None, None, :])


# Krizhevsky 2014, section 4, for fc6, fc7 and fc8: the mesh axis along each dimension. A device has
# some of the units of fc6 and fc7, and of fc8 the weights of its units of fc7: the classes, whose
# number need not divide, are added up.
SPLIT_UNITS = {
    'fc6/kernel': (None, 'model'),
    'fc6/bias': ('model',),
    'fc7/kernel': (None, 'model'),
    'fc7/bias': ('model',),
    'fc8/kernel': ('model', None),
}


def classifier_dtype(dtype: Any) -> Any:
    """The dtype of a classifier in a network that computes in `dtype`.

    Scores rounded to bfloat16 would tie in about one image of a hundred; the classifier reads few
    numbers, so that in float32 it costs next to nothing.
    """
    return jnp.promote_types(dtype, jnp.float32)


class FullyConnected(nn.Module):
    """A fully connected layer over a `window` of [h, w] places, trained as a matrix.

    The kernel is [h * w * c, features]; with `dense` it is [h, w, c, features] and slides over the
    map as a convolution without padding (Sermanet et al. 2014), so [N, H, W, c] gives
    [N, H - h + 1, W - w + 1, features]. Raises UserError where the map does not match the window.
    """

    features: int
    window: tuple[int, int] = (1, 1)
    dense: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, w = self.window
        kernel_shape = (h * w * x.shape[-1], self.features)
        if self.dense:
            if x.shape[1] < h or x.shape[2] < w:
                raise UserError(
                    f'{self.name}: a map of {x.shape[1]}x{x.shape[2]} is smaller than the window '
                    f'{h}x{w}: the input image is too small for this network'
                )
            # Initialised as the matrix is (fan-in of the whole window), then reshaped.
            kernel = self.param(
                'kernel',
                lambda key: self.kernel_init(key, kernel_shape).reshape(h, w, -1, self.features),
            )
        else:
            if x.ndim == 4 and x.shape[1:3] != (h, w):
                raise UserError(
                    f'{self.name}: a map of {x.shape[1]}x{x.shape[2]} where the fully connected '
                    f'layer takes {h}x{w}: give images of the training size, or evaluate densely'
                )
            x = x.reshape(x.shape[0], -1)
            kernel = self.param('kernel', self.kernel_init, kernel_shape)
        bias = self.param('bias', self.bias_init, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        if self.dense:
            y = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
            )
            return y + bias
        return backward.bilinear(jnp.matmul, x, kernel) + bias


# What the two LeNets share.


def lecun_uniform(fan_in: Any) -> nn.initializers.Initializer:
    """Uniform in [-2.4 / F, 2.4 / F] with F the inputs of a unit (LeCun et al. 1998, appendix A).

    `fan_in` may be an array over the parameters' last axis, where units differ.
    """
    limit = 2.4 / jnp.asarray(fan_in, jnp.float32)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class Subsampling(nn.Module):
    """Sum of 2x2 places, times one coefficient, plus one bias per map; [N, H, W, C] -> H / 2."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = lecun_uniform(4)
        coefficient = self.param('coefficient', init, (x.shape[-1],)).astype(self.dtype)
        bias = self.param('bias', init, (x.shape[-1],)).astype(self.dtype)
        return backward.bilinear(jnp.multiply, 4 * avg_pool(x, 2, 2), coefficient) + bias


class TableConv(nn.Module):
    """A convolution without padding in which each map sees only some of the maps below.

    `table` is the paper's: a line per map below, a character per map here, 'X' = connected. The
    kernel is [window, window, connections], connections ordered by map here, then by map below:
    there is no parameter for what is not connected.
    """

    table: Sequence[str]
    window: int = 5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [N, H, W, C]
        connected = np.array([[mark == 'X' for mark in row] for row in self.table])
        here, below = np.nonzero(connected.T)
        fan_in = self.window**2 * connected.sum(axis=0)
        kernel_shape = (self.window, self.window, len(here))
        kernel = self.param('kernel', lecun_uniform(fan_in[here]), kernel_shape)
        bias = self.param('bias', lecun_uniform(fan_in), (connected.shape[1],))
        # One dense convolution with zeros costs less than one small convolution per map.
        dense = jnp.zeros((self.window, self.window, *connected.shape), self.dtype)
        dense = dense.at[:, :, below, here].set(kernel.astype(self.dtype), unique_indices=True)
        x = backward.convolution(
            x.astype(self.dtype), dense, (1, 1), 'VALID',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )  # fmt: skip
        return x + bias.astype(self.dtype)
