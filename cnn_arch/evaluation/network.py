"""The compiled side of an evaluation: views cut on the devices, and a network's posteriors."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch.data import preprocess
from cnn_arch.evaluation import dense, ragged
from cnn_arch.evaluation import precision as precisions
from cnn_arch.evaluation.protocols import SLIDING, Plan
from cnn_arch.models import layers


@dataclasses.dataclass(frozen=True)
class Network:
    """A model with the arithmetic around it. Equal ones share their compiled functions.

    Posteriors are not a number where a score is not finite: a softmax would hide what is minus
    infinity.
    """

    model: nn.Module = dataclasses.field(compare=False)  # in the dtype of the evaluation
    name: str  # the model's text, which tells models apart
    data: ml_collections.FrozenConfigDict  # config.data: mean, std, channels
    crop: int
    average: str  # over a class score map
    view_average: str  # posteriors or scores: which of them are averaged over views
    sliding: bool
    precision: str  # config.eval.precision
    mesh: Mesh

    @classmethod
    def create(
        cls, model: nn.Module, config: ml_collections.ConfigDict, plan: Plan, mesh: Mesh
    ) -> 'Network':
        """The network that `config` evaluates."""
        data = ml_collections.FrozenConfigDict(config.data)
        precision = config.eval.precision
        model = precisions.arithmetic(model, precision)
        return cls(
            model, repr(model), data, plan.crop, plan.average, plan.view_average,
            plan.pooling == SLIDING, precision, mesh,
        )  # fmt: skip

    def posteriors(self, variables: Any, images: jax.Array) -> jax.Array:
        """uint8 [N, crop, crop, C] -> float32 [N, classes]; scores if those are averaged."""
        with precisions.products(self.precision):
            pixels = preprocess.normalise({'image': images}, self.data)
            logits, _ = self.model.apply(variables, pixels)
            return self._of_scores(logits)

    def dense_posteriors(self, variables: Any, images: jax.Array) -> jax.Array:
        """uint8 [N, H, W, C] -> float32 [N, classes], the average over a class score map.

        Posteriors, or scores if those are averaged over views.
        """
        variables = dense.reshaped(variables, _dense_variables(self))
        with precisions.products(self.precision):
            pixels = preprocess.normalise({'image': images}, self.data)
            scores, _ = dense.convolutional(self.model, self.sliding).apply(variables, pixels)
            if scores.ndim == 2:  # the network itself pools over all places
                return self._of_scores(scores)
            if self.average == 'scores':
                return self._of_scores(layers.global_average_pool(scores))
            return layers.global_average_pool(_softmax(scores))

    def _of_scores(self, scores: jax.Array) -> jax.Array:
        """What is averaged over views, of scores [N, classes]."""
        return _finite(scores, scores) if self.view_average == 'scores' else _softmax(scores)

    def ragged(self) -> ragged.RaggedFunction:
        """`dense_posteriors` for images of different sizes on one canvas; made once."""
        return _ragged(self)


def _softmax(scores: jax.Array) -> jax.Array:
    """Posteriors [..., classes], all of them NaN where one score is not finite."""
    return _finite(scores, jax.nn.softmax(scores))


def _finite(scores: jax.Array, result: jax.Array) -> jax.Array:
    """`result` [..., classes], NaN wherever one of an image's scores is not finite."""
    # A sum over classes, which evaluation/ragged.py knows: 0, or NaN.
    return result + jnp.where(jnp.isfinite(scores), 0.0, jnp.nan).sum(axis=-1, keepdims=True)


@functools.lru_cache(maxsize=16)
def _dense_variables(network: Network) -> Any:
    size, channels = network.data.augment.size, network.data.channels
    model = dense.convolutional(network.model, network.sliding)
    return dense.abstract_variables(model, size, channels)


@functools.lru_cache(maxsize=16)
def _ragged(network: Network) -> ragged.RaggedFunction:
    size, channels = network.data.augment.size, network.data.channels
    variables = dense.abstract_variables(network.model, size, channels)
    return ragged.RaggedFunction(
        network.dense_posteriors, variables, channels, jnp.uint8, base=size
    )


@functools.partial(jax.jit, static_argnames=('size', 'mesh'))
def cut_window(
    images: jax.Array,
    corners: jax.Array,
    view: jax.Array,
    mirrored: jax.Array,
    size: int,
    mesh: Mesh,
) -> jax.Array:
    """[N, H, W, C] -> [N, size, size, C] at each image's own corner of a view.

    `corners` int32 [N, views, 2], top and left in pixels.
    """

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (size, size, image.shape[-1]))

    windows = meshes.by_image(jax.vmap(cut), mesh, 2)(images, corners[:, view])
    return jnp.where(mirrored, windows[:, :, ::-1], windows)


@functools.partial(jax.jit, static_argnames='mesh')
def mirror(images: jax.Array, widths: jax.Array, mesh: Mesh) -> jax.Array:
    """[N, H, W, C] with each image flipped left-right within its own width (int32 [N])."""

    def flip(image: jax.Array, width: jax.Array) -> jax.Array:
        return jnp.roll(image[:, ::-1], width - image.shape[1], axis=1)

    return meshes.by_image(jax.vmap(flip), mesh, 2)(images, widths)


@functools.partial(jax.jit, static_argnames='size')
def resize(images: jax.Array, size: int) -> jax.Array:
    """uint8 [N, side, side, C] -> uint8 [N, size, size, C], bilinear with antialiasing."""
    shape = (images.shape[0], size, size, images.shape[-1])
    resized = jax.image.resize(images.astype(jnp.float32), shape, 'bilinear', antialias=True)
    return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames='network', donate_argnames='total')
def add_windows(
    total: jax.Array, weight: jax.Array, variables: Any, images: jax.Array, network: Network
) -> jax.Array:
    """total [N, classes] + weight * the posteriors of one window of each image."""
    total = total + weight * network.posteriors(variables, images)
    return jax.lax.with_sharding_constraint(total, meshes.batch_sharding(network.mesh))


@functools.partial(jax.jit, static_argnames='network', donate_argnames='total')
def add_whole(
    total: jax.Array,
    weight: jax.Array,
    variables: Any,
    images: jax.Array,
    facts: jax.Array,
    network: Network,
) -> jax.Array:
    """total [N, classes] + weight * the posteriors of whole images, padded to one canvas."""
    total = total + weight * network.ragged()(variables, images, facts)
    return jax.lax.with_sharding_constraint(total, meshes.batch_sharding(network.mesh))
