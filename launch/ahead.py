"""Compiles the real steps for a pod on a machine without a TPU.

libtpu, the TPU's compiler, needs no TPU: `jax.experimental.topologies` describes a pod's devices,
and what is jitted over a mesh of them compiles as it would there.
"""

import dataclasses
import importlib.metadata
import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.data.loader import host_batch, reader_of
from cnn_arch.data.sources import ArraySource
from cnn_arch.errors import UserError
from cnn_arch.evaluation import network as networks
from cnn_arch.evaluation import protocols
from cnn_arch.evaluation.views import views_of
from cnn_arch.training import step as steps
from launch.chips import CHIPS, GIB, Chip
from launch.collectives import Collective, read_collectives

ILSVRC_IMAGES = 1_281_167  # the training set: they set constants of the schedule alone
TOO_LARGE = re.compile(r'(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)')
UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}
# libtpu asks the machine what TPU it has, and says so where there is none.
NO_TPU = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # nobody's TPU is taken: no lock on this machine
}


@dataclasses.dataclass(frozen=True)
class Pod:
    """A topology by its name, e.g. 'v5e:16x16'."""

    name: str
    chip: Chip
    chips: int
    devices: list[Any]

    @property
    def devices_per_chip(self) -> int:
        """Two on chips whose cores JAX sees apart."""
        return len(self.devices) // self.chips


