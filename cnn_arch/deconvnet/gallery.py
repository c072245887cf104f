"""Figure 2: the top nine of each map, projected to pixels, beside the patches that caused them."""

import csv
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnn_arch import mesh as meshes
from cnn_arch.deconvnet import tiles, top
from cnn_arch.deconvnet.page import Page
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.projection import project
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.deconvnet.subject import Subject
from cnn_arch.deconvnet.top import RANKS, Best

UNITS = 8  # units of one image that are projected at once
OVERVIEW, OVERVIEW_SIDE = 4, 240  # maps of each layer in the overview, pixels of a 3x3 grid there
SHOW = ('both', 'projections', 'patches')


@dataclasses.dataclass
class Layer:
    """What is shown of a layer: chosen maps, with [maps, ranks] tiles uint8 [h, w, 3] each."""

    name: str
    maps: Sequence[int]
    fields: Fields
    best: Best
    ranks: dataclasses.InitVar[int] = RANKS
    projections: np.ndarray = dataclasses.field(init=False)
    patches: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self, ranks: int) -> None:
        shape = len(self.maps), ranks, *tiles.tile_shape(self.fields.shape), 3
        self.projections, self.patches = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)

    def block(self, place: int, show: str) -> np.ndarray:
        """The picture of one map: 3x3 projections, 3x3 patches."""
        parts = {'projections': self.projections, 'patches': self.patches}
        wanted = list(parts) if show == 'both' else [show]
        grids = [tiles.grid(parts[name][place], 3) for name in wanted]
        gap = np.full((len(grids[0]), 3 * tiles.GAP, 3), tiles.WHITE, np.uint8)
        return np.concatenate([grids[0], *(x for g in grids[1:] for x in (gap, g))], axis=1)

    @property
    def silent(self) -> int:
        """Chosen maps that no image excites."""
        return int((self.best.values[0, list(self.maps)] <= 0).sum())


@dataclasses.dataclass(frozen=True)
class Unit:
    """One of a map's nine: `place` counts the chosen maps, `rank` from 0 on."""

    image: int
    place: int
    rank: int
    map: int
    position: int  # flat h * W + w


def make(
    subject: Subject,
    layers: dict[str, tuple[Fields, Sequence[int]]],
    method: str,
    ranks: int = RANKS,
) -> Iterator[Layer]:
    """Each layer of {name: (fields, maps)} with its strongest `ranks` per map; no more is held."""
    best = top.strongest(subject, {name: fields for name, (fields, _) in layers.items()})
    for name, (fields, maps) in layers.items():
        logging.info('projecting %d maps of %s', len(maps), name)
        layer = Layer(name, maps, fields, best[name], ranks)
        _fill(layer, subject, method)
        yield layer


def _fill(layer: Layer, subject: Subject, method: str) -> None:
    """Projects a layer's units and cuts their patches."""
    best, fields, network = layer.best, layer.fields, subject.network
    units = [
        Unit(int(best.images[rank, m]), place, rank, m, int(best.places[rank, m]))
        for place, m in enumerate(layer.maps)
        for rank in range(layer.projections.shape[1])
    ]
    groups = list(_groups(units))
    images = subject.pictures.read_all(group[0].image for group in groups)
    for start in range(0, len(groups), network.mesh.size):
        batch = groups[start : start + network.mesh.size]
        read = [image for _, image in zip(batch, images, strict=False)]
        signals = _project(layer, subject, batch, read, method)
        for group, image, row in zip(batch, read, signals, strict=False):
            assert image is not None  # it was read before
            for unit, signal in zip(group, row, strict=False):
                patch = tiles.patch(image, fields.corner(unit.position), fields.shape)
                layer.projections[unit.place, unit.rank] = tiles.tile(tiles.shown(signal))
                layer.patches[unit.place, unit.rank] = tiles.tile(patch)


