"""From `configs/vgg.py:D` on the command line to the locked configuration it names."""

import importlib.util
import pathlib
import types
from typing import Any

import ml_collections

from cnn_arch import config_keys
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
    """`configs/vgg.py:D` -> (path, 'D'); the variant is '' where none is named.

    The path may have colons: what follows the last one is the variant, unless all is a file's name.
    """
    path, colon, variant = name.rpartition(':')
    if not colon or pathlib.Path(name).is_file():
        return pathlib.Path(name), ''
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


def flatten(config: ml_collections.ConfigDict, prefix: str = '') -> dict[str, Any]:
    """{'optim.learning_rate': 0.01, ...}: every leaf under its dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            leaves.update(flatten(value, f'{prefix}{key}.'))
        else:
            leaves[prefix + key] = value
    return leaves


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for values that are impossible: alone (config_keys.py), or together."""
    config_keys.check_values(flatten(config))
    name, variant = config.model.name, config.model.variant
    if name and variant not in MODELS[name][1]:
        raise UserError(
            f'model.variant = {variant!r}: choose one of {", ".join(MODELS[name][1])}, of {name}'
        )
    augment = config.data.augment
    scaled = augment.crop in ('isotropic', 'central_square')
    if config.train.freeze_statistics and config.model.batch_norm.precise:
        raise UserError(
            'train.freeze_statistics trains with the statistics that are tested, and '
            'model.batch_norm.precise replaces them: one of the two must be 0'
        )
    if config.train.update_size and config.train.batch_size % config.train.update_size:
        raise UserError(
            f'train.batch_size = {config.train.batch_size} is not a multiple of '
            f'train.update_size = {config.train.update_size}'
        )
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
    if augment.colour_jitter and augment.photometric:
        raise UserError(
            'data.augment.colour_jitter and data.augment.photometric both change contrast, '
            'brightness and colour: set one of them to 0 or False'
        )
    for low, high in (('area_min', 'area_max'), ('aspect_min', 'aspect_max')):
        if augment[low] > augment[high]:
            raise UserError(
                f'data.augment.{low} = {augment[low]} is larger than data.augment.{high} = '
                f'{augment[high]}'
            )
    schedule = config.schedule
    if len(schedule.rates) not in (0, len(schedule.boundaries)):
        raise UserError(
            f'schedule.rates = {schedule.rates}: there must be one for each of the '
            f'{len(schedule.boundaries)} boundaries, or none'
        )
    if schedule.kind == 'exponential' and not schedule.every > 0:
        raise UserError(
            f'schedule.every = {schedule.every}: an exponential schedule needs a positive number '
            'of epochs between drops'
        )
    for key in ('mean', 'std'):
        if len(config.data[key]) != config.data.channels:
            raise UserError(
                f'data.{key} = {config.data[key]}: expected {config.data.channels} numbers, one '
                'for each of data.channels'
            )
