"""What every command line shares: `--config.key=value`, one-line errors, exit codes."""

import argparse
import ast
import difflib
import logging
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import ml_collections

from cnn_arch import cluster, config_keys, configuration
from cnn_arch.configuration import flatten
from cnn_arch.errors import CODES, NOT_WRITTEN, PREEMPTED, UserError, storage_problem


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> None:
    """Runs `main(argv)` and exits with its code; the errors of `cnn_arch.errors` are one line.

    Unless `main` has signal handlers of its own, SIGTERM unwinds it as Ctrl-C does, so that nothing
    half-written stays; the exit code is 128 + the signal's number.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    # XLA's default f32 convolutions on CPU run at half the speed of the ones this chooses; other
    # platforms ignore the flag. It must stand before JAX starts.
    flags = os.environ.get('XLA_FLAGS', '')
    if 'xla_cpu_experimental_ynn_fusion_type' not in flags:
        flags += ' --xla_cpu_experimental_ynn_fusion_type=-individual_convolution'
    os.environ['XLA_FLAGS'] = flags.strip()
    if 'JAX_PLATFORMS' not in os.environ and not cluster.has_accelerator():
        jax.config.update('jax_platforms', 'cpu')  # else an installed libtpu looks for its TPU

    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    # Libraries that announce each checkpoint and each file would drown the progress; Orbax (absl)
    # prints the exceptions of its threads, which it raises as well.
    for name, level in (('absl', 'CRITICAL'), ('orbax', 'ERROR'), ('jax', 'ERROR')):
        logging.getLogger(name).setLevel(level)
    try:
        code = main(sys.argv[1:] if argv is None else argv) or 0
    except tuple(CODES) as error:
        print(f'error: {error}', file=sys.stderr)
        code = CODES[type(error)]
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        print(f'ended by {signal.Signals(number).name}', file=sys.stderr)
        code = 128 + number
    except Exception as error:
        found = storage_problem(error) if isinstance(error, OSError) else None
        if found is None:
            _end_of_several(traceback.format_exc(), 1)
            raise
        file = getattr(error, 'filename', None) or 'a file'
        print(f'error: {file} cannot be read or written: {found[0]}; {found[1]} and run the same '
              'command again', file=sys.stderr)  # fmt: skip
        code = NOT_WRITTEN
    if code not in (0, PREEMPTED):
        _end_of_several('', code)
    sys.exit(code)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _end_of_several(text: str, code: int) -> None:
    """Ends one of several processes at once: the others may wait for it, and it must not for them.

    Returns where there are no others.
    """
    if cluster.processes() > 1:
        sys.stderr.write(text)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    uses: Collection[str] = (config_keys.TRAINING, config_keys.TESTING),
) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """Parses `--config=FILE:VARIANT` with its `--config.key=value` and the parser's own flags.

    Raises UserError for keys that do not exist, values of a wrong type or out of range, and keys
    that nothing would look at in what the command does (`uses`, see cnn_arch/config_keys.py).
    """
    parser.allow_abbrev = False
    parser.add_argument(
        '--config', required=True, metavar='FILE[:VARIANT]', help='e.g. configs/vgg.py:D'
    )
    parser.add_argument_group(
        'any key of configs/base.py', '--config.KEY=VALUE, e.g. --config.optim.learning_rate=0.01'
    )
    overrides, rest = split_overrides(argv)
    args = parser.parse_args(rest)
    config = configuration.load(args.config)
    apply_overrides(config, overrides)
    configuration.validate(config)
    config_keys.check_typed(config, overrides, uses)
    return args, config


def split_overrides(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """`--config.a.b=c` and `--config.a.b c` as [('a.b', 'c')], and what else there is.

    Raises UserError for a key without a value, and for a flag or key that is given twice.
    """
    overrides, rest = [], []
    given = set()
    words = iter(argv)
    for word in words:
        flag = word.partition('=')[0]
        if flag.startswith('--') and flag in given:
            raise UserError(f'{flag} is given twice')
        given.add(flag)
        if not word.startswith('--config.'):
            rest.append(word)
            continue
        key, has_value, value = word.removeprefix('--config.').partition('=')
        if not has_value:
            value = next(words, '')
            if not value or value.startswith('--'):
                raise UserError(f'{word}: a value is missing, write {word}=VALUE')
        overrides.append((key, value))
    return overrides, rest


def apply_overrides(config: ml_collections.ConfigDict, overrides: list[tuple[str, str]]) -> None:
    """Sets each dotted key to its value, read as the type that the default has."""
    for key, text in overrides:
        node = config
        *parents, leaf = key.split('.')
        for index, part in enumerate([*parents, leaf]):
            is_leaf = index == len(parents)
            if part not in node or isinstance(node[part], ml_collections.ConfigDict) == is_leaf:
                raise UserError(f'--config.{key}: no such key{_nearest(key, config)}')
            if not is_leaf:
                node = node[part]
        node[leaf] = _read(key, text, node[leaf])


def _nearest(key: str, config: ml_collections.ConfigDict) -> str:
    keys = flatten(config)
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f'; did you mean --config.{close[0]}?' if close else '; configs/base.py lists all keys'


def as_typed(value: Any) -> str:
    """What follows `--config.KEY=` for a value: names are typed with commas between them."""
    names = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return ','.join(value) if names else str(value)


def _read(key: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ('true', 'false'):
            return text.lower() == 'true'
        raise UserError(f'--config.{key}={text}: expected true or false')
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = text
    if kind is float and type(value) is int and abs(value) < config_keys.UNBOUNDED:
        value = float(value)
    if kind is tuple and isinstance(value, str):  # names: ten_crop,whole
        value = tuple(part.strip() for part in value.split(',') if part.strip())
    elif kind is tuple:
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    if type(value) is not kind:
        raise UserError(
            f'--config.{key}={config_keys.shorter(text)}: expected {kind.__name__}, '
            f'e.g. {default!r}'
        )
    return value
