"""Plots with axes, units and legends: the only file that knows matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INCHES, DPI = 3.2, 110  # of a panel's side

COLUMN, ROW = 'centre of the square: column, pixels', 'row, pixels'

Line = tuple[str, np.ndarray, np.ndarray]  # legend, x, y


def panels(rows: int, columns: int, size: float = 1) -> tuple[Figure, np.ndarray]:
    """A figure with rows x columns axes, [rows, columns], `size` times as large as is usual."""
    shape = columns * INCHES * 1.25 * size, rows * INCHES * size
    figure = Figure(figsize=shape, layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def lines(
    axes: Any, curves: Sequence[Line], x: str, y: str, title: str = '', legend: bool = True
) -> None:
    """Curves over named axes; the names carry the units."""
    for label, xs, ys in curves:
        axes.plot(xs, ys, label=label)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize='x-small')


def marks(axes: Any, places: Sequence[tuple[float, str]]) -> None:
    """Dashed vertical lines with their names in the legend."""
    for number, (place, label) in enumerate(places):
        axes.axvline(place, linestyle='--', color=f'C{number}', linewidth=1, label=label)
    axes.legend(fontsize='x-small')


def picture(axes: Any, image: np.ndarray, title: str) -> None:
    """uint8 [H, W, C] over axes in pixels."""
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap='gray' if grey else None, vmin=0, vmax=255)
    axes.set(xlabel='column, pixels', ylabel='row, pixels', title=title)


def heat(
    figure: Figure, axes: Any, values: np.ndarray, places: np.ndarray, title: str, unit: str
) -> None:
    """float [n, n] at the centres `places` of a square, with a scale in `unit`."""
    drawn = axes.imshow(values, extent=_around(places), cmap='jet')
    axes.set(xlabel=COLUMN, ylabel=ROW, title=title)
    figure.colorbar(drawn, ax=axes, label=unit, shrink=0.85)


def regions(axes: Any, classes: np.ndarray, places: np.ndarray, title: str) -> None:
    """int [n, n] of classes at the centres `places` of a square, a colour and a name for each."""
    known, numbers = np.unique(classes, return_inverse=True)
    numbers = numbers.reshape(classes.shape)
    axes.imshow(numbers % 20, extent=_around(places), cmap='tab20', vmin=0, vmax=19)
    axes.set(xlabel=COLUMN, ylabel=ROW, title=title)
    for number in np.argsort(-np.bincount(numbers.ravel()))[:6]:
        colour = colormaps['tab20'](number % 20)
        axes.plot([], [], 's', color=colour, label=f'class {known[number]}')
    axes.legend(fontsize='x-small', loc='upper right')


def _around(places: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of a grid of cells around places in pixels."""
    half = (places[-1] - places[0]) / (len(places) - 1) / 2
    first, last = float(places[0] - half), float(places[-1] + half)
    return first, last, last, first


def rendered(figure: Figure) -> Image.Image:
    """The figure as a picture."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB')