def _groups(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """At most UNITS units of one image, image by image."""
    by_image: dict[int, list[Unit]] = {}
    for unit in units:
        by_image.setdefault(unit.image, []).append(unit)
    for _, group in sorted(by_image.items()):
        for start in range(0, len(group), UNITS):
            yield group[start : start + UNITS]


def _project(
    layer: Layer,
    subject: Subject,
    groups: Sequence[Sequence[Unit]],
    images: Sequence[np.ndarray | None],
    method: str,
) -> np.ndarray:
    """The projections of groups of units, one image each, float32 [groups, UNITS, h, w, C]."""
    network, fields = subject.network, layer.fields
    size = network.mesh.size
    inputs = {
        'images': np.zeros((size, *subject.pictures.shape), np.uint8),
        'maps': np.zeros((size, UNITS), np.int32),
        'places': np.zeros((size, UNITS), np.int32),
        'corners': np.zeros((size, UNITS, 2), np.int32),
    }
    for row, (group, image) in enumerate(zip(groups, images, strict=True)):
        inputs['images'][row] = image
        for column, unit in enumerate(group):
            inputs['maps'][row, column] = unit.map
            inputs['places'][row, column] = unit.position
            inputs['corners'][row, column] = fields.corner(unit.position)
    mine = meshes.host_rows(size, network.mesh)
    placed = meshes.to_devices(network.mesh, {k: v[mine] for k, v in inputs.items()}, size)
    signals = project(
        subject.variables, *placed.values(),
        network=network, layer=layer.name, method=method, window=fields.shape,
    )  # fmt: skip
    return meshes.gather(network.mesh, signals)


def write(page: Page, layers: Iterator[Layer], pictures: Pictures, method: str, show: str) -> None:
    """One PNG per layer, an overview of all, and top_nine.csv."""
    caption = (
        'the nine strongest activations of each map, strongest first (of an image only the '
        f'strongest place counts), over {len(pictures):,} images ({pictures.described})'
    )
    look = {
        'both': f'left, projected to pixels by {method}, each to full contrast around grey; right, '
        'the patches of the images that caused them',
        'projections': f'projected to pixels by {method}, each to full contrast around grey',
        'patches': 'the patches of the images that caused them',
    }[show]
    strips, facts = [], []
    overview_at = len(page.parts)
    with (page.folder / 'top_nine.csv').open('w', newline='') as file:
        table = csv.writer(file)
        table.writerow(['layer', 'map', 'rank', 'activation', 'image', 'top', 'left', 'height',
                        'width'])  # fmt: skip
        for layer in layers:
            _write_rows(table, layer, pictures)
            places = range(len(layer.maps))
            blocks = [layer.block(place, show) for place in places]
            labels = [f'{layer.name} {m}' for m in layer.maps]
            h, w = layer.fields.shape
            text = f'{layer.name}: {caption}; receptive field {h}x{w} pixels; {look}.'
            if layer.silent:
                text += f' {layer.silent} of {len(layer.maps)} maps are not excited by any image.'
            page.picture(f'{layer.name}.png', tiles.sheet(blocks, labels), text)
            spread = np.unique(np.linspace(0, len(blocks) - 1, OVERVIEW).astype(int))
            strips.append(overview_strip([blocks[i] for i in spread], [labels[i] for i in spread]))
            facts.append([layer.name, str(layer.fields.maps), str(len(layer.maps)), f'{h}x{w}',
                          str(layer.silent)])  # fmt: skip
    page.picture('overview.jpg', overview(strips), f'Some maps of each layer: {caption}; {look}.')
    page.parts.insert(overview_at, page.parts.pop())
    page.table(
        ['layer', 'maps', 'shown', 'receptive field, pixels', 'not excited by any image'], facts
    )
    page.text('top_nine.csv: activation (in the unit of the layer), image and receptive field '
              '(pixels of the window) of each.')  # fmt: skip


def _write_rows(table: Any, layer: Layer, pictures: Pictures) -> None:
    height, width = layer.fields.shape
    for m in layer.maps:
        for rank in range(RANKS):
            value, image, place = (part[rank, m] for part in layer.best)
            key = pictures.example(int(image)).key
            corner = layer.fields.corner(int(place))
            table.writerow([layer.name, m, rank + 1, f'{value:.6g}', key, *corner, height, width])


def overview_strip(blocks: Sequence[np.ndarray], labels: Sequence[str]) -> Image.Image:
    """A layer's row of the overview: blocks of 3x3 grids, reduced where they are large."""
    height, width = blocks[0].shape[:2]
    grids = max(1, round(width / height))
    ratio = min(1.0, grids * OVERVIEW_SIDE / width)
    size = round(width * ratio), round(height * ratio)
    reduced = [Image.fromarray(b).resize(size, Image.Resampling.LANCZOS) for b in blocks]
    return tiles.sheet([np.asarray(picture) for picture in reduced], labels, OVERVIEW)


def overview(strips: Sequence[Image.Image]) -> Image.Image:
    """One strip below the other."""
    shape = max(strip.width for strip in strips), sum(strip.height for strip in strips)
    result, top_edge = Image.new('RGB', shape, 'white'), 0
    for strip in strips:
        result.paste(strip, (0, top_edge))
        top_edge += strip.height
    return result
