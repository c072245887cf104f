"""What the papers print. `PAPERS` maps the name before the colon of `--table` to its tables."""

from cnn_arch.papers import (
    alexnet,
    demo,
    densenet,
    googlenet,
    public_weights,
    resnet,
    senet,
    vgg,
    xception,
    zfnet,
)
from cnn_arch.papers.published import Paper

PAPERS: dict[str, Paper] = {
    'alexnet': alexnet.PAPER,
    'zfnet': zfnet.PAPER,
    'vgg': vgg.PAPER,
    'googlenet': googlenet.PAPER,
    'resnet': resnet.PAPER,
    'densenet': densenet.PAPER,
    'xception': xception.PAPER,
    'senet': senet.PAPER,
    'weights': public_weights.PAPER,
    'demo': demo.PAPER,
}
