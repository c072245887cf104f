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
    dense = convolutional(model)
    return dense, reshaped(variables, abstract_variables(dense, size, channels))


def convolutional(model: nn.Module, sliding: bool = False) -> nn.Module:
    """The model with fully connected layers as convolutions, if it has some.

    `sliding`: the network's last pooling slides, too (ResNet, see its docstring).
    """
    if sliding:
        return model.clone(sliding=True)
    if 'dense' not in {field.name for field in dataclasses.fields(model)}:
        return model
    return model.clone(dense=True)


def abstract_variables(model: nn.Module, size: int, channels: int) -> Any:
    """Shapes and dtypes of a model's variables, without computing them."""
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(model.init, key, images)


def reshaped(variables: Any, abstract: Any) -> Any:
    """Each variable in the shape of its namesake."""
    return jax.tree.map(
        lambda leaf, shape: leaf.reshape(shape.shape),
        variables,
        {collection: abstract[collection] for collection in variables},
    )
