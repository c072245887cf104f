"""The studies that the command offers, each with its own options."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from cnn_arch import configuration
from cnn_arch.data import sources
from cnn_arch.deconvnet import evolution, filters, gallery, invariance, occlusion
from cnn_arch.deconvnet.network import LOGITS, Network, check_method, choose_layers
from cnn_arch.deconvnet.page import Page
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.deconvnet.subject import Subject, restored
from cnn_arch.deconvnet.top import check_enough
from cnn_arch.errors import UserError
from cnn_arch.models.backward import RULES
from cnn_arch.training import checkpoint
from cnn_arch.weights import trained


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for; `found` fits `config`."""

    args: argparse.Namespace
    config: ml_collections.ConfigDict
    found: trained.Trained
    network: Network

    def stored(self) -> dict[str, Any]:
        """Shapes of the variables that lie there."""
        return {name: tree for name, tree in self.found.stored().items() if tree}

    def layers(self, names: str) -> dict[str, Fields]:
        """Those named, with commas; none named: all of convolutions."""
        return choose_layers(self.network, self.stored(), _words(names))

    def maps(self) -> dict[str, tuple[Fields, Sequence[int]]]:
        """The layers and their maps that --layers and --maps choose."""
        text, layers = self.args.maps, self.layers(self.args.layers)
        return {
            name: (fields, range(fields.maps) if text == 'all'
                   else _numbers('--maps', text, fields.maps, f'{name} has maps'))
            for name, fields in layers.items()
        }  # fmt: skip

    def pictures(self, by_class: bool = False) -> Pictures:
        """Of the source's evaluation split; any will do, unless `by_class` asks for the network's.

        Raises UserError that names the difference where the classes are others.
        """
        found = self.found
        if not by_class or (isinstance(found, trained.Weights) and found.missing):
            return Pictures(sources.open_source(self.config.data, 'eval'), self.config)
        source = sources.open_for(self.config, 'eval', found.classes, found.folder)
        return Pictures(source, self.config)

    def images(self, pictures: Pictures) -> list[int]:
        """Those that --images chooses."""
        where = f'{pictures.source.name} has images'
        return _numbers('--images', self.args.images, len(pictures), where)

    def subject(self, pictures: Pictures, step: int | None = None) -> Subject:
        """The network with its variables, at another step of its run if one is given."""
        found = self.found if step is None else trained.find(self.found.folder, step)
        variables = restored(found, self.config, self.network)
        return Subject(self.network, variables, pictures, self.config.eval.batch_size)


Write = Callable[[Page], None]


@dataclasses.dataclass(frozen=True)
class Study:
    """`options` adds its own; `prepare` raises UserError for what cannot be, before any work."""

    options: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[Request], Write]


# ---- figure 2


def _gallery_options(parser: argparse.ArgumentParser) -> None:
    _layer_options(parser, maps='all')
    _method_option(parser)
    parser.add_argument(
        '--show', default='both', choices=gallery.SHOW, help='projections, image patches, or both'
    )


def _gallery(request: Request) -> Write:
    args = request.args
    check_method(request.network, args.method)
    chosen, pictures = request.maps(), request.pictures()
    check_enough(pictures)
    subject = request.subject(pictures)
    return lambda page: gallery.write(
        page, gallery.make(subject, chosen, args.method), pictures, args.method, args.show
    )


# ---- figure 6


def _filters_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--against', metavar='CONFIG', help='another network beside this one')
    parser.add_argument(
        '--against-dir', type=pathlib.Path, metavar='DIR', help='its workdir or imported weights'
    )


def _filters(request: Request) -> Write:
    args = request.args
    if bool(args.against) != bool(args.against_dir):
        raise UserError('--against=CONFIG and --against-dir=DIR go together')
    variables = restored(request.found, request.config, request.network)
    networks = [filters.of(request.network, variables, args.config)]
    if args.against:
        config = configuration.load(args.against)
        found = trained.find(args.against_dir)
        found.check(config)
        network = Network.create(config, request.network.mesh)
        networks.append(filters.of(network, restored(found, config, network), args.against))
    return lambda page: filters.write(page, networks)


