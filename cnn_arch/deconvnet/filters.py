"""The first layer's filters, and what its window and stride do to frequencies (section 4.1).

"The first layer filters are a mix of extremely high and low frequency information, with little
coverage of the mid frequencies", and "the 2nd layer visualization shows aliasing artifacts caused
by the large stride 4": so 11x11 with stride 4 became 7x7 with stride 2 (figure 6). Measured here
from the filters alone: which are dead, in which band of frequencies each lies, and how much of its
power is beyond half a cycle per stride, where the map's sampling folds it onto lower frequencies.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from cnn_arch.deconvnet import plots, tiles
from cnn_arch.deconvnet.network import Network
from cnn_arch.deconvnet.page import Page
from cnn_arch.errors import UserError
from cnn_arch.evaluation import ragged

# Cycles per pixel, distance from zero in the plane of frequencies; half a cycle is the image's end.
LOW, HIGH = 0.1, 0.25
DEAD = 0.05  # share of the layer's median norm below which a filter counts as dead
POINTS = 64  # of the Fourier transform along an axis: a finer grid than the windows'


@dataclasses.dataclass(frozen=True)
class Filters:
    """A first layer: kernels float [h, w, C, maps] and its stride in pixels."""

    name: str  # of the network
    kernels: np.ndarray
    stride: int

    @property
    def alive(self) -> np.ndarray:
        """Which filters are not dead, bool [maps]."""
        norms = np.sqrt(np.square(self.kernels).sum((0, 1, 2)))
        return norms >= DEAD * np.median(norms)

    def power(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in cycles per pixel [POINTS^2, 2], power of each filter [POINTS^2, maps]."""
        spectrum = np.fft.fft2(self.kernels, (POINTS, POINTS), axes=(0, 1))
        one = np.fft.fftfreq(POINTS)
        grid = np.stack(np.meshgrid(one, one, indexing='ij'), axis=-1)
        power = np.square(np.abs(spectrum)).sum(2)
        return grid.reshape(-1, 2), power.reshape(-1, power.shape[-1])

    def measures(self) -> dict[str, float]:
        """Percentages: of filters (dead; living ones by band), of the living ones' mean power."""
        frequencies, power = self.power()
        power = power[:, self.alive] / power[:, self.alive].sum(0)
        radius = np.hypot(*frequencies.T)
        centre = radius @ power  # of each filter's power, cycles per pixel
        folded = (np.abs(frequencies) > 1 / (2 * self.stride)).any(1)
        middle = (radius >= LOW) & (radius < HIGH)
        shares = {
            'dead filters': ~self.alive,
            'filters of low frequency': centre < LOW,
            'filters of middle frequency': (centre >= LOW) & (centre < HIGH),
            'filters of high frequency': centre >= HIGH,
            'power in the middle band': power[middle].sum(0),
            'power that the stride folds': power[folded].sum(0),
        }
        return {name: 100 * float(np.mean(values)) for name, values in shares.items()}

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in cycles per pixel and the living filters' mean power there, percent."""
        frequencies, power = self.power()
        mean = (power[:, self.alive] / power[:, self.alive].sum(0)).mean(1)
        edges = np.linspace(0, 0.5, 21)
        sums, _ = np.histogram(np.hypot(*frequencies.T), edges, weights=mean)
        return (edges[1:] + edges[:-1]) / 2, 100 * sums


def of(network: Network, variables: Any, name: str) -> Filters:
    """The filters of a network's first convolution. Raises UserError where they are missing."""
    traced = jax.make_jaxpr(network.layers)(network.abstract_variables, network.abstract_pixels)
    program = ragged.Program(traced)
    first = next(op for op in program.all_ops if op.name == 'conv_general_dilated')
    shape = program.shapes[first.operands[1]]
    leaves = jax.tree_util.tree_leaves_with_path(network.abstract_variables)
    path = next(path for path, leaf in leaves if leaf.shape == shape)
    found = variables
    for key in path:
        if key.key not in found:
            raise UserError(f'{name}: the filters of the first layer are missing')
        found = found[key.key]
    return Filters(name, np.asarray(found, np.float64), first.params['window_strides'][0])


def write(page: Page, networks: list[Filters]) -> None:
    """Figure 6 (b) and (c) with its numbers: the filters, their spectra, the measures."""
    for number, filters in enumerate(networks, 1):
        h, w, _, maps = filters.kernels.shape
        blocks = [tiles.tile(tiles.shown(filters.kernels[..., m])) for m in range(maps)]
        alive = filters.alive
        labels = [str(m) if alive[m] else f'{m} dead' for m in range(maps)]
        page.picture(
            f'filters{number}.png',
            tiles.sheet(blocks, labels),
            f'{filters.name}: all {maps} filters of the first layer, {h}x{w} pixels, stride '
            f'{filters.stride}, each to full contrast around grey. No images are involved.',
        )
    figure, axes = plots.panels(1, 1, size=1.6)
    plots.lines(
        axes[0, 0],
        [(f.name, *f.curve()) for f in networks],
        'spatial frequency, cycles per pixel',
        'share of the power, percent per 0.025 cycles',
    )
    folds = [(1 / (2 * f.stride), f'half a cycle per stride: {f.name}') for f in networks]
    plots.marks(axes[0, 0], [(f, label) for f, label in folds if f < 0.5])
    page.picture(
        'spectra.png',
        plots.rendered(figure),
        'Power spectrum of the first layer, the mean of its living filters; no images are '
        'involved. Right of its dashed line a network samples its maps too coarsely: what lies '
        'there is folded onto lower frequencies.',
    )
    measures = [f.measures() for f in networks]
    page.table(
        ['percent', *(f.name for f in networks)],
        [[name, *(f'{m[name]:.1f}' for m in measures)] for name in measures[0]],
    )
    page.text(
        f'A filter is dead below {DEAD:.0%} of the median norm. Its frequency is the centre of its '
        f'power: low below {LOW}, high from {HIGH} cycles per pixel on. Folded is what lies beyond '
        'half a cycle per stride along an axis.'
    )
