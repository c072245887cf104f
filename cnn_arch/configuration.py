"""From `configs/vgg.py:D` on the command line to the locked configuration it names."""

import importlib.util
import pathlib
import types
from typing import Any

import ml_collections

from cnn_arch.errors import UserError
from cnn_arch.models import MODELS

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'
NOT_PAPERS = ('__init__', 'base', 'demo')


def load(name: str) -> ml_collections.ConfigDict:
    """The configuration `FILE.py` or `FILE.py:VARIANT`, as the file's `get_config` returns it.

    Raises UserError for a file or a variant that does not exist; the latter names those that do.
    """
    path, variant = split(name)
    module = _import(path)
    if not variant:
        return module.get_config()
    known = _variants(module)
    if variant not in known:
        raise UserError(f'{path} has no variant {variant!r}: choose one of {", ".join(known)}')
    return module.get_config(variant)


def split(name: str) -> tuple[pathlib.Path, str]:
    """`configs/vgg.py:D` -> (path, 'D'); the variant is '' where none is named."""
    path, _, variant = name.partition(':')
    return pathlib.Path(path), variant


def variants(path: pathlib.Path) -> tuple[str, ...]:
    """The labels that may follow the colon after `path`.

    They are the labels of the model's own table, unless the file says otherwise in `VARIANTS`.
    """
    return _variants(_import(path))


def papers() -> list[pathlib.Path]:
    """The config files of the papers, by name."""
    return [path for path in sorted(CONFIGS.glob('*.py')) if path.stem not in NOT_PAPERS]


def _variants(module: types.ModuleType) -> tuple[str, ...]:
    if hasattr(module, 'VARIANTS'):
        return tuple(module.VARIANTS)
    family = module.get_config().model.name
    return tuple(MODELS[family][1])


def _import(path: pathlib.Path) -> types.ModuleType:
    if not path.is_file():
        known = ', '.join(f'configs/{p.name}' for p in papers())
        raise UserError(f'no configuration file {path}: the papers have {known}')
    spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
    if spec is None or spec.loader is None:
        raise UserError(f'{path} is not a Python file: a configuration is FILE.py or FILE.py:LABEL')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
        raise UserError(f'{path} has no function get_config(variant): it is not a configuration')
    return module


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that cannot work together, before anything is compiled."""
    augment = config.data.augment
    scaled = augment.crop in ('isotropic', 'central_square')
    choices = {
        'train.on_nonfinite': ('stop', 'skip'),
        'data.on_bad_image': ('stop', 'skip'),
        'data.augment.crop': ('isotropic', 'central_square', 'random_resized', 'padded', 'none'),
        'data.augment.interpolation': ('bilinear', 'bicubic', 'random'),
        'data.channels': (1, 3),
    }
    for key, allowed in choices.items():
        value = _leaf(config, key)
        if value not in allowed:
            raise UserError(f'{key} = {value!r}: choose one of {", ".join(map(repr, allowed))}')
    for key in ('train.batch_size', 'train.log_every', 'eval.batch_size', 'eval.scale',
                'checkpoint.every', 'checkpoint.keep', 'data.threads', 'data.prefetch',
                'data.augment.size', 'data.augment.scale_min', 'model.num_classes',
                'model.batch_norm.group_size'):  # fmt: skip
        if _leaf(config, key) < 1:
            raise UserError(f'{key} = {_leaf(config, key)}: it must be at least 1')
    for key in (
        'train.steps',
        'train.update_size',
        'train.eval_every',
        'checkpoint.keep_every',
        'data.workers',
        'data.augment.padding',
        'seed',
    ):
        if _leaf(config, key) < 0:
            raise UserError(f'{key} = {_leaf(config, key)}: it must be 0 or more')
    if config.train.update_size and config.train.batch_size % config.train.update_size:
        raise UserError(
            f'train.batch_size = {config.train.batch_size} is not a multiple of '
            f'train.update_size = {config.train.update_size}'
        )
    if not config.checkpoint.grace > 0:
        raise UserError(f'checkpoint.grace = {config.checkpoint.grace}: it must be positive')
    if config.train.steps == 0 and not config.train.epochs > 0:
        raise UserError(f'train.epochs = {config.train.epochs}: it must be a positive number')
    if scaled and augment.scale_min > augment.scale_max:
        raise UserError(
            f'data.augment.scale_min = {augment.scale_min} is larger than '
            f'data.augment.scale_max = {augment.scale_max}'
        )
    if scaled and augment.size > augment.scale_min:
        raise UserError(
            f'data.augment.size = {augment.size}: a crop cannot be larger than the smallest '
            f'training scale, data.augment.scale_min = {augment.scale_min}'
        )
    for low, high, top in (('area_min', 'area_max', 1.0), ('aspect_min', 'aspect_max', 100.0)):
        if not 0 < augment[low] <= augment[high] <= top:
            raise UserError(
                f'data.augment.{low} = {augment[low]}, data.augment.{high} = {augment[high]}: '
                f'expected 0 < {low} <= {high} <= {top:g}'
            )
    for key in ('mean', 'std'):
        if len(config.data[key]) != config.data.channels:
            raise UserError(
                f'data.{key} = {config.data[key]}: expected {config.data.channels} numbers, one '
                'for each of data.channels'
            )


def _leaf(config: ml_collections.ConfigDict, key: str) -> Any:
    for part in key.split('.'):
        config = config[part]
    return config
