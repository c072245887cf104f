"""The nine strongest activations of each map over a whole data set (figure 2), in one pass.

What is kept is nine activations per map, whatever the number of images; of an image only a map's
strongest place counts, so that the nine are of nine images. Of equal activations the earlier image
comes first, and of equal places the first in row-major order, however the images lie on devices.
"""

import collections
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_arch import mesh as meshes
from cnn_arch.deconvnet.network import Network
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.deconvnet.subject import Subject
from cnn_arch.errors import UserError
from cnn_arch.evaluation.progress import Progress

RANKS = 9
IN_FLIGHT = 2  # batches computing on the devices while the next is decoded


class Best(NamedTuple):
    """Of each map the strongest, in falling order, [RANKS, maps] each."""

    values: Any  # float32
    images: Any  # int32, of the source
    places: Any  # int32, flat h * W + w


def strongest(subject: Subject, layers: dict[str, Fields]) -> dict[str, Best]:
    """The RANKS strongest of each map of each layer, as NumPy arrays on every process.

    Raises UserError for fewer images than RANKS and for activations that are not finite.
    """
    network, pictures, batch = subject.network, subject.pictures, subject.batch
    mesh, names = network.mesh, tuple(layers)
    meshes.check_batch('eval.batch_size', batch, mesh)
    check_enough(pictures)
    best = {name: _nothing(fields.maps) for name, fields in layers.items()}
    best = meshes.replicate(mesh, best)
    rows = meshes.host_rows(batch, mesh)
    indices = _share(len(pictures), batch, rows)
    progress = Progress(len(pictures))
    computing: collections.deque[Any] = collections.deque()
    for done, inputs in enumerate(pictures.batches(indices, rows.stop - rows.start), 1):
        placed = meshes.to_devices(mesh, inputs, batch)
        best, token = merge(
            best, subject.variables, placed['images'], placed['indices'], network, names
        )
        computing.append(token)
        if len(computing) > IN_FLIGHT:
            jax.block_until_ready(computing.popleft())
        progress.update(min(done * batch, len(pictures)))
    progress.close()
    found = {name: Best(*map(np.asarray, best[name])) for name in names}
    for name, (values, images, _) in found.items():
        if (images < 0).any():
            raise UserError(f'fewer than {RANKS} images could be read: the top nine need as many')
        if not np.isfinite(values).all():
            raise UserError(f'layer {name}: activations are not finite')
    return found


def check_enough(pictures: Pictures) -> None:
    """Raises UserError for fewer images than RANKS."""
    if len(pictures) < RANKS:
        raise UserError(
            f'{pictures.source.name} has {len(pictures)} images: the top nine of a map need at '
            f'least {RANKS}'
        )


def _nothing(maps: int) -> Best:
    shape = RANKS, maps
    none = np.full(shape, -1, np.int32)
    return Best(np.full(shape, -np.inf, np.float32), none, none)


def _share(count: int, batch: int, rows: slice) -> Sequence[int]:
    """This process's rows of all batches; -1 = no image."""
    padded = np.full(-(-count // batch) * batch, -1)
    padded[:count] = np.arange(count)
    return padded.reshape(-1, batch)[:, rows].ravel().tolist()


@functools.partial(jax.jit, static_argnames=('network', 'names'), donate_argnames='best')
def merge(
    best: dict[str, Best],
    variables: Any,
    images: jax.Array,
    indices: jax.Array,
    network: Network,
    names: tuple[str, ...],
) -> tuple[dict[str, Best], jax.Array]:
    """`best` after a batch uint8 [N, H, W, C] of images `indices` [N] (-1 = none), and its end."""
    everywhere = meshes.replicated(network.mesh)
    found = network.layers(variables, network.pixels(images))
    result = {}
    for name in names:
        x = found[name].astype(jnp.float32)
        flat = x.reshape(len(x), -1, x.shape[-1])  # [N, h * w, maps]
        places = jnp.argmax(flat, axis=1).astype(jnp.int32)
        values = jnp.where(indices[:, None] >= 0, flat.max(axis=1), -jnp.inf)  # [N, maps]
        values, places = jax.lax.with_sharding_constraint((values, places), everywhere)
        numbers = jnp.broadcast_to(indices[:, None], values.shape)
        joined = (
            jnp.concatenate(pair)
            for pair in zip(best[name], (values, numbers, places), strict=True)
        )
        values, numbers, places = joined
        # Of equal values top_k takes the first: what is kept already, then the batch in order.
        _, order = jax.lax.top_k(values.T, RANKS)  # [maps, RANKS]
        kept = (jnp.take_along_axis(part, order.T, axis=0) for part in (values, numbers, places))
        result[name] = Best(*kept)
    result = jax.lax.with_sharding_constraint(result, everywhere)
    return result, jnp.sum(indices)