@dataclasses.dataclass(frozen=True)
class Program:
    """A step compiled for a pod; figures are of one chip unless they say otherwise."""

    network: str
    pod: str
    chips: int
    step: str  # 'training' or 'evaluation'
    batch: int  # images, over the pod
    fits: bool
    hbm: float  # bytes it takes
    hbm_of_chip: float
    arguments: float = 0.0  # of these: state and batch ...
    temporaries: float = 0.0  # ... and what lives during a step
    parameters: float = 0.0  # bytes of the parameters, as they lie
    parameters_whole: float = 0.0  # before any splitting
    optimiser: float = 0.0
    optimiser_whole: float = 0.0
    flops: float = 0.0
    traffic: float = 0.0  # bytes to and from HBM in a step
    compute_seconds: float = 0.0  # at the peak rate
    memory_seconds: float = 0.0  # at the peak bandwidth
    collectives: tuple[Collective, ...] = ()

    @property
    def seconds(self) -> float:
        """No step can be shorter."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def images_per_second(self) -> float:
        """Over the pod, at most."""
        return self.batch / self.seconds if self.seconds else 0.0


def find_pod(name: str) -> Pod:
    """Raises UserError for a topology that does not exist, and where libtpu is not installed."""
    kind = name.partition(':')[0]
    if kind not in CHIPS:
        raise UserError(f'--topology={name}: expected CHIP:SHAPE, CHIP one of {", ".join(CHIPS)}')
    try:
        importlib.metadata.version('libtpu')
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            'planning needs the compiler of TPUs: pip install -r requirements-dev.txt'
        ) from error
    for variable, value in NO_TPU.items():
        os.environ.setdefault(variable, value)
    try:
        devices = topologies.get_topology_desc(platform='tpu', topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f'--topology={name}: {str(error).splitlines()[0]}') from error
    chips = len({tuple(device.coords) for device in devices})  # type: ignore[attr-defined]
    return Pod(name, CHIPS[kind], chips, devices)


def training(config: ml_collections.ConfigDict, pod: Pod) -> Program:
    """The training step at `train.batch_size`. Raises UserError where that does not divide."""
    mesh = meshes.create_mesh(config.mesh, pod.devices)
    meshes.check_batch('train.batch_size', config.train.batch_size, mesh)
    model = models.build(config.model)
    state = steps.abstract_state(model, config, mesh)
    plan = steps.plan(config, ILSVRC_IMAGES)
    step = steps.compile_train_step(model, config, mesh, plan.per_epoch)
    batch = _abstract_batch(config, mesh)
    layout = {
        'parameters': per_device(state.params) * pod.devices_per_chip,
        'parameters_whole': whole(state.params),
        'optimiser': per_device(state.optimiser) * pod.devices_per_chip,
        'optimiser_whole': whole(state.optimiser),
    }
    return _compiled(step.lower(state, batch), config, pod, 'training', layout)  # type: ignore[attr-defined]


def evaluation(config: ml_collections.ConfigDict, pod: Pod) -> Program:
    """The evaluation step of `eval.protocol` at `eval.batch_size`: the windows of a view, or whole
    images on the canvas of a landscape photograph of 4 to 3 at the largest scale.
    """
    mesh = meshes.create_mesh(config.mesh, pod.devices)
    plan = protocols.resolve(config)
    size, channels = config.eval.batch_size, config.data.channels
    meshes.check_batch('eval.batch_size', size, mesh)
    model = models.build(config.model)
    network = networks.Network.create(model, config, plan, mesh)
    variables = steps.variables(steps.abstract_state(model, config, mesh).model())
    rows = meshes.batch_sharding(mesh)

    def row(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=rows)

    total = row((config.model.num_classes,), jnp.float32)
    weight = np.float32(1)
    layout = {'parameters': per_device(variables) * pod.devices_per_chip,
              'parameters_whole': whole(variables)}  # fmt: skip
    if any(view.kind == 'whole' for view in views_of(plan)):
        scale = max(plan.scales)
        canvas = (scale, -(-scale * 4 // 3))
        facts = network.ragged().facts(np.tile(canvas, (size, 1)))
        facts = jax.tree.map(lambda fact: row(fact.shape[1:], fact.dtype), facts)
        pixels = row((*canvas, channels), jnp.uint8)
        lowered = networks.add_whole.lower(total, weight, variables, pixels, facts, network)
    else:
        pixels = row((plan.crop, plan.crop, channels), jnp.uint8)
        lowered = networks.add_windows.lower(total, weight, variables, pixels, network)
    return _compiled(lowered, config, pod, 'evaluation', layout)


def _abstract_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """What the loader gives for a step: the shapes of one real sample, by the batch."""
    data, size = config.data, config.train.batch_size
    size_of_small = data.augment.crop == 'padded'  # these have the network's size already
    side = data.augment.size if size_of_small else max(data.augment.size, data.augment.scale_max)
    images = np.zeros((1, side, side, data.channels), np.uint8)
    source = ArraySource('blank', ('blank',), 1, images, np.zeros(1, np.int32))
    sample = host_batch(reader_of(source, config), 1, slice(0, 1), 0)
    rows = meshes.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *value.shape[1:]), value.dtype, sharding=rows)
        for name, value in sample.items()
    }


def _compiled(
    lowered: Any, config: ml_collections.ConfigDict, pod: Pod, step: str, layout: dict[str, float]
) -> Program:
    training_step = step == 'training'
    common: dict[str, Any] = {
        'network': f'{config.model.name}:{config.model.variant}',
        'pod': pod.name,
        'chips': pod.chips,
        'step': step,
        'batch': config.train.batch_size if training_step else config.eval.batch_size,
        'hbm_of_chip': pod.chip.hbm,
        **layout,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = needed(str(error))
        if used is None:
            raise
        return Program(**common, fits=False, hbm=used * pod.devices_per_chip)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    several = pod.devices_per_chip
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results + code
    flops, traffic = cost['flops'] * several, cost['bytes accessed'] * several
    return Program(
        **common,
        fits=used * several <= pod.chip.hbm,
        hbm=used * several,
        arguments=memory.argument_size_in_bytes * several,
        temporaries=memory.temp_size_in_bytes * several,
        flops=flops,
        traffic=traffic,
        compute_seconds=flops / pod.chip.flops,
        memory_seconds=traffic / pod.chip.bandwidth,
        collectives=tuple(read_collectives(compiled.as_text())),
    )


def needed(error: str) -> float | None:
    """The bytes of HBM that the compiler says a program takes, where it refuses it for that."""
    found = TOO_LARGE.search(error) if 'RESOURCE_EXHAUSTED' in error else None
    return float(found[1]) * UNITS[found[2]] if found else None


def per_device(tree: Any) -> float:
    """Bytes of a tree of abstract arrays on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def whole(tree: Any) -> float:
    """Bytes of a tree of abstract arrays, each counted once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
