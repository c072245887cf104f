"""From a file of public weights to a folder that eval.py and train.py take.

The folder holds `arrays/` (Orbax: params and batch_stats) and `weights.json`: where the weights are
from, what they read (channel order, mean, scale, resize rule, interpolation), the configuration
keys they ask for, the names of their classes, what was changed on the way, and which layers are
missing.

One rule for colours: every network of this project reads RGB. Of weights that were trained on BGR
the first convolution's input channels are reversed here, once, and weights.json says so.
"""

import dataclasses
import glob
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from cnn_arch import commands, configuration, models, owner
from cnn_arch.commands import flatten
from cnn_arch.config_keys import no_effect
from cnn_arch.data import synsets
from cnn_arch.errors import UserError, shown
from cnn_arch.evaluation.dense import abstract_variables
from cnn_arch.evaluation.tables import TRAINING_KEYS, set_keys
from cnn_arch.training import checkpoint
from cnn_arch.weights import (
    caffe,
    keras_h5,
    kinds,
    layouts,
    public,
    safetensors_file,
    torch_pickle,
)
from cnn_arch.weights.families import FAMILIES
from cnn_arch.weights.recipes import Family, Names, Recipe
from cnn_arch.weights.tensors import Tensor, WeightFile, is_real
from cnn_arch.weights.trained import ARRAYS, FREE, RECORD

READERS = {
    '.h5': keras_h5.read,
    '.safetensors': safetensors_file.read,
    '.pth': torch_pickle.read,
    '.caffemodel': caffe.read,
}
SHOWN = 3  # tensors of each kind that an error names
WHOLE = 'whole'  # in a folder beside the target, until it takes its place
MOST_PARTS = 4  # of a prefix that all names begin with

Layers = dict[str, dict[str, Any]]  # path of a layer: its arrays (or their shapes) by name


def import_weights(
    path: pathlib.Path,
    known: str,
    name: str,
    overrides: list[tuple[str, str]],
    to: pathlib.Path,
    partial: bool = False,
) -> dict[str, Any]:
    """Writes the folder `to` and returns its record.

    `known` is the public name of the file or '', `name` the configuration (FILE:VARIANT) and
    `overrides` its changed keys, which have the last word. Raises UserError, and writes nothing,
    where a tensor is not accounted for.
    """
    check_target(to)
    config = configuration.load(name)
    commands.apply_overrides(config, overrides)
    file = open_file(path)
    file, family, recipe = choose(file, config)
    keys = {**recipe.keys, **public.KEYS.get(known, {})}
    set_keys(config, keys)
    commands.apply_overrides(config, overrides)
    configuration.validate(config)
    for key, text in overrides:
        network = key.startswith('model.') and key not in FREE
        if key not in (*keys, *TRAINING_KEYS) and not network:
            raise no_effect(key, text, 'it is none of what these weights ask for')

    variables, found = convert(file, family, recipe, config, partial)
    record = {
        'file': path.name,
        'sha256': sha256_of(path),
        'known_as': known,
        'config': name,
        **_facts(recipe, config, keys),
        **found,
        'classes': _classes(recipe, config, found['missing']),
    }
    _write(to, variables, record)
    return record


