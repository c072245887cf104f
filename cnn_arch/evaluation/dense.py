"""Fully connected layers as convolutions (Simonyan & Zisserman 2015, section 3.2)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def to_convolutional(
    model: nn.Module, variables: Any, size: int, channels: int = 3
) -> tuple[nn.Module, Any]:
    """The network that slides over images of any size, and its variables: the same numbers.

    Every fully connected kernel [h * w * c, features] becomes [h, w, c, features]; the network
    then returns class score maps [N, h', w', classes]. `size` is the side in pixels of the images
    it was trained on. A network without such layers comes back as it is.
    """
    if 'dense' not in {field.name for field in dataclasses.fields(model)}:
        return model, variables
    dense = model.clone(dense=True)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    shapes = jax.eval_shape(dense.init, jax.random.key(0), images)
    return dense, jax.tree.map(
        lambda leaf, shape: leaf.reshape(shape.shape), variables, {k: shapes[k] for k in variables}
    )
