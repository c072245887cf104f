"""What a step costs on a pod, before the pod is rented: compiled ahead of time, without any TPU.

    python launch/plan.py --config=configs/vgg.py:D --topology=v5e:16x16 [--batch=2048]
                          [--largest-batch] [--eval] [--json] [--config.KEY=VALUE]
    python launch/plan.py --table [--topology=v5e:4x4]

Prints the memory of a chip against what it has, the operations and the HBM traffic of a step, the
time below which no step can be (the roofline: peak rates of launch/chips.py), and the collectives
with the bytes they move. The figures are the TPU compiler's own. Exit code 1 where the step does
not fit, 2 for a mistake. `--eval` plans the evaluation step of the config's protocol;
`--largest-batch` searches the largest batch that fits, in steps of 8 images per device; `--table`
compiles one network of each family at its paper's batch and keeps what is found in
launch/plan_table.json.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import jax
import ml_collections

if __name__ == '__main__':  # run as a file, from anywhere
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cnn_arch import commands
from cnn_arch.arguments import Parser
from cnn_arch.errors import UserError
from launch import ahead, plan_table
from launch.ahead import Pod, Program
from launch.chips import GIB

DOES_NOT_FIT = 1
TILE = 8  # images of a device: a TPU's registers have 8 rows, fewer cost the same


def main(argv: list[str]) -> int:
    jax.config.update('jax_platforms', 'cpu')  # the TPU is only described
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--topology', metavar='CHIP:SHAPE', help='e.g. v5e:16x16 or v5p:4x4x4')
    if '--table' in argv:
        parser.add_argument('--table', action='store_true')
        args = parser.parse_args(argv)
        print(plan_table.make(args.topology or plan_table.TOPOLOGY))
        return 0
    parser.add_argument('--batch', type=int, help='images in a step; default: the config')
    parser.add_argument('--largest-batch', action='store_true')
    parser.add_argument('--eval', action='store_true', help='the evaluation step')
    parser.add_argument('--json', action='store_true')
    args, config = commands.parse(parser, argv)
    if not args.topology:
        raise UserError('--topology is missing, e.g. --topology=v5e:16x16')
    pod = ahead.find_pod(args.topology)
    if args.batch is not None:
        set_batch(config, args.batch, args.eval)

    compiled = ahead.evaluation if args.eval else ahead.training
    if args.largest_batch:
        found = largest(lambda batch: _at(compiled, config, pod, batch, args.eval), pod)
        if found is None:
            smallest = TILE * len(pod.devices)
            print(f'not even {smallest:,} images fit on {pod.name}', file=sys.stderr)
            return DOES_NOT_FIT
        program = found
    else:
        program = compiled(config, pod)
    print(as_json(program) if args.json else describe(program))
    return 0 if program.fits else DOES_NOT_FIT


def set_batch(config: ml_collections.ConfigDict, batch: int, evaluation: bool) -> None:
    """The images of a step."""
    if evaluation:
        config.eval.batch_size = batch
    else:
        config.train.batch_size = batch


def _at(
    compiled: Callable[[ml_collections.ConfigDict, Pod], Program],
    config: ml_collections.ConfigDict,
    pod: Pod,
    batch: int,
    evaluation: bool,
) -> Program:
    set_batch(config, batch, evaluation)
    program = compiled(config, pod)
    verdict = 'fit' if program.fits else 'do not fit'
    print(f'{batch:,} images {verdict}: {program.hbm / GIB:.2f} GiB', file=sys.stderr, flush=True)
    return program


def largest(program_at: Callable[[int], Program], pod: Pod) -> Program | None:
    """The program of the largest batch that fits, in multiples of TILE images per device.

    Doubles until one does not fit, then bisects; every other guess is a straight line through the
    memory of the two ends, which is nearly right: a compilation takes minutes.
    """
    unit = TILE * len(pod.devices)
    low, high = None, program_at(unit)
    if not high.fits:
        return None
    while high.fits:
        low, high = high, program_at(2 * high.batch)
    assert low is not None
    straight = True
    while high.batch - low.batch > unit:
        share = 0.5
        if straight:
            share = (low.hbm_of_chip - low.hbm) / max(high.hbm - low.hbm, 1.0)
        steps = (high.batch - low.batch) // unit
        guess = low.batch + unit * min(max(int(share * steps), 1), steps - 1)
        tried = program_at(guess)
        low, high = (tried, high) if tried.fits else (low, tried)
        straight = not straight
    return low


def as_json(program: Program) -> str:
    """All figures, the derived ones too."""
    values = dataclasses.asdict(program)
    derived = {'seconds': program.seconds, 'images_per_second': program.images_per_second}
    return json.dumps(values | derived, indent=2)


def describe(program: Program) -> str:
    """The figures for people."""
    share = program.hbm / program.hbm_of_chip
    lines = [
        f'{program.network} on {program.pod}: {program.chips} chips, {program.step} step of '
        f'{program.batch:,} images ({program.batch / program.chips:g} per chip)',
        f'HBM per chip      {program.hbm / GIB:.2f} of {program.hbm_of_chip / GIB:.0f} GiB '
        f'({share:.0%}): {"fits" if program.fits else "DOES NOT FIT"}',
    ]
    lines += [_split('parameters', program.parameters, program.parameters_whole)]
    if program.optimiser_whole:
        lines += [_split('optimiser', program.optimiser, program.optimiser_whole)]
    if not program.fits:
        return '\n'.join(lines)
    bound = 'compute' if program.compute_seconds > program.memory_seconds else 'memory'
    moved = [f'{c.count} {c.kind} {c.bytes / 2**20:.2f} MiB' for c in program.collectives]
    lines += [
        f'  arguments       {program.arguments / GIB:.3f} GiB, temporaries '
        f'{program.temporaries / GIB:.3f} GiB',
        f'per chip, step    {program.flops / 1e9:,.2f} GFLOP, {program.traffic / 1e9:,.2f} GB of '
        'HBM traffic',
        f'roofline          compute {program.compute_seconds * 1e3:.3f} ms, memory '
        f'{program.memory_seconds * 1e3:.3f} ms: bound by {bound}',
        f'at best           {program.seconds * 1e3:.3f} ms a step, '
        f'{program.images_per_second:,.0f} images/s',
        f'collectives       {", ".join(moved) or "none"}',
    ]
    return '\n'.join(lines)


def _split(name: str, lies: float, whole: float) -> str:
    saved = f', {(whole - lies) / 2**20:,.1f} MiB saved by splitting' if lies < whole else ''
    return f'  {name:<15} {lies / 2**20:,.1f} MiB{saved}'


if __name__ == '__main__':
    commands.run(main)
