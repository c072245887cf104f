"""The networks, one paper per file. `MODELS` maps `config.model.name` to its module."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from cnn_arch.errors import UserError
from cnn_arch.mesh import Rules
from cnn_arch.models import (
    alexnet,
    bn_inception,
    densenet,
    googlenet,
    lenet1,
    lenet5,
    resnet,
    senet,
    vgg,
    xception,
    zfnet,
)
from cnn_arch.models.layers import BatchNormSettings

MODELS: dict[str, tuple[type[nn.Module], dict[str, dict[str, Any]]]] = {
    'lenet1': (lenet1.LeNet1, lenet1.VARIANTS),
    'lenet5': (lenet5.LeNet5, lenet5.VARIANTS),
    'alexnet': (alexnet.AlexNet, alexnet.VARIANTS),
    'zfnet': (zfnet.ZFNet, zfnet.VARIANTS),
    'vgg': (vgg.VGG, vgg.VARIANTS),
    'googlenet': (googlenet.GoogLeNet, googlenet.VARIANTS),
    'densenet': (densenet.DenseNet, densenet.VARIANTS),
    'xception': (xception.Xception, xception.VARIANTS),
    'resnet': (resnet.ResNet, resnet.VARIANTS),
    'bn_inception': (bn_inception.BNInception, bn_inception.VARIANTS),
    'senet': (senet.SENet, senet.VARIANTS),
}
# Models whose parameters are split over the mesh axis `model`.
SHARDING: dict[str, Rules] = {
    'alexnet': alexnet.SHARDING,
    'zfnet': zfnet.SHARDING,
    'vgg': vgg.SHARDING,
}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def sharding_rules(config: ml_collections.ConfigDict) -> Rules:
    """How the parameters of the network that `config.model` names lie on a mesh."""
    return SHARDING.get(config.name, {})


def build(config: ml_collections.ConfigDict) -> nn.Module:
    """The network that `config.model` describes, without parameters.

    Raises UserError for a name, variant or dtype that does not exist.
    """
    if config.name not in MODELS:
        raise UserError(f'model.name = {config.name!r}: choose one of {", ".join(MODELS)}')
    cls, variants = MODELS[config.name]
    if config.variant not in variants:
        raise UserError(
            f'model.variant = {config.variant!r}: {config.name} has {", ".join(variants)}'
        )
    if config.dtype not in DTYPES:
        raise UserError(f'model.dtype = {config.dtype!r}: choose one of {", ".join(DTYPES)}')
    fields = {**variants[config.variant], **config.options.to_dict()}
    names = {field.name for field in dataclasses.fields(cls)}
    if 'batch_norm' in names:  # a variant or an option turns it off with None or False
        keys = ('group_size', 'momentum', 'epsilon')
        settings = BatchNormSettings(**{key: config.batch_norm[key] for key in keys})
        fields['batch_norm'] = settings if fields.get('batch_norm', True) else None
    return cls(**fields, num_classes=config.num_classes, dtype=DTYPES[config.dtype])
