"""Tests a trained network by one paper's protocol: top-1 and top-5 error over a whole split.

    python eval.py --config=configs/vgg.py:D (--workdir=DIR [--step=N] | --weights=DIR)
                   [--protocol=dense] [--predictions=FILE.csv] [--with=DIR[,DIR]]
    python eval.py --table=vgg:4 (--runs=DIR | --weights=DIR[,DIR]) [--rows=D-256,E-*]
                   [--format=markdown|csv|json] [--out=FILE]

`--protocol` is a key of cnn_arch/evaluation/protocols.py (default: the config's eval.protocol);
`--predictions=FILE.csv` writes `file,label,class1..class5,probability1..probability5`, one line per
image. A number over an incomplete split says so: `n = 300 of 50,000`. User errors exit with 2.
What the network said of each image is kept in DIR/evaluations: the same command goes on where it
was killed, and once done it answers at once.

`--weights` is a folder that `python -m cnn_arch.weights` wrote; what these weights expect (mean,
scale, test scale, interpolation) is set in the config before the command line's own keys.

`--with` names more networks, runs or weights of any architecture: the posteriors of all are
averaged. Each is tested by the same protocol; one around the training scale takes each one's own.

`--table` prints a paper's table with our numbers beside the printed ones; the network of a row is
the finished run in DIR/<paper>_<row>, or weights that fit; what has none says what is missing.
"""

import argparse
import logging
import pathlib

import ml_collections
from jax.sharding import Mesh

from cnn_arch import cluster, commands, environment, mesh, models, preflight
from cnn_arch.data import sources
from cnn_arch.evaluation import predictions, protocols, table_command, tables
from cnn_arch.evaluation.evaluate import evaluate
from cnn_arch.evaluation.result import Result, ensemble
from cnn_arch.evaluation.store import Store
from cnn_arch.weights import members, trained


def main(argv: list[str]) -> int:
    if table_command.asked_for(argv):
        return table_command.main(argv, __doc__, trained.finder)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('--workdir', type=pathlib.Path, metavar='DIR', help='of a run')
    network.add_argument('--weights', type=pathlib.Path, metavar='DIR', help='imported weights')
    parser.add_argument('--step', type=int, help='of the checkpoint; default: the newest')
    parser.add_argument('--protocol', help='default: eval.protocol of the config')
    parser.add_argument('--predictions', type=pathlib.Path, metavar='FILE.csv')
    parser.add_argument('--with', dest='others', default='', metavar='DIR[,DIR]', help='ensemble')
    args, config = commands.parse(parser, argv)
    cluster.join()

    folder = args.workdir or args.weights
    (source,) = preflight.run(
        config, folder, lambda: [sources.open_for(config, 'eval')], writes=False
    )
    found = trained.find(folder, args.step)
    found.check(config)
    found.adapt(config, evaluation=True)
    commands.apply_overrides(config, commands.split_overrides(argv)[0])
    others = [trained.find(pathlib.Path(part)) for part in args.others.split(',') if part]
    plan = protocols.resolve(config, args.protocol)
    predictions.check_writable(args.predictions)
    devices = mesh.create_mesh(config.mesh)

    result, kept = measure(found, config, args.protocol, source, devices)
    stores = [kept]
    for other in others:
        settings = members.settings_like(other, config, source)
        stores.append(measure(other, settings, args.protocol, source, devices)[1])
    if cluster.process() != 0:
        return 0  # the first process has the posteriors, and tells
    if others:
        result = ensemble(stores, plan.protocol, source.complete)
    if args.predictions:
        predictions.write(args.predictions, result, source)
    scales = ', '.join(map(str, plan.scales))
    label = ' + '.join(network.label for network in (found, *others))
    print(f'{args.config}  {label}  {source.name}  {plan.protocol} at {scales}  {result}')
    if result.ties:
        print(result.ties)
    return 0


def measure(
    found: trained.Trained,
    config: ml_collections.ConfigDict,
    protocol: str | None,
    source: sources.Source,
    devices: Mesh,
) -> tuple[Result, Store]:
    """What a network says of a source; it is kept beside the network."""
    plan = protocols.resolve(config, protocol)
    key = tables.key(found, config, plan, sources.fingerprint(source))
    kept = Store(found.folder / tables.POSTERIORS / key, len(source), source.num_classes)
    if cluster.process() == 0 and not kept.complete:
        logging.info('computes on %s', environment.line(environment.describe(config, devices)))
    variables = found.restore(config, devices)
    model = models.build(config.model)
    result = evaluate(model, variables, source, config, devices, protocol, kept)
    for usage in result.usage if cluster.process() == 0 else ():
        logging.info('%s', usage)
    return result, kept


if __name__ == '__main__':
    commands.run(main)
