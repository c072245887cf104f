"""Operations that XLA's CPU backend does badly, in forms that it does well.

`lax.platform_dependent` chooses when a program is compiled: on GPU and TPU these functions are the
plain `lax` operations and nothing else. Both forms give the same result; ties, which ReLU's zeros
make common, are decided alike: the first maximum in reading order gets the whole gradient.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, pads: Pads) -> jax.Array:
    """Maximum over windows, [N, H, W, C] -> [N, H', W', C]; the padding counts as minus infinity.

    A backward pass through XLA's select-and-scatter takes four to eleven times as long on a CPU.
    """
    return lax.platform_dependent(
        x,
        cpu=lambda x: functools.reduce(jnp.maximum, _places(x, window, stride, pads)),
        default=lambda x: _reduce_window(x, window, stride, pads),
    )


def _max_pool_forward(
    x: jax.Array, window: int, stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool(x, window, stride, pads)
    return y, (x, y)


def _max_pool_backward(
    window: int, stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    x, y = saved

    def plain(x: jax.Array, y: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: _reduce_window(x, window, stride, pads), x)[1](gradient)[0]

    def by_place(x: jax.Array, y: jax.Array, gradient: jax.Array) -> jax.Array:
        (top, bottom), (left, right) = pads
        height, width = x.shape[1] + top + bottom, x.shape[2] + left + right
        last_row, last_column = (y.shape[1] - 1) * stride, (y.shape[2] - 1) * stride
        zero = jnp.zeros((), gradient.dtype)
        total = jnp.zeros((x.shape[0], height, width, x.shape[3]), gradient.dtype)
        open_ = jnp.ones(y.shape, bool)  # the maximum of this window has not been met yet
        for index, values in enumerate(_places(x, window, stride, pads)):
            row, column = divmod(index, window)
            first = open_ & (values == y)
            open_ &= ~first
            # Back to where these values came from, with gaps for the places between the strides.
            total += lax.pad(
                jnp.where(first, gradient, zero), zero,
                ((0, 0, 0), (row, height - row - last_row - 1, stride - 1),
                 (column, width - column - last_column - 1, stride - 1), (0, 0, 0)),
            )  # fmt: skip
        return total[:, top : height - bottom, left : width - right]

    return (lax.platform_dependent(x, y, gradient, cpu=by_place, default=plain),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _reduce_window(x: jax.Array, window: int, stride: int, pads: Pads) -> jax.Array:
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -np.inf, lax.max, sizes, strides, ((0, 0), *pads, (0, 0)))


def _places(x: jax.Array, window: int, stride: int, pads: Pads) -> Iterator[jax.Array]:
    """For each place of the window, in reading order, the values there of all windows."""
    lowest = np.array(-np.inf, x.dtype)
    x = lax.pad(x, lowest, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    n, height, width, channels = x.shape
    last_row = (height - window) // stride * stride
    last_column = (width - window) // stride * stride
    for row in range(window):
        for column in range(window):
            start = (0, row, column, 0)
            limit = (n, row + last_row + 1, column + last_column + 1, channels)
            yield lax.slice(x, start, limit, (1, stride, stride, 1))


BLOCK = 32  # maps that a group should read at least, where a CPU convolves group by group


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **settings: Any
) -> jax.Array:
    """`lax.conv_general_dilated` for images [N, H, W, C], kernel [h, w, C / groups, features].

    The signature is what `flax.linen.Conv(conv_general_dilated=...)` calls. On a CPU, XLA takes up
    to 250 times as long for a convolution in groups as for these forms: a depthwise one of stride 1
    is a sum of shifted products; other small groups are merged into dense ones of 32 maps, with
    zeros between the groups; the groups are convolved one after the other.
    """
    groups = settings['feature_group_count']

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows, columns = kernel.shape[:2]
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(dtype)
        height, width = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
        total = jnp.zeros((x.shape[0], height, width, x.shape[3]), dtype)
        for row in range(rows):
            for column in range(columns):
                total += (
                    padded[:, row : row + height, column : column + width] * kernel[row, column]
                )
        return total.astype(x.dtype)

    def by_group(x: jax.Array, kernel: jax.Array) -> jax.Array:
        merged = math.gcd(groups, max(1, BLOCK // kernel.shape[2]))
        count = groups // merged
        rows, columns, inputs, features = kernel.shape
        # Along the diagonal of [inputs of all merged groups, features of all merged groups].
        kernels = kernel.reshape(rows, columns, inputs, count, merged, features // groups)
        kernels = jnp.einsum('hwigmf,mn->ghwnimf', kernels, jnp.eye(merged, dtype=kernel.dtype))
        kernels = kernels.reshape(count, rows, columns, merged * inputs, features // count)
        return jnp.concatenate(
            [
                lax.conv_general_dilated(
                    part, kernels[index], strides, padding, **{**settings, 'feature_group_count': 1}
                )
                for index, part in enumerate(jnp.split(x, count, axis=-1))
            ],
            axis=-1,
        )

    if groups == 1:
        return plain(x, kernel)
    depthwise = groups == x.shape[-1] == kernel.shape[-1] and set(strides) == {1}
    return _in_two_forms(plain, shifted if depthwise else by_group)(x, kernel)


def _in_two_forms(
    plain: Callable[..., jax.Array], on_cpu: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """A function of arrays that is `on_cpu` on a CPU and `plain` elsewhere, backwards too."""

    @jax.custom_vjp
    def function(*arrays: jax.Array) -> jax.Array:
        return lax.platform_dependent(*arrays, cpu=on_cpu, default=plain)

    def forward(*arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return function(*arrays), arrays

    def backward(arrays: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
        def pull(form: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
            return lambda gradient, *arrays: jax.vjp(form, *arrays)[1](gradient)

        return lax.platform_dependent(gradient, *arrays, cpu=pull(on_cpu), default=pull(plain))

    function.defvjp(forward, backward)
    return function
