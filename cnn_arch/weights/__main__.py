"""Imports public weights: python -m cnn_arch.weights SOURCE --config=CONFIG --to=DIR [--partial].

SOURCE is a file (.h5 of Keras Applications, .pth or .safetensors of torchvision and timm,
.caffemodel; told by its content, whatever its ending) or the name of public weights, such as
keras/resnet50; --list prints the names. A prefix of all names, such as `module.`, is dropped. DIR
then serves eval.py --weights=DIR and train.py --config.init_from=DIR.

Every tensor of the file and of the network must be accounted for; nothing is written otherwise.
--partial takes a file that lacks layers: such weights serve to start training and to visualise, and
eval.py refuses them. Nothing in a file is executed.
"""

import argparse
import pathlib
import sys

from cnn_arch import commands
from cnn_arch.arguments import Parser
from cnn_arch.errors import shown
from cnn_arch.weights import importer, public


def main(argv: list[str]) -> int:
    if '--list' in argv:
        for name, file in public.PUBLIC.items():
            print(f'{name:36} {file.file}')
        return 0
    parser = Parser(
        prog='python -m cnn_arch.weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', metavar='SOURCE', help='a file, or a name that --list prints')
    parser.add_argument('--to', required=True, type=pathlib.Path, metavar='DIR', help='new folder')
    parser.add_argument('--partial', action='store_true', help='layers may be missing')
    parser.add_argument('--list', action='store_true', help='names of public weights')
    args, _ = commands.parse(parser, argv, uses=())
    importer.check_target(args.to)
    path, known = public.find(args.source)
    overrides = commands.split_overrides(argv)[0]
    record = importer.import_weights(path, known, args.config, overrides, args.to, args.partial)

    print(
        f'{shown(path.name)}: {record["source"]}, {record["tensors"]} tensors, '
        f'{record["numbers"]:,} numbers, SHA-256 {record["sha256"]}'
    )
    print(f'known as {known}' if known else 'not a file that is known by its digest')
    reads = record['preprocessing']
    print(
        f'reads {reads["channel_order"]} minus {reads["mean"]} over {reads["std"]}; '
        f'{reads["resize"]}, {reads["interpolation"]}'
    )
    for change in record['changes']:
        print(change)
    if record['note']:
        print(record['note'])
    if record['missing']:
        print(f'{len(record["missing"])} tensors are missing, among them {record["missing"][0]}')
    program = '-m cnn_arch.deconvnet' if record['missing'] else 'eval.py'
    print(f'next: python {program} --config={args.config} --weights={args.to}')
    return 0


if __name__ == '__main__':
    commands.run(main, sys.argv[1:])
