"""Which networks a table's row takes: the public weights that it names, imported as they are."""

import pathlib

import pytest

from cnn_arch import configuration
from cnn_arch.errors import UserError
from cnn_arch.evaluation.tables import TRAINING_KEYS, set_keys
from cnn_arch.papers import PAPERS
from cnn_arch.papers.published import Row
from cnn_arch.weights import importer, public
from cnn_arch.weights.families import FAMILIES
from cnn_arch.weights.trained import Weights

LAYOUTS = {'keras': 'keras', 'torchvision': 'torch', 'timm': 'torch', 'caffe': 'caffe',
           'cifar': 'torch'}  # fmt: skip


def loaded(row: Row):
    path, variant = configuration.split(row.config)
    return configuration.load(f'{configuration.CONFIGS.parent / path}:{variant}')


def imported(name: str, row: Row) -> list[Weights]:
    """What `python -m cnn_arch.weights NAME --config=<the row's>` may record, without arrays."""
    layout = LAYOUTS[name.partition('/')[0]]
    result = []
    for recipe in FAMILIES[loaded(row).model.name].recipes:
        if recipe.layout != layout:
            continue
        config = loaded(row)
        keys = {**recipe.keys, **public.KEYS.get(name, {})}
        set_keys(config, keys)
        result.append(Weights(pathlib.Path('weights'), importer._facts(recipe, config, keys)))
    return result


def fits(weights: Weights, row: Row) -> bool:
    config = loaded(row)
    set_keys(config, {**row.overrides, 'eval.protocol': row.protocol})
    try:
        weights.check(config, TRAINING_KEYS)
    except UserError:
        return False
    weights.adapt(config)
    configuration.validate(config)
    return True


@pytest.mark.parametrize('paper', PAPERS)
def test_rows_take_the_public_weights_that_they_name(paper: str) -> None:
    for number, table in PAPERS[paper].tables.items():
        for row in table.rows:
            for name in row.weights:
                where = f'{paper}:{number} {row.name} {name}'
                assert any(fits(weights, row) for weights in imported(name, row)), where


def test_vggs_authors_weights_are_those_of_scale_jitter() -> None:
    """So they fill one row of table 4 for 16 layers, and not those of training at one scale."""
    rows = [row for row in PAPERS['vgg'].tables['4'].rows if row.config.endswith(':D')]
    taken = [row.name for row in rows if fits(*imported('keras/vgg16', row), row)]
    assert taken == ['D-jitter']
