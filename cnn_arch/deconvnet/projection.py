"""From an activation back to the pixels (Zeiler & Fergus 2014, section 2.1).

"We set all other activations in the layer to zero" and go down: unpool by the switches of the
image's own way up, rectify, filter with transposed filters. Unpooling is the derivative of max
pooling and the transposed filter that of convolution, so one pass backwards by the rule of
`models.backward` is the deconvnet, through any branches. Of equal maxima in a pooling window the
first in row-major order is the switch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cnn_arch import mesh as meshes
from cnn_arch.deconvnet.network import Network
from cnn_arch.evaluation import precision as precisions
from cnn_arch.models.backward import backward_rule


@functools.partial(jax.jit, static_argnames=('network', 'layer', 'method', 'window'))
def project(
    variables: Any,
    images: jax.Array,
    maps: jax.Array,
    places: jax.Array,
    corners: jax.Array,
    network: Network,
    layer: str,
    method: str,
    window: tuple[int, int],
) -> jax.Array:
    """K units of each image: uint8 [N, H, W, C] -> float32 [N, K, *window, C].

    A unit is a map and a flat place h * W + w of the layer, int32 [N, K] each; the result is its
    projection in `window` pixels from its corner on, int32 [N, K, 2], zero beyond the image. The
    signal starts as the activation, or as one (`gradient`: the derivative by the network's input).
    """

    def on_device(
        variables: Any, images: jax.Array, maps: jax.Array, places: jax.Array, corners: jax.Array
    ) -> jax.Array:
        def layer_of(pixels: jax.Array) -> jax.Array:
            x = network.layers(variables, pixels)[layer]  # [N, h, w, maps]
            return x.reshape(len(x), -1, x.shape[-1])

        with backward_rule(method):
            activations, pull = jax.vjp(layer_of, network.pixels(images))
        rows = jnp.arange(len(images))

        def back(maps: jax.Array, places: jax.Array) -> jax.Array:  # [N] each
            value = 1.0 if method == 'gradient' else activations[rows, places, maps]
            return pull(jnp.zeros_like(activations).at[rows, places, maps].set(value))[0]

        with precisions.products(network.precision):
            signals = jax.vmap(back, in_axes=1, out_axes=1)(maps, places)  # [N, K, H, W, C]
        margins = [(0, 0), (0, 0), *((side, side) for side in window), (0, 0)]
        framed = jnp.pad(signals, margins)

        def cut(signal: jax.Array, corner: jax.Array) -> jax.Array:
            start = corner + jnp.asarray(window)
            return jax.lax.dynamic_slice(signal, (*start, 0), (*window, signal.shape[-1]))

        return jax.vmap(jax.vmap(cut))(framed, corners).astype(jnp.float32)

    by_image = meshes.by_image(on_device, network.mesh, arguments=4, whole=1)
    return by_image(variables, images, maps, places, corners)
