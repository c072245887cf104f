"""Whose public weights fit which of our networks: one file per family, tables of names."""

from cnn_arch.weights.families import (
    alexnet,
    bn_inception,
    densenet,
    googlenet,
    resnet,
    senet,
    vgg,
    xception,
)
from cnn_arch.weights.recipes import Family

FAMILIES: dict[str, Family] = {
    'alexnet': alexnet.FAMILY,
    'vgg': vgg.FAMILY,
    'googlenet': googlenet.FAMILY,
    'bn_inception': bn_inception.FAMILY,
    'resnet': resnet.FAMILY,
    'densenet': densenet.FAMILY,
    'xception': xception.FAMILY,
    'senet': senet.FAMILY,
}