def open_file(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a weight file, told by its content. Raises UserError if it is none."""
    return READERS[kinds.kind_of(path)](path)


def choose(
    file: WeightFile, config: ml_collections.ConfigDict
) -> tuple[WeightFile, Family, Recipe]:
    """The recipe whose names are most in the file, and the file with its tensors called so.

    What all names of a PyTorch file begin with may be dropped: `module.` of several devices,
    `_orig_mod.` of a compiled network, whatever the attribute of a larger one was called. Raises
    UserError where there is no recipe for this family and kind of file, or none that fits.
    """
    name = config.model.name
    if name not in FAMILIES:
        raise UserError(f'{file.path}: no public weights of {name} are known')
    family = FAMILIES[name]
    if file.layout in family.refused:
        raise UserError(f'{file.path}: {family.refused[file.layout]}')
    candidates = [recipe for recipe in family.recipes if recipe.layout == file.layout]
    if not candidates:
        known = ', '.join(dict.fromkeys(recipe.source for recipe in family.recipes))
        raise UserError(f'{file.path}: {name} has no weights of this kind, only those of {known}')
    model = models.build(config.model)
    layers = _layers(_variables(model, config))

    def score(choice: tuple[WeightFile, Recipe]) -> tuple[int, bool]:
        file, recipe = choice
        found = sum(
            all(part in file.tensors for part in source.names)
            for source in _sources(layers, family, recipe, model).values()
        )
        return found, recipe.title == file.title

    choices = [(called, recipe) for called in _without_prefix(file) for recipe in candidates]
    called, best = max(choices, key=score)
    return called, family, best


def _without_prefix(file: WeightFile) -> list[WeightFile]:
    """The file as it is, then without one, two, ... parts that all its names begin with."""
    result = [file]
    names = [name for name in file.tensors if not layouts.ignored(file.layout, name)]
    if file.layout != 'torch' or not names:
        return result
    columns = zip(*(name.split('.')[:-1] for name in names), strict=False)
    common = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    parts = [column[0] for column in itertools.islice(common, MOST_PARTS)]
    for count in range(1, len(parts) + 1):
        prefix = '.'.join(parts[:count]) + '.'
        tensors = {name.removeprefix(prefix): tensor for name, tensor in file.tensors.items()}
        note = f"names without the '{shown(prefix)}' that all of them begin with"
        if len(tensors) == len(file.tensors):
            result.append(dataclasses.replace(file, tensors=tensors, notes=(*file.notes, note)))
    return result


def convert(
    file: WeightFile,
    family: Family,
    recipe: Recipe,
    config: ml_collections.ConfigDict,
    partial: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All tensors of the file as the network's variables, and what there is to say about it.

    Raises UserError that names tensors of both sides where one is left over, missing (unless
    `partial`), of another shape, or not finite.
    """
    model = models.build(config.model)
    layers = _layers(_variables(model, config))
    sources = _sources(layers, family, recipe, model)
    changes = [*file.notes, *_fold_biases(file, layers, sources, family, recipe, model)]

    used = {name for source in sources.values() for name in source.names}
    left = [name for name in file.tensors if name not in used]
    left = [name for name in left if not layouts.ignored(file.layout, name)]
    missing, misfits = [], []
    for path, source in sources.items():
        shape = layers[path.rpartition('/')[0]][path.rpartition('/')[2]]
        absent = [name for name in source.names if name not in file.tensors]
        if absent:
            missing.append((path, shape, absent))
        elif file.tensors[source.names[0]].size != np.prod(shape, dtype=np.int64):
            misfits.append((path, shape, source.names[0]))
    if left or misfits or (missing and not partial):
        raise UserError(_complaint(file, left, [] if partial else missing, misfits))
    if len(missing) == len(sources):
        raise UserError(f'{file.path}: it holds nothing of this network')

    gone = {path for path, _, _ in missing}
    arrays = {path: _array(file, path, source, layers, misfits)
              for path, source in sources.items() if path not in gone}  # fmt: skip
    if misfits:
        raise UserError(_complaint(file, left, [], misfits))
    (first,) = (f'{name}/kernel' for name in family.first if name in layers)
    if recipe.bgr and first in arrays:
        arrays[first] = np.ascontiguousarray(arrays[first][:, :, ::-1])
        changes.append(f'{first}: input channels reversed, it was trained on BGR')
    return _tree(arrays), {
        'missing': [path for path, _, _ in missing],
        'changes': changes,
        'tensors': len(arrays),
        'numbers': int(sum(array.size for array in arrays.values())),
        'digest': _digest(arrays),
    }


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and numbers."""
    digest = hashlib.sha256()
    for path, array in sorted(arrays.items()):
        digest.update(f'{path} {array.shape}\n'.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _facts(
    recipe: Recipe, config: ml_collections.ConfigDict, keys: Iterable[str]
) -> dict[str, Any]:
    leaves = flatten(ml_collections.ConfigDict(json.loads(config.to_json_best_effort())))
    return {
        'source': recipe.source,
        'preprocessing': {
            'channel_order': 'RGB',
            'trained_on': 'BGR' if recipe.bgr else 'RGB',
            'mean': leaves['data.mean'],
            'std': leaves['data.std'],
            'resize': f'shorter side to {leaves["eval.scale"]} pixels, centre crop of '
            f'{leaves["data.augment.size"]}',
            'interpolation': leaves['eval.interpolation'],
        },
        'note': recipe.note,
        'keys': {key: leaves[key] for key in keys},
        'network': {key: value for key, value in leaves.items() if key.startswith('model.')},
        'training': {key: leaves[key] for key in TRAINING_KEYS},
    }


def _classes(
    recipe: Recipe, config: ml_collections.ConfigDict, missing: Sequence[str]
) -> list[str] | None:
    """The names of the classes: those of the recipe, or of every public network of 1,000 ILSVRC's.

    None for others, and where the classifier may be what is missing.
    """
    names = recipe.classes or tuple(synsets.ilsvrc_2012())
    fits = config.model.num_classes == len(names)
    return list(names) if fits and not missing else None


def _write(folder: pathlib.Path, variables: dict[str, Any], record: dict[str, Any]) -> None:
    """The whole folder, or nothing."""
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_scratch(folder)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=parent))
    except OSError as error:
        raise UserError(f'--to={folder}: {error.strerror}') from error
    try:
        with owner.Owner(scratch):
            checkpoint.save_weights(scratch / WHOLE / ARRAYS, variables)
            (scratch / WHOLE / RECORD).write_text(json.dumps(record, indent=2) + '\n')
            check_target(folder)
            os.rename(scratch / WHOLE, folder)
    except OSError as error:
        check_target(folder)  # another import was faster
        raise UserError(f'--to={folder}: {error.strerror}') from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_scratch(folder: pathlib.Path) -> None:
    """What killed imports to the same folder left beside it; of living ones nothing."""
    for scratch in folder.absolute().parent.glob(f'.{glob.escape(folder.name)}-*'):
        if owner.is_free(scratch):
            shutil.rmtree(scratch, ignore_errors=True)


def check_target(folder: pathlib.Path) -> None:
    """Raises UserError where something lies at `folder` already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'--to={folder}: it exists; choose another folder, or remove it')


