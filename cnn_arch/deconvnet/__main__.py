"""Shows what a network's feature maps respond to, after Zeiler & Fergus 2014.

    python -m cnn_arch.deconvnet [STUDY] --config=CONFIG (--workdir=DIR [--step=N] | --weights=DIR)
                                 --config.data.dir=DIR --out=DIR [options of the study]

STUDY is one of
  gallery      the default, figure 2: the nine strongest activations of each map over all images,
               projected to pixels, and the patches that caused them
               [--layers=conv1,conv5] [--maps=0,5,16-31] [--method=deconvnet|guided|gradient]
               [--show=both|projections|patches]
  filters      figure 6: the first layer, its dead filters, frequencies and aliasing
               [--against=CONFIG --against-dir=DIR]
  occlusion    figure 7: a grey square over the picture
               [--layer=conv5] [--images=0-2] [--square=PIXELS] [--method=...]
  invariance   figure 5: translation, scale, rotation [--layers=conv1,fc7] [--images=0-4]
  evolution    figure 4: maps over the saved steps of --workdir [--layers] [--maps] [--method]

occlusion and invariance ask for the probability of each picture's class: the classes of the data
must be the network's, by name. Any pictures serve the others.

--out then holds index.html, which opens from disk, and its pictures. Weights imported with
--partial serve as far as they reach. AlexNet, ZFNet, VGG and GoogLeNet have deconvnets; of the
other networks --method=gradient shows gradients. `STUDY --help` explains its options.
"""

import argparse
import pathlib
import sys

from cnn_arch import commands, config_keys, mesh
from cnn_arch.arguments import Parser
from cnn_arch.deconvnet import page
from cnn_arch.deconvnet.network import Network
from cnn_arch.deconvnet.studies import STUDIES, Request
from cnn_arch.errors import UserError
from cnn_arch.weights import trained


def main(argv: list[str]) -> int:
    name, *words = argv if argv and not argv[0].startswith('-') else ['gallery', *argv]
    if name not in STUDIES:
        raise UserError(f'no study {name!r}: choose one of {", ".join(STUDIES)}')
    study = STUDIES[name]
    parser = _parser(name)
    study.options(parser)
    args, config = commands.parse(parser, words, uses=())
    page.check_target(args.out)
    found = trained.find(args.workdir or args.weights, args.step)
    found.check(config)
    found.adapt(config, evaluation=True)
    typed = commands.split_overrides(words)[0]
    commands.apply_overrides(config, typed)
    with_center = config.copy_and_resolve_references()
    with_center.eval.protocol = 'center'  # the views that pictures.py takes
    config_keys.check_typed(with_center, typed, (config_keys.TESTING,))
    network = Network.create(config, mesh.create_mesh(config.mesh))
    write = study.prepare(Request(args, config, found, network))

    with page.created(args.out, f'{name}: {args.config}, {found.label}') as result:
        write(result)
    print(f'{name} of {args.config}, {found.label}: {args.out / "index.html"}')
    return 0


def _parser(study: str) -> Parser:
    parser = Parser(
        prog=f'python -m cnn_arch.deconvnet {study}',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('--workdir', type=pathlib.Path, metavar='DIR', help='of a run')
    network.add_argument('--weights', type=pathlib.Path, metavar='DIR', help='imported weights')
    parser.add_argument('--step', type=int, help='of the checkpoint; default: the newest')
    parser.add_argument('--out', required=True, type=pathlib.Path, metavar='DIR', help='new folder')
    return parser


if __name__ == '__main__':
    commands.run(main, sys.argv[1:])
