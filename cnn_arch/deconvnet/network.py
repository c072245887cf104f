"""A network that is looked into: its layers as maps, whatever of its weights there is."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from cnn_arch import models
from cnn_arch.data import preprocess
from cnn_arch.deconvnet import receptive_field
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.errors import UserError
from cnn_arch.evaluation import dense
from cnn_arch.evaluation import precision as precisions
from cnn_arch.models.backward import RULES

LOGITS = 'logits'
NOT_LAYERS = ('input',)  # endpoints that are the image itself
BETWEEN = ('pool', 'norm', 'input')  # layers that are not looked at unless they are named

# Why the paper's deconvnet has no meaning in the other families.
LENET = 'it averages where a deconvnet needs the switches of max pooling, and ends in tanh'
NO_DECONVNET = {
    'lenet1': LENET,
    'lenet5': LENET,
    'resnet': 'its shortcuts add signals, which a way back cannot take apart',
    'densenet': 'its normalisation comes before ReLU and its transitions average: no switches',
    'xception': 'its shortcuts add signals, which a way back cannot take apart',
    'bn_inception': 'its modules average and normalise: no switches',
    'senet': 'its shortcuts add signals and its gates multiply them',
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A model with the arithmetic around it. Equal ones share their compiled functions."""

    model: nn.Module = dataclasses.field(compare=False)
    family: str
    text: str  # the model's, which tells models apart
    data: ml_collections.FrozenConfigDict  # config.data: mean, std, channels
    size: int  # pixels, side of the images
    precision: str  # config.eval.precision
    mesh: Mesh

    @classmethod
    def create(cls, config: ml_collections.ConfigDict, mesh: Mesh) -> 'Network':
        """The network of `config` on windows of its test size."""
        precision = config.eval.precision
        model = precisions.arithmetic(models.build(config.model), precision)
        data = ml_collections.FrozenConfigDict(config.data)
        size = config.eval.crop or config.data.augment.size
        return cls(model, config.model.name, repr(model), data, size, precision, mesh)

    @property
    def abstract_variables(self) -> Any:
        """Shapes and dtypes of all variables."""
        return _abstract_variables(self)

    @property
    def abstract_pixels(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image as the network reads it, [1, H, W, C]."""
        return jax.ShapeDtypeStruct((1, self.size, self.size, self.data.channels), jnp.float32)

    def pixels(self, images: jax.Array) -> jax.Array:
        """uint8 [N, H, W, C] -> float32, as the network reads it."""
        return preprocess.normalise({'image': images}, self.data)

    def layers(self, variables: Any, pixels: jax.Array) -> dict[str, jax.Array]:
        """Every layer as maps, [N, H, W, C] -> {'conv1': [N, h, w, maps], ..., 'logits'}.

        What needs weights that are not there is not a number.
        """
        variables = _completed(variables, self.abstract_variables)
        with precisions.products(self.precision):
            logits, endpoints = self.model.apply(variables, pixels)
        found = {name: x for name, x in endpoints.items() if name not in NOT_LAYERS}
        found[LOGITS] = logits
        return {name: x if x.ndim == 4 else x[:, None, None] for name, x in found.items()}

    def fields(self, variables: Any) -> dict[str, Fields]:
        """Of each layer that the variables suffice for: its receptive fields."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
        return _fields(self, jax.tree.structure(shapes), tuple(jax.tree.leaves(shapes)))


def choose_layers(network: Network, variables: Any, names: Sequence[str]) -> dict[str, Fields]:
    """The named layers with their receptive fields; none named: all of convolutions.

    Raises UserError, with the layers that exist, for another name and for a layer whose weights
    are missing.
    """
    known = network.fields(variables)
    if not names:
        return {
            name: fields
            for name, fields in known.items()
            if fields.places > 1 and not name.startswith(BETWEEN)
        }
    every = network.fields(network.abstract_variables)
    for name in names:
        if name not in every:
            raise UserError(f'no layer {name!r} in {network.family}: it has {", ".join(every)}')
        if name not in known:
            raise UserError(
                f'layer {name} needs weights that are missing here: there are {", ".join(known)}'
            )
    return {name: known[name] for name in names}


def check_method(network: Network, method: str) -> None:
    """Raises UserError where a way back does not exist, or has no meaning in the network."""
    if method not in RULES:
        raise UserError(f'--method={method}: choose one of {", ".join(RULES)}')
    if method != 'gradient' and network.family in NO_DECONVNET:
        raise UserError(
            f'--method={method} has no meaning in {network.family}: '
            f'{NO_DECONVNET[network.family]}; use --method=gradient'
        )
    if method != 'gradient' and getattr(network.model, 'activation', 'relu') != 'relu':
        raise UserError(
            f'--method={method} has no meaning in a network of {network.model.activation}: the way '
            'back is rectified; use --method=gradient'
        )


@functools.lru_cache(maxsize=16)
def _abstract_variables(network: Network) -> Any:
    return dense.abstract_variables(network.model, network.data.augment.size, network.data.channels)


@functools.lru_cache(maxsize=16)
def _fields(network: Network, structure: Any, shapes: tuple[Any, ...]) -> dict[str, Fields]:
    given = set(_paths(jax.tree.unflatten(structure, shapes)))
    missing = [path not in given for path in _paths(network.abstract_variables)]
    return receptive_field.of_layers(
        network.layers, network.abstract_variables, network.abstract_pixels, missing
    )


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _completed(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """`given` with NaN for what it lacks. The compiler drops what no result depends on."""
    return {
        name: _completed(given.get(name, {}), leaf)
        if isinstance(leaf, dict)
        else given.get(name, jnp.broadcast_to(jnp.asarray(jnp.nan, leaf.dtype), leaf.shape))
        for name, leaf in wanted.items()
    }