def sha256_of(path: pathlib.Path) -> str:
    """Of a file's bytes."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


# ---- ours and theirs


def _variables(model: nn.Module, config: ml_collections.ConfigDict) -> dict[str, Any]:
    return abstract_variables(model, config.data.augment.size, config.data.channels)


def _layers(variables: dict[str, Any]) -> Layers:
    """{'conv2_1/bn1': {'scale': shape, ..., 'mean': shape}}: parameters and statistics together."""
    layers: Layers = {}
    for collection in variables.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
            *parents, name = (key.key for key in path)
            layers.setdefault('/'.join(parents), {})[name] = tuple(leaf.shape)
    return layers


def _sources(
    layers: Layers, family: Family, recipe: Recipe, model: nn.Module
) -> dict[str, layouts.Source]:
    """For each array of ours, 'conv1/kernel', where it comes from."""
    names: Names = recipe.names(model)
    windows = family.windows(model)
    result = {}
    for path, leaves in layers.items():
        if path not in names:
            result.update({f'{path}/{leaf}': layouts.Source(('nothing',)) for leaf in leaves})
            continue
        found = layouts.sources(recipe.layout, names[path], leaves, windows.get(path, (1, 1)))
        result.update({f'{path}/{leaf}': source for leaf, source in found.items()})
    return result


def _fold_biases(
    file: WeightFile,
    layers: Layers,
    sources: dict[str, layouts.Source],
    family: Family,
    recipe: Recipe,
    model: nn.Module,
) -> list[str]:
    """Biases before a normalisation go into its mean: (x + b) - mean = x - (mean - b)."""
    folded = []
    if family.norm_after is None:
        return []
    names = recipe.names(model)
    for path, leaves in layers.items():
        if 'kernel' not in leaves or 'bias' in leaves or path not in names:
            continue
        bias, mean = (
            layouts.bias_name(recipe.layout, names[path]),
            f'{family.norm_after(path)}/mean',
        )
        if bias in file.tensors and mean in sources:
            old = sources[mean]

            def less_bias(*arrays: np.ndarray, old: layouts.Source = old) -> np.ndarray:
                return old.convert(*arrays[:-1]) - np.ravel(arrays[-1])

            sources[mean] = layouts.Source((*old.names, bias), less_bias)
            folded.append(path)
    if not folded:
        return []
    return [f'{len(folded)} convolution biases taken into the running means that follow them']


def _array(
    file: WeightFile,
    path: str,
    source: layouts.Source,
    layers: Layers,
    misfits: list[tuple[str, tuple[int, ...], str]],
) -> np.ndarray:
    """One array of ours, float32; appends to `misfits` where it is not of our shape."""
    layer, _, leaf = path.rpartition('/')
    shape = layers[layer][leaf]
    read = [_read(file, name) for name in source.names]
    try:
        with np.errstate(all='ignore'):  # what it makes is looked at below
            array = np.ascontiguousarray(source.convert(*read), np.float32)
    except ValueError:  # another number of dimensions
        array = np.zeros(0, np.float32)
    if array.shape != shape:
        misfits.append((path, shape, source.names[0]))
    elif not np.isfinite(array).all():
        raise UserError(f'{file.path}: {shown(source.names[0])} has values that are not finite')
    elif leaf == 'var' and array.min() < 0:
        raise UserError(
            f'{file.path}: {shown(source.names[0])} has negative values, which no variance has: '
            'the file is damaged'
        )
    return array


def _read(file: WeightFile, name: str) -> np.ndarray:
    array = file.tensors[name].read()
    if not is_real(array.dtype):
        raise UserError(
            f'{file.path}: {shown(name)} holds {array.dtype}, not real floating-point numbers'
        )
    return array


def _complaint(
    file: WeightFile,
    left: Sequence[str],
    missing: Sequence[tuple[str, tuple[int, ...], list[str]]],
    misfits: Sequence[tuple[str, tuple[int, ...], str]],
) -> str:
    parts = []
    if left:
        names = [f'{shown(name)} {_shape(file.tensors[name])}' for name in left]
        parts.append(f'{_count(left)} in the file without a place in the network: {_few(names)}')
    if missing:
        names = [
            f'{path} {list(shape)} (expected as {absent[0]})' for path, shape, absent in missing
        ]
        parts.append(f'{_count(missing)} of the network not in the file: {_few(names)}')
    if misfits:
        names = [f'{path} is {list(shape)}, {shown(name)} in the file {_shape(file.tensors[name])}'
                 for path, shape, name in misfits]  # fmt: skip
        parts.append(f'{_count(misfits)} of another shape: {_few(names)}')
    return f'{file.path} does not fit the network: ' + '; '.join(parts)


def _few(names: Sequence[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def _count(items: Sequence[Any]) -> str:
    return f'{len(items)} tensor' + ('' if len(items) == 1 else 's')


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


STATISTICS = ('mean', 'var')


def _tree(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Paths back to nested params and batch_stats."""
    result: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for path, array in arrays.items():
        *parents, leaf = path.split('/')
        node = result['batch_stats' if leaf in STATISTICS else 'params']
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return result
