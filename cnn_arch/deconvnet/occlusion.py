"""Figure 7: what a grey square does to a map, to the class's probability and to the answer.

For each picture and each place of the square: (b) the summed activation of the layer's map that
answers most strongly to the whole picture, (c) that map's projection, (d) the probability of the
correct class, (e) the most probable class.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_arch import mesh as meshes
from cnn_arch.deconvnet import plots, tiles
from cnn_arch.deconvnet.network import LOGITS, Network
from cnn_arch.deconvnet.page import Page
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.projection import project
from cnn_arch.deconvnet.subject import Subject

PLACES = 24  # of the square along a side of the image


@dataclasses.dataclass
class Occlusion:
    """One picture; the arrays are [PLACES, PLACES], by the centre of the square."""

    key: str
    image: np.ndarray  # uint8 [H, W, C]
    map: int
    projection: np.ndarray  # float [H, W, C]
    activation: np.ndarray
    label: int
    probability: np.ndarray | None  # of the label; None where the network's last layers are missing
    classes: np.ndarray | None  # the most probable ones


@functools.partial(jax.jit, static_argnames=('network', 'layer', 'square', 'has_logits'))
def occluded(
    variables: Any,
    image: jax.Array,
    corners: jax.Array,
    network: Network,
    layer: str,
    square: int,
    has_logits: bool,
) -> tuple[jax.Array, jax.Array]:
    """Summed activations [N, maps] and posteriors [N, classes] of uint8 [H, W, C].

    In each of N copies a square of mean grey hides what begins at its corner, int32 [N, 2].
    """
    rows = jnp.arange(image.shape[0])[None, :, None]
    columns = jnp.arange(image.shape[1])[None, None, :]
    top, left = corners[:, 0, None, None], corners[:, 1, None, None]
    hidden = (rows >= top) & (rows < top + square) & (columns >= left) & (columns < left + square)
    pixels = jnp.where(hidden[..., None], 0.0, network.pixels(image[None]))  # zero is the mean
    pixels = jax.lax.with_sharding_constraint(pixels, meshes.batch_sharding(network.mesh))
    found = network.layers(variables, pixels)
    sums = found[layer].astype(jnp.float32).sum((1, 2))
    logits = found[LOGITS][:, 0, 0] if has_logits else jnp.zeros((len(corners), 1))
    everywhere = meshes.replicated(network.mesh)
    return jax.lax.with_sharding_constraint((sums, jax.nn.softmax(logits)), everywhere)


def corners_of(side: int, square: int) -> np.ndarray:
    """The first pixels of the squares along an axis, int32 [PLACES]."""
    return np.linspace(0, side - square, PLACES).round().astype(np.int32)


def measure(
    subject: Subject, layer: str, indices: Sequence[int], square: int, method: str
) -> Iterator[Occlusion]:
    """Each picture under a square of `square` pixels."""
    network, pictures, batch = subject.network, subject.pictures, subject.batch
    has_logits = LOGITS in subject.fields
    places = corners_of(network.size, square)
    grid = np.stack(np.meshgrid(places, places, indexing='ij'), -1).reshape(-1, 2)
    nowhere = np.full((1, 2), network.size, np.int32)  # the square beyond the picture
    corners = np.concatenate([nowhere, grid])
    padded = np.concatenate([corners, np.repeat(nowhere, -len(corners) % batch, axis=0)])
    for index in indices:
        image = pictures.read(index)
        if image is None:
            continue
        parts = [
            jax.tree.map(np.asarray, occluded(  # one at a time on the devices
                subject.variables, image, padded[start : start + batch], network=network,
                layer=layer, square=square, has_logits=has_logits,
            ))
            for start in range(0, len(padded), batch)
        ]  # fmt: skip
        sums, posteriors = (
            np.concatenate(arrays)[: len(corners)] for arrays in zip(*parts, strict=True)
        )
        example, strongest = pictures.example(index), int(sums[0].argmax())
        probability = classes = None
        if has_logits:
            probability = posteriors[1:, example.label].reshape(PLACES, PLACES)
            classes = posteriors[1:].argmax(1).reshape(PLACES, PLACES)
        yield Occlusion(
            example.key, image, strongest, _projection(subject, layer, image, strongest, method),
            sums[1:, strongest].reshape(PLACES, PLACES), example.label, probability, classes,
        )  # fmt: skip


def _projection(subject: Subject, layer: str, image: np.ndarray, m: int, method: str) -> np.ndarray:
    """Of the map's strongest place, over the whole image, float [H, W, C]."""
    network = subject.network
    count = network.mesh.size  # every device projects the same
    activations = np.asarray(activation(subject.variables, image[None], network, layer))
    place = int(activations[0, ..., m].argmax())
    signals = project(
        subject.variables, np.repeat(image[None], count, axis=0), np.full((count, 1), m),
        np.full((count, 1), place), np.zeros((count, 1, 2), np.int32),
        network=network, layer=layer, method=method, window=image.shape[:2],
    )  # fmt: skip
    return meshes.gather(network.mesh, signals)[0, 0]


@functools.partial(jax.jit, static_argnames=('network', 'layer'))
def activation(variables: Any, images: jax.Array, network: Network, layer: str) -> jax.Array:
    """uint8 [N, H, W, C] -> a layer's maps [N, h, w, maps]."""
    return network.layers(variables, network.pixels(images))[layer]


def write(
    page: Page, results: Iterator[Occlusion], layer: str, square: int, pictures: Pictures,
    method: str,
) -> None:  # fmt: skip
    """A row of panels for each picture, one PNG each."""
    for number, result in enumerate(results, 1):
        count = 3 if result.probability is None else 5
        figure, axes = plots.panels(1, count)
        centres = corners_of(len(result.image), square) + square / 2
        plots.picture(axes[0, 0], result.image, f'(a) {result.key}')
        plots.heat(figure, axes[0, 1], result.activation, centres,
                   f'(b) {layer}, map {result.map}', 'summed activation')  # fmt: skip
        plots.picture(axes[0, 2], tiles.shown(result.projection), f'(c) map {result.map}, {method}')
        if result.probability is not None and result.classes is not None:
            plots.heat(figure, axes[0, 3], result.probability, centres,
                       f'(d) class {result.label}, the correct one', 'probability')  # fmt: skip
            plots.regions(axes[0, 4], result.classes, centres, '(e) most probable class')
        text = (
            f'{result.key} ({pictures.described}) under a square of {square}x{square} pixels of '
            f'the mean colour at {PLACES}x{PLACES} places: (a) the picture; (b) the activations of '
            f"{layer}'s map {result.map}, the one that answers most strongly to the whole picture, "
            f"summed over its places; (c) the projection of that map's strongest activation"
        )
        if result.probability is None:
            text += '. Probabilities need the last layers, whose weights are missing here.'
        else:
            text += '; (d) the probability of the correct class; (e) the most probable class.'
        page.picture(f'occlusion{number}.png', plots.rendered(figure), text)
