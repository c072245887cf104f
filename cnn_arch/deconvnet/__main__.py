"""Shows what a network's feature maps respond to, as Zeiler & Fergus 2014 do in figure 2.

    python -m cnn_arch.deconvnet --config=CONFIG (--workdir=DIR [--step=N] | --weights=DIR)
                                 --config.data.dir=DIR --out=DIR
                                 [--layers=conv1,conv5] [--maps=0,5,16-31]
                                 [--method=deconvnet|guided|gradient]
                                 [--show=both|projections|patches]

DIR of --out then holds index.html, which opens from disk, and one PNG per layer. Weights imported
with --partial serve as far as they reach. AlexNet, ZFNet, VGG and GoogLeNet have deconvnets;
of the other networks --method=gradient shows plain gradients.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from cnn_arch import commands, mesh
from cnn_arch.arguments import Parser
from cnn_arch.data import sources
from cnn_arch.deconvnet import gallery, page, top
from cnn_arch.deconvnet.network import Network, check_method, choose_layers
from cnn_arch.deconvnet.pictures import Pictures
from cnn_arch.deconvnet.receptive_field import Fields
from cnn_arch.errors import UserError
from cnn_arch.models.backward import RULES
from cnn_arch.weights import trained


def main(argv: list[str]) -> int:
    args, config = commands.parse(_parser(), argv)
    page.check_target(args.out)
    found = trained.find(args.workdir or args.weights, args.step)
    found.check(config)
    found.adapt(config, evaluation=True)
    commands.apply_overrides(config, commands.split_overrides(argv)[0])
    devices = mesh.create_mesh(config.mesh)
    network = Network.create(config, devices)
    check_method(network, args.method)
    stored = {name: tree for name, tree in found.stored().items() if tree}
    layers = choose_layers(network, stored, _words(args.layers))
    chosen = {name: (fields, _maps(args.maps, name, fields)) for name, fields in layers.items()}
    pictures = Pictures(sources.open_source(config.data, 'eval'), config)
    top.check_enough(pictures)
    partial = {'partial': True} if isinstance(found, trained.Weights) else {}
    variables = found.restore(config, devices, **partial)

    with page.created(args.out, f'{args.config}, {found.label}') as result:
        shown = gallery.make(
            variables, network, chosen, pictures, config.eval.batch_size, args.method
        )
        gallery.write(result, shown, pictures, args.method, args.show)
    print(f'{len(layers)} layers of {args.config}: {args.out / "index.html"}')
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog='python -m cnn_arch.deconvnet',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('--workdir', type=pathlib.Path, metavar='DIR', help='of a run')
    network.add_argument('--weights', type=pathlib.Path, metavar='DIR', help='imported weights')
    parser.add_argument('--step', type=int, help='of the checkpoint; default: the newest')
    parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR', help='new folder')
    parser.add_argument('--layers', default='', help='default: all of convolutions')
    parser.add_argument('--maps', default='all', help='numbers and ranges; default: all')
    parser.add_argument('--method', default='deconvnet', help=', '.join(RULES))
    parser.add_argument('--show', default='both', choices=gallery.SHOW)
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(',') if word.strip()]


def _maps(text: str, layer: str, fields: Fields) -> Sequence[int]:
    """'0,5,16-31' as numbers. Raises UserError where it is not such a list or beyond the maps."""
    if text == 'all':
        return range(fields.maps)
    result: list[int] = []
    for word in _words(text):
        first, _, last = word.partition('-')
        if not first.isdigit() or (last or '0').isdigit() is False:
            raise UserError(f'--maps={text}: expected numbers and ranges, e.g. 0,5,16-31')
        result.extend(range(int(first), int(last or first) + 1))
    if not result or max(result) >= fields.maps:
        raise UserError(f'--maps={text}: {layer} has maps 0 to {fields.maps - 1}')
    return sorted(set(result))


if __name__ == '__main__':
    commands.run(main, sys.argv[1:])
