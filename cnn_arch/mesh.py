"""How arrays lie on devices: the only file that knows.

A mesh has two axes. The images of a batch are split over both; the units of the fully connected
layers that a model's rules name are split over `model`, all else is whole on every device. This is
the scheme of A. Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv
1404.5997, section 4: convolutions work on each device's own images; before the first fully
connected layer the devices along `model` exchange their maps (not their weights), and each computes
its units for all of them. XLA derives these exchanges from the layout of the parameters.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_arch.errors import UserError

DATA, MODEL = 'data', 'model'

# Of a model: the mesh axis along each dimension of a parameter, by the end of its path.
Rules = Mapping[str, tuple[str | None, ...]]


def create_mesh(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh that `config.mesh` asks for, over `devices` (default: all of all processes).

    Raises UserError when the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    model = config.model
    data = count // model if config.data == -1 and model > 0 else config.data
    if data < 1 or model < 1 or data * model != count:
        raise UserError(
            f'mesh.data = {config.data}, mesh.model = {config.model}: their product must be the '
            f'number of devices, {count}'
        )
    # Auto: XLA propagates shardings from the arguments; make_mesh's default is explicit axes.
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, model), (DATA, MODEL), axis_types=axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of the array is split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, MODEL)))


def abstract(mesh: Mesh, tree: Any, rules: Rules, over_data: bool = False) -> Any:
    """The tree's shapes and dtypes as jax.ShapeDtypeStruct with shardings.

    A leaf lies as the rule says whose name its path ends with: 'fc6/kernel' holds for the parameter
    and for its momentum. With `over_data` each leaf is also split over `data` along the first
    dimension that is still whole and divides. Raises UserError that names the leaf which `model`
    does not divide.
    """

    def lay(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        name = '/'.join(str(getattr(key, 'key', getattr(key, 'name', key))) for key in path)
        spec: list[str | None] = [None] * len(leaf.shape)
        for ending, axes in rules.items():
            if f'/{name}'.endswith(f'/{ending}'):
                spec = list(axes)
        for size, axis in zip(leaf.shape, spec, strict=True):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f'mesh.{axis} = {mesh.shape[axis]} does not divide {name} {list(leaf.shape)}, '
                    f'which is split {size} ways at most: choose a divisor of {size}'
                )
        if over_data:
            _split_over_data(spec, leaf.shape, mesh)
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(lay, tree)


def _split_over_data(spec: list[str | None], shape: tuple[int, ...], mesh: Mesh) -> None:
    for dimension, size in enumerate(shape):
        if spec[dimension] is None and size % mesh.shape[DATA] == 0:
            spec[dimension] = DATA
            return


def shardings(tree: Any) -> Any:
    """Those of a tree that `abstract` returned, as jax.jit's `out_shardings` takes them."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Raises UserError unless a batch of `size` images divides evenly over devices and hosts."""
    parts = mesh.devices.size
    if size < 1 or size % parts:
        raise UserError(
            f'{name} = {size} does not divide over {parts} devices: choose a multiple of {parts}'
        )


def host_rows(size: int, mesh: Mesh) -> slice:
    """The consecutive rows of a global batch of `size` that this process must supply."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((size,))
    starts = [index[0].indices(size)[:2] for index in indices.values() if index]
    return slice(min(start for start, _ in starts), max(stop for _, stop in starts))


def to_devices(mesh: Mesh, batch: dict[str, np.ndarray], size: int) -> dict[str, jax.Array]:
    """This process's rows of a global batch of `size` images as arrays over the whole mesh."""
    sharding = batch_sharding(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, rows, (size, *rows.shape[1:]))

    return {name: put(rows) for name, rows in batch.items()}


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Every process's equal copy of `tree`, laid on all devices."""
    sharding = replicated(mesh)

    def put(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def place(mesh: Mesh, tree: Any) -> Any:
    """`tree` with all its arrays on the mesh; those that lie there already stay as they are."""
    devices = set(mesh.devices.flat)

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return replicate(mesh, leaf)

    return jax.tree.map(put, tree)


def exchange(rows: np.ndarray) -> np.ndarray:
    """Every process's `rows` (equal shapes), stacked in the order of the processes, on each."""
    if jax.process_count() == 1:
        return rows[None]
    return np.array(multihost_utils.process_allgather(rows))


def gather(mesh: Mesh, tree: Any) -> Any:
    """Arrays split over the mesh as NumPy arrays, whole on every process."""
    if jax.process_count() > 1:
        # A collective that waits for its input would hold up the devices' other work.
        tree = _gatherer(mesh)(jax.block_until_ready(tree))
    return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=8)
def _gatherer(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def by_image(
    function: Callable[..., Any], mesh: Mesh, arguments: int, whole: int = 0
) -> Callable[..., Any]:
    """`function` of `arguments` batches, run by each device on its own images: no communication.

    `whole` arguments before them are trees that every device has whole.
    """
    split = PartitionSpec((DATA, MODEL))
    in_specs = (PartitionSpec(),) * whole + (split,) * arguments
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=split)
