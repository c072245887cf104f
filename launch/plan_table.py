"""The table of plans in the README: one network of each family at its paper's batch.

What a compilation said is kept in plan_table.json, with the versions and the configuration it was
made from; `python launch/plan.py --table` compiles what is missing or out of date, and prints.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import jax
import ml_collections

from cnn_arch import configuration
from launch import ahead
from launch.ahead import Program
from launch.chips import GIB
from launch.collectives import Collective

STORED = pathlib.Path(__file__).with_suffix('.json')
TOPOLOGY = 'v5e:4x4'
NETWORKS = (
    'lenet:lenet5', 'alexnet:two_tower', 'zfnet:b', 'vgg:D', 'googlenet:googlenet', 'resnet:50',
    'densenet:121', 'xception:xception', 'senet:se_resnet50',
)  # fmt: skip
# A paper's batch that a topology's devices do not divide is rounded up to one that they do.
HEADER = (
    '| network | batch | HBM per chip | of | GFLOP per chip, step | HBM traffic | roofline | bound '
    'by | images/s at most | collectives |\n'
    '|---|---:|---:|---:|---:|---:|---:|---|---:|---|'
)


def make(topology: str) -> str:
    """Compiles what plan_table.json lacks for a topology, keeps it, and returns the table."""
    pod = ahead.find_pod(topology)
    for network in NETWORKS:
        config = load(network, len(pod.devices))
        stored = read()
        key = f'{network} on {topology}'
        if stored.get(key, {}).get('made_from') == made_from(config):
            continue
        print(f'{key}: compiling', file=sys.stderr, flush=True)
        program = ahead.training(config, pod)
        stored[key] = {
            'made_from': made_from(config),
            'date': datetime.date.today().isoformat(),
            'program': dataclasses.asdict(program),
        }
        STORED.write_text(json.dumps(stored, indent=1) + '\n')
    return render(topology)


def load(network: str, devices: int) -> ml_collections.ConfigDict:
    """The paper's config of 'family:variant', its batch rounded up to a multiple of `devices`."""
    family, _, variant = network.partition(':')
    config = configuration.load(f'{configuration.CONFIGS / family}.py:{variant}')
    config.train.batch_size = -(-config.train.batch_size // devices) * devices
    return config


def made_from(config: ml_collections.ConfigDict) -> dict[str, str]:
    """What a stored result depends on: of the configuration, what shapes the step."""
    values = json.loads(config.to_json_best_effort())
    shaping = {key: values[key] for key in ('model', 'loss', 'optim', 'schedule', 'mesh')}
    shaping |= {'augment': values['data']['augment'], 'batch': values['train']['batch_size']}
    text = json.dumps(shaping, sort_keys=True)
    return {
        'config': hashlib.sha256(text.encode()).hexdigest()[:16],
        'jax': jax.__version__,
        'libtpu': importlib.metadata.version('libtpu'),
    }


def read() -> dict[str, Any]:
    """The stored results by 'network on topology'."""
    return json.loads(STORED.read_text()) if STORED.exists() else {}


def program(stored: dict[str, Any]) -> Program:
    """A stored result as it was."""
    values = dict(stored['program'])
    values['collectives'] = tuple(Collective(**c) for c in values['collectives'])
    return Program(**values)


def render(topology: str) -> str:
    """The table in Markdown, from what is stored; what is not is named."""
    stored = read()
    keys = {network: f'{network} on {topology}' for network in NETWORKS}
    entries = {network: stored[key] for network, key in keys.items() if key in stored}
    missing = [network for network in NETWORKS if network not in entries]
    latest = max(entries.values(), key=lambda entry: entry['date'])
    caption = (
        f'Training steps on {topology}, compiled until {latest["date"]} with libtpu '
        f'{latest["made_from"]["libtpu"]} and jax {latest["made_from"]["jax"]}'
        + (f'; not compiled yet: {", ".join(missing)}:' if missing else ':')
    )
    rows = [_row(network, program(entry)) for network, entry in entries.items()]
    return '\n'.join([caption, '', HEADER, *rows])


def _row(network: str, program: Program) -> str:
    bound = 'compute' if program.compute_seconds > program.memory_seconds else 'memory'
    moved = '; '.join(f'{c.count} {c.kind}, {c.bytes / 2**20:.1f} MiB' for c in program.collectives)
    fits = [
        f'{program.flops / 1e9:,.2f}', f'{program.traffic / 1e9:,.2f} GB',
        f'{program.seconds * 1e3:.2f} ms', bound, f'{program.images_per_second:,.0f}', moved,
    ]  # fmt: skip
    cells = [
        network, f'{program.batch:,}', f'{program.hbm / GIB:.2f} GiB',
        f'{program.hbm_of_chip / GIB:.0f} GiB',
        *(fits if program.fits else ['does not fit', *[''] * 5]),
    ]  # fmt: skip
    return f'| {" | ".join(cells)} |'
