"""From projections and image patches to sheets of small pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SMALLEST, LARGEST = 48, 96  # pixels of a side of a tile
GAP, MARGIN, LABEL = 2, 10, 14  # pixels between tiles, between maps, above a map
GREY, WHITE = 128, 255
CLIPPED = 0.01  # share of a projection's values that may exceed full contrast


def shown(projection: np.ndarray) -> np.ndarray:
    """float [h, w, C] -> uint8 [h, w, C]: zero is mid-grey, all but CLIPPED keep their contrast."""
    magnitudes = np.abs(projection)
    peak = np.quantile(magnitudes, 1 - CLIPPED) or magnitudes.max()
    scaled = projection * (127 / peak) if peak > 0 else np.zeros_like(projection)
    return np.round(np.clip(scaled, -127, 127) + GREY).astype(np.uint8)


def patch(image: np.ndarray, corner: tuple[int, int], window: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, C] -> the window from a corner on, uint8 [*window, C]; grey beyond the image."""
    result = np.full((*window, image.shape[-1]), GREY, np.uint8)
    ends = zip(corner, window, image.shape, strict=False)
    spans = [(max(start, 0), min(start + size, side)) for start, size, side in ends]
    inside, outside = (
        tuple(slice(a - shift, b - shift) for (a, b), shift in zip(spans, shifts, strict=True))
        for shifts in (corner, (0, 0))
    )
    result[inside] = image[outside]
    return result


def tile_shape(window: tuple[int, int]) -> tuple[int, int]:
    """The size at which a window is shown: enlarged by a whole number, or reduced."""
    side = max(window)
    if side > LARGEST:
        rows, columns = (max(1, round(length * LARGEST / side)) for length in window)
        return rows, columns
    factor = max(1, -(-SMALLEST // side))
    return window[0] * factor, window[1] * factor


def tile(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w, C] -> uint8 RGB [*tile_shape, 3]."""
    rows, columns = tile_shape(pixels.shape[:2])
    larger = rows > pixels.shape[0]
    method = Image.Resampling.NEAREST if larger else Image.Resampling.BOX
    grey = pixels.shape[-1] == 1
    picture = Image.fromarray(pixels[..., 0] if grey else pixels).convert('RGB')
    return np.asarray(picture.resize((columns, rows), method))


def grid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [N, h, w, 3] -> one picture, `columns` tiles in a row, white between them."""
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    shape = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3
    picture = np.full(shape, WHITE, np.uint8)
    for number, one in enumerate(tiles):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        picture[top : top + height, left : left + width] = one
    return picture


def sheet(blocks: Sequence[np.ndarray], labels: Sequence[str], columns: int = 0) -> Image.Image:
    """Blocks of one size, each below its label; by default about as wide as high."""
    height, width = (side + MARGIN for side in blocks[0].shape[:2])
    height += LABEL
    columns = columns or max(1, round((len(blocks) * height / width) ** 0.5))
    columns = min(columns, len(blocks))
    rows = -(-len(blocks) // columns)
    result = Image.new('RGB', (columns * width + MARGIN, rows * height + MARGIN), 'white')
    draw = ImageDraw.Draw(result)
    for number, (block, label) in enumerate(zip(blocks, labels, strict=True)):
        left = MARGIN + number % columns * width
        top = MARGIN + number // columns * height
        draw.text((left, top), label, fill='black')
        result.paste(Image.fromarray(block), (left, top + LABEL))
    return result
