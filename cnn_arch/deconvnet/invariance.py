"""Figure 5: how a layer's features change when the picture is moved, scaled and turned.

Euclidean distance between the features of the picture and of the transformed one, in a low and in a
high layer, and the probability of the correct class. What a transformation brings in from beyond
the picture is of the mean colour.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_arch import mesh as meshes
from cnn_arch.deconvnet import plots
from cnn_arch.deconvnet.network import LOGITS, Network
from cnn_arch.deconvnet.page import Page
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.subject import Subject

Affine = tuple[float, float, float, float, float, float]


def _shift(pixels: float, side: int) -> Affine:
    """Down by so many pixels (paper: of 224)."""
    del side
    return (1, 0, 0, 0, 1, -pixels)


def _scale(ratio: float, side: int) -> Affine:
    """Larger by a ratio, about the centre."""
    centre = side / 2 * (1 - 1 / ratio)
    return (1 / ratio, 0, centre, 0, 1 / ratio, centre)


def _turn(degrees: float, side: int) -> Affine:
    """Counter-clockwise about the centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre = side / 2
    return (cosine, -sine, centre * (1 - cosine + sine), sine, cosine,
            centre * (1 - cosine - sine))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Transformation:
    """A row of the figure: its axis with the unit, its amounts for images of a side in pixels."""

    name: str
    axis: str
    affine: Callable[[float, int], Affine]  # from result to picture, as Pillow takes it
    amounts: Callable[[int], np.ndarray]


# The paper's ranges; its 60 pixels are of 224.
TRANSFORMATIONS = (
    Transformation('translation', 'vertical translation, pixels', _shift,
                   lambda side: np.linspace(-60, 60, 25) * side / 224),
    Transformation('scale', 'scale, ratio', _scale, lambda side: np.linspace(1, 1.8, 17)),
    Transformation('rotation', 'rotation, degrees', _turn, lambda side: np.linspace(0, 350, 36)),
)  # fmt: skip


@dataclasses.dataclass
class Curves:
    """Of one picture under one transformation, each by amount."""

    key: str
    transformation: Transformation
    amounts: np.ndarray
    distances: dict[str, np.ndarray]  # by layer
    probability: np.ndarray | None


def transformed(image: np.ndarray, affine: Affine, colour: Sequence[float]) -> np.ndarray:
    """uint8 [H, W, C], bilinear; `colour` beyond the picture."""
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    fill = tuple(round(min(max(value, 0), 255)) for value in colour)
    turned = picture.transform(
        picture.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR,
        fillcolor=fill[0] if grey else fill,
    )  # fmt: skip
    return np.asarray(turned).reshape(image.shape)


@functools.partial(jax.jit, static_argnames=('network', 'names', 'has_logits'))
def compared(
    variables: Any,
    image: jax.Array,
    images: jax.Array,
    network: Network,
    names: tuple[str, ...],
    has_logits: bool,
) -> tuple[list[jax.Array], jax.Array]:
    """Distances [N] of uint8 [N, H, W, C] to one image by layer, and posteriors [N, classes]."""
    pixels = jax.lax.with_sharding_constraint(
        network.pixels(images), meshes.batch_sharding(network.mesh)
    )
    found = network.layers(variables, pixels)
    original = network.layers(variables, network.pixels(image[None]))
    distances = [
        jnp.sqrt(jnp.square((found[n] - original[n]).astype(jnp.float32)).sum((1, 2, 3)))
        for n in names
    ]
    logits = found[LOGITS][:, 0, 0] if has_logits else jnp.zeros((len(images), 1))
    everywhere = meshes.replicated(network.mesh)
    return jax.lax.with_sharding_constraint((distances, jax.nn.softmax(logits)), everywhere)


def measure(subject: Subject, names: tuple[str, ...], indices: Sequence[int]) -> Iterator[Curves]:
    """Every picture under every transformation: distances in the layers called `names`."""
    side, colour = subject.network.size, subject.network.data.mean
    for transformation in TRANSFORMATIONS:
        amounts = transformation.amounts(side)
        for index in indices:
            image = subject.pictures.read(index)
            if image is None:
                continue
            moved = [
                transformed(image, transformation.affine(float(amount), side), colour)
                for amount in amounts
            ]
            distances, posteriors = _compared(subject, names, image, moved)
            example = subject.pictures.example(index)
            probability = None if posteriors is None else posteriors[:, example.label]
            yield Curves(example.key, transformation, amounts, distances, probability)


def _compared(
    subject: Subject, names: tuple[str, ...], image: np.ndarray, moved: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Distances to `image` by layer, and posteriors if there are logits, of each of `moved`."""
    has_logits, batch = LOGITS in subject.fields, subject.batch
    parts = []
    for start in range(0, len(moved), batch):
        part = list(moved[start : start + batch])
        part += [image] * (batch - len(part))
        found = compared(
            subject.variables, image, np.stack(part), subject.network, names, has_logits
        )
        parts.append(jax.tree.map(np.asarray, found))  # one at a time on the devices
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(moved)], *parts)
    distances, posteriors = joined
    return dict(zip(names, distances, strict=True)), posteriors if has_logits else None


def write(page: Page, curves: Sequence[Curves], names: Sequence[str], pictures: Pictures) -> None:
    """One PNG: a row for each transformation, a column for each layer and for the probability."""
    complete = curves[0].probability is not None
    figure, axes = plots.panels(len(TRANSFORMATIONS), len(names) + complete)
    for row, transformation in enumerate(TRANSFORMATIONS):
        mine = [c for c in curves if c.transformation is transformation]
        for column, name in enumerate(names):
            plots.lines(
                axes[row, column], [(c.key, c.amounts, c.distances[name]) for c in mine],
                transformation.axis, 'Euclidean distance, activations', name, row == column == 0,
            )  # fmt: skip
        if complete:
            plots.lines(
                axes[row, -1],
                [(c.key, c.amounts, c.probability) for c in mine if c.probability is not None],
                transformation.axis, 'probability of the correct class', 'output', False,
            )  # fmt: skip
    keys = dict.fromkeys(c.key for c in curves)
    text = (
        f'{len(keys)} pictures ({", ".join(keys)}; {pictures.described}) under vertical '
        'translation, scaling and rotation: Euclidean distance between the features of the picture '
        f'and of the transformed picture in {" and ".join(names)}'
    )
    text += '; right, the probability of the correct class.' if complete else (
        '. Probabilities need the last layers, whose weights are missing here.')  # fmt: skip
    page.picture('invariance.png', plots.rendered(figure), text)
