"""Figure 4: how a map's projection changes while the network learns, over saved checkpoints.

At each step a map is shown by its strongest activation over all images, projected with the weights
of that step; "the sudden jumps in appearance result from a change in the image from which the
strongest activation originates".
"""

from collections.abc import Iterable, Sequence

import numpy as np

from cnn_arch.deconvnet import tiles
from cnn_arch.deconvnet.gallery import Layer
from cnn_arch.deconvnet.page import Page
from cnn_arch.deconvnet.pictures import Pictures


def write(
    page: Page,
    steps: Sequence[int],
    galleries: Iterable[Iterable[Layer]],
    pictures: Pictures,
    method: str,
) -> None:
    """One PNG per layer: a row for each map, a column for each step."""
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    layers: dict[str, Layer] = {}
    for gallery in galleries:
        for layer in gallery:
            layers[layer.name] = layer
            images = layer.best.images[0, list(layer.maps)]
            seen.setdefault(layer.name, []).append((layer.projections[:, 0], images))
    for name, columns in seen.items():
        maps = layers[name].maps
        blocks = [tiles_of[row] for row in range(len(maps)) for tiles_of, _ in columns]
        labels = [f'{m} @ {step:,}' for m in maps for step in steps]
        images = np.stack([images for _, images in columns])
        changes = (np.diff(images, axis=0) != 0).any(0).sum()
        page.picture(
            f'{name}.png',
            tiles.sheet(blocks, labels, len(steps)),
            f'{name}, maps {", ".join(map(str, maps))} (rows) at steps '
            f'{", ".join(f"{step:,}" for step in steps)} (columns): the strongest activation of '
            f'each over {len(pictures):,} images ({pictures.described}), projected to pixels by '
            f'{method} with the weights of that step, each to full contrast around grey. Of '
            f'{changes} of the {len(maps)} maps the strongest image changes on the way.',
        )
