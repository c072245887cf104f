"""From `configs/vgg.py:D` on the command line to the locked configuration it names."""

import importlib.util
import pathlib
import types

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
