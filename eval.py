"""Tests a trained network by one paper's protocol: top-1 and top-5 error over a whole split.

    python eval.py --config=configs/vgg.py:D (--workdir=DIR [--step=N] | --weights=DIR)
                   [--protocol=dense] [--predictions=FILE.csv] [--with=DIR[,DIR]]
    python eval.py --table=vgg:4 (--runs=DIR | --weights=DIR[,DIR]) [--rows=D-256,E-*]
                   [--format=markdown|csv|json] [--out=FILE]

`--protocol` is a key of cnn_arch/evaluation/protocols.py (default: the config's eval.protocol);
`--predictions=FILE.csv` writes `file,label,class1..class5,probability1..probability5`, one line per
image; `file` is its path below the split's folder. Classes are matched to the network's by name:
other ones are an error, fewer are not. A number over an incomplete split says so: `n = 300 of
50,000`. User errors exit with 2.
What the network said of each image is kept in DIR/evaluations: the same command goes on where it
was killed, and once done it answers at once.

`--weights` is a folder that `python -m cnn_arch.weights` wrote; what these weights expect (mean,
scale, test scale, interpolation) is set in the config before the command line's own keys.

`--with` names more networks, runs or weights of any architecture: the posteriors of all are
averaged. Each is tested by the same protocol; one around the training scale takes each one's own.
No network may be there twice; runs of one recipe and seed are named as such.

`--table` prints a paper's table with our numbers beside the printed ones; the network of a row is
the finished run in DIR/<paper>_<row>, or weights that fit; what has none says what is missing, and
what was not trained, or is not tested, as the row says is shown as what it is. A key that is typed
and changes nothing in the test is an error.
"""

import argparse
import logging
import pathlib
from typing import Any

import ml_collections
from jax.sharding import Mesh

from cnn_arch import cluster, commands, config_keys, environment, mesh, models, preflight
from cnn_arch.arguments import Parser, folders
from cnn_arch.data import fingerprint, sources
from cnn_arch.errors import UserError
from cnn_arch.evaluation import keys, predictions, protocols, table_command, tables
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result, ensemble
from cnn_arch.evaluation.store import Store, check_unchanged
from cnn_arch.weights import members, trained


def main(argv: list[str]) -> int:
    if table_command.asked_for(argv):
        return table_command.main(argv, __doc__, trained.finder)
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('--workdir', type=pathlib.Path, metavar='DIR', help='of a run')
    network.add_argument('--weights', type=pathlib.Path, metavar='DIR', help='imported weights')
    parser.add_argument('--step', type=int, help='of the checkpoint; default: the newest')
    parser.add_argument('--protocol', help='default: eval.protocol of the config')
    parser.add_argument('--predictions', type=pathlib.Path, metavar='FILE.csv')
    parser.add_argument('--with', default='', metavar='DIR[,DIR]', help='ensemble')
    args, config = commands.parse(parser, argv, uses=())
    typed = commands.split_overrides(argv)[0]
    cluster.join()

    preflight.begin(vars(args), config)
    source, data = preflight.agree(
        'data', lambda: opened(args, config), lambda made: {'test set': made[1]}
    )
    networks = preflight.agree('networks', lambda: chosen(args, config, typed, source), described)
    plan = protocols.resolve(config, args.protocol)
    devices = mesh.create_mesh(config.mesh)

    measured = [
        measure(network, settings, args.protocol, source, data, devices)
        for network, settings in networks
    ]
    result, stores = measured[0][0], [kept for _, kept in measured]
    if len(stores) > 1:
        result = ensemble(stores, plan.protocol, source.complete)
    if cluster.process() != 0:
        return 0  # the first process tells
    if args.predictions:
        predictions.write(args.predictions, result, source)
    scales = ', '.join(map(str, plan.scales))
    label = members.label([network for network, _ in networks])
    print(f'{args.config}  {label}  {source.name}  {plan.protocol} at {scales}  {result}')
    if result.ties:
        print(result.ties)
    return 0


def check_typed(
    config: ml_collections.ConfigDict, typed: list[tuple[str, str]], protocol: str | None
) -> None:
    """Raises UserError for a typed key that this test does not look at."""
    if protocol is not None:
        if 'eval.protocol' in dict(typed):
            raise UserError('--protocol and --config.eval.protocol are one setting: give one')
        config = config.copy_and_resolve_references()
        config.eval.protocol = protocol
    config_keys.check_typed(config, typed, (config_keys.TESTING,))


def opened(
    args: argparse.Namespace, config: ml_collections.ConfigDict
) -> tuple[sources.Source, dict[str, Any]]:
    """The test split, its classes numbered as the network's, and its identity."""
    folder = args.workdir or args.weights
    source = sources.open_for(config, 'eval', trained.classes_of(folder), folder)
    return source, fingerprint.identity(source)


def chosen(
    args: argparse.Namespace,
    config: ml_collections.ConfigDict,
    typed: list[tuple[str, str]],
    source: sources.Source,
) -> list[tuple[trained.Trained, ml_collections.ConfigDict]]:
    """The network of the command line and those beside it, each with its settings; sets `config`.

    Raises UserError for all that would end the evaluation later.
    """
    found = trained.find(args.workdir or args.weights, args.step)
    found.check(config)
    found.adapt(config, evaluation=True)
    commands.apply_overrides(config, typed)
    check_typed(config, typed, args.protocol)
    others = [trained.find(part) for part in folders('--with', vars(args)['with'])]
    members.check_distinct([found, *others])
    protocols.resolve(config, args.protocol)
    if cluster.process() == 0:
        predictions.check_writable(args.predictions)
    settings = [members.settings_like(other, config, source) for other in others]
    return [(found, config), *zip(others, settings, strict=True)]


def described(
    networks: list[tuple[trained.Trained, ml_collections.ConfigDict]],
) -> dict[str, dict[str, Any]]:
    """What all processes must see alike of their networks: arrays and settings."""
    return {
        f'number {number}': trained.facts(network) | commands.flatten(settings)
        for number, (network, settings) in enumerate(networks, 1)
    }


def measure(
    found: trained.Trained,
    config: ml_collections.ConfigDict,
    protocol: str | None,
    source: sources.Source,
    data: dict[str, Any],
    devices: Mesh,
) -> tuple[Result, Store]:
    """What a network says of a source, whose identity is `data`; it is kept beside the network."""
    plan = protocols.resolve(config, protocol)
    folder = found.folder / tables.POSTERIORS / keys.key(found, config, plan, data)
    kept = Store(folder, len(source), config.model.num_classes)
    if kept.complete:
        return ensemble([kept], plan.protocol, source.complete), kept
    if cluster.process() == 0:
        logging.info('computes on %s', environment.line(environment.describe(config, devices)))
    variables = found.restore(config, devices)
    model = models.build(config.model)
    result = evaluate(model, variables, source, config, devices, protocol, kept)
    check_unchanged(source, data, kept)
    for usage in result.usage if cluster.process() == 0 else ():
        logging.info('%s', usage)
    return result, kept


if __name__ == '__main__':
    commands.run(main)
