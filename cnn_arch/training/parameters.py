"""Parameters chosen by patterns over their paths: those that do not train, those with own rates.

A path is that of the tree, 'conv1_1/kernel' or 'inception_4a/5x5/bias'. Patterns are a shell's,
with case, but `*` also stands for slashes: 'conv*' is every parameter of every layer whose name
begins so, '*/bias' every bias.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from cnn_arch.errors import UserError

Rates = Sequence[tuple[str, float]]


def path_of(keys: tuple[Any, ...]) -> str:
    """'conv1/kernel', from the keys of a tree of dictionaries."""
    return '/'.join(str(key.key) for key in keys)


def split(params: Any, patterns: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the parameters that train, those whose paths match one of `patterns`): two trees."""

    def part(tree: dict[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        trained: dict[str, Any] = {}
        frozen: dict[str, Any] = {}
        for name, value in tree.items():
            path = f'{prefix}{name}'
            if isinstance(value, dict):
                below = part(value, f'{path}/')
                for side, found in zip((trained, frozen), below, strict=True):
                    if found:
                        side[name] = found
            elif matches(path, patterns):
                frozen[name] = value
            else:
                trained[name] = value
        return trained, frozen

    return part(params, '')


def merged(own: Any, given: Any) -> Any:
    """`own`, a tree of dictionaries, with the leaves that `given` has in their place or besides."""
    if not isinstance(own, dict):
        return given
    result = {name: merged(value, given[name]) if name in given else value
              for name, value in own.items()}  # fmt: skip
    return result | {name: value for name, value in given.items() if name not in own}


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the patterns."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def rate_of(path: str, rates: Rates) -> float:
    """What multiplies the learning rate of the parameter at a path: the last factor that fits."""
    fitting = [factor for pattern, factor in rates if fnmatch.fnmatchcase(path, pattern)]
    return fitting[-1] if fitting else 1.0


def check_patterns(params: Any, config: ml_collections.ConfigDict) -> None:
    """Raises UserError, with names that are near, for a pattern of `config.optim` without a match.

    Also where `freeze` leaves nothing to train, and where a rate is that of frozen parameters only.
    """
    paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
    trained = [path for path in paths if not matches(path, config.freeze)]
    patterns = [('freeze', pattern) for pattern in config.freeze]
    patterns += [('rates', pattern) for pattern, _ in config.rates]
    for key, pattern in patterns:
        if not any(matches(path, [pattern]) for path in paths):
            begins = [path for path in paths if path.startswith(pattern.rstrip('*'))]
            near = begins or difflib.get_close_matches(pattern, paths, cutoff=0.3) or paths
            raise UserError(
                f'optim.{key}: no parameter matches {pattern!r}; there are e.g. '
                f'{", ".join(near[:3])}'
            )
        if key == 'rates' and not any(matches(path, [pattern]) for path in trained):
            raise UserError(f'optim.rates: all that {pattern!r} matches is frozen by optim.freeze')
    if not trained:
        raise UserError(f'optim.freeze = {tuple(config.freeze)!r} leaves no parameter to train')
