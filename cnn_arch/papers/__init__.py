"""What the papers print. `PAPERS` maps the name before the colon of `--table` to its tables."""

from cnn_arch.papers import demo, vgg
from cnn_arch.papers.published import Paper

PAPERS: dict[str, Paper] = {
    'vgg': vgg.PAPER,
    'demo': demo.PAPER,
}