# ---- figure 7


def _occlusion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--layer', default='', help='default: the last of convolutions')
    _method_option(parser)
    _images_option(parser, '0-2')
    parser.add_argument('--square', type=int, default=0, metavar='PIXELS',
                        help='side of the grey square; default: a fifth of the image')  # fmt: skip


def _occlusion(request: Request) -> Write:
    args, network = request.args, request.network
    check_method(network, args.method)
    square = args.square or network.size // 5
    if not 1 <= square < network.size:
        raise UserError(f'--square={square}: the images have {network.size} pixels a side')
    layer = list(request.layers(args.layer))[-1]
    pictures = request.pictures(by_class=True)
    images = request.images(pictures)
    subject = request.subject(pictures)
    return lambda page: occlusion.write(
        page, occlusion.measure(subject, layer, images, square, args.method),
        layer, square, pictures, args.method,
    )  # fmt: skip


# ---- figure 5


def _invariance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--layers', default='', help='default: the first and the last with weights')
    _images_option(parser, '0-4')


def _invariance(request: Request) -> Write:
    known = list(request.network.fields(request.stored()))
    hidden = [name for name in known if name != LOGITS]
    names = list(request.layers(request.args.layers or f'{hidden[0]},{hidden[-1]}'))
    pictures = request.pictures(by_class=True)
    images = request.images(pictures)
    subject = request.subject(pictures)
    return lambda page: invariance.write(
        page, list(invariance.measure(subject, tuple(names), images)), names, pictures
    )


# ---- figure 4


def _evolution_options(parser: argparse.ArgumentParser) -> None:
    _layer_options(parser, maps='0-5')
    _method_option(parser)


def _evolution(request: Request) -> Write:
    args = request.args
    if not isinstance(request.found, trained.Run):
        raise UserError('evolution needs the checkpoints of a run: give --workdir=DIR')
    check_method(request.network, args.method)
    chosen, pictures = request.maps(), request.pictures()
    check_enough(pictures)
    steps = checkpoint.steps(request.found.folder)
    galleries = (
        gallery.make(request.subject(pictures, step), chosen, args.method, ranks=1)
        for step in steps
    )
    return lambda page: evolution.write(page, steps, galleries, pictures, args.method)


STUDIES = {
    'gallery': Study(_gallery_options, _gallery),
    'filters': Study(_filters_options, _filters),
    'occlusion': Study(_occlusion_options, _occlusion),
    'invariance': Study(_invariance_options, _invariance),
    'evolution': Study(_evolution_options, _evolution),
}


# ---- options that studies share


def _layer_options(parser: argparse.ArgumentParser, maps: str) -> None:
    parser.add_argument('--layers', default='', help='default: all of convolutions')
    parser.add_argument('--maps', default=maps, help=f'numbers and ranges, or all; default: {maps}')


def _method_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--method', default=RULES[0], help=f'{", ".join(RULES)}; the first if none')


def _images_option(parser: argparse.ArgumentParser, images: str) -> None:
    parser.add_argument(
        '--images', default=images, help=f'numbers and ranges of the source; default: {images}'
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(',') if word.strip()]


def _numbers(option: str, text: str, count: int, where: str) -> list[int]:
    """'0,5,16-31' as numbers. Raises UserError where it is not such a list, or beyond `count`."""
    result: list[int] = []
    for word in _words(text):
        first, dash, last = word.partition('-')
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f'{option}={text}: expected numbers and ranges, e.g. 0,5,16-31')
        result.extend(range(int(first), int(last or first) + 1))
    if not result or max(result) >= count:
        raise UserError(f'{option}={text}: {where} 0 to {count - 1}')
    return sorted(set(result))
