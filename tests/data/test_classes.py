"""Classes are compared by name; labels are numbered as the network numbers them."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from cnn_arch.data import classes, sources, synsets
from cnn_arch.errors import UserError
from configs import base
from tests.data.test_folders import put
from tests.data.test_sources import config_of

TEN = ('eight', 'five', 'four', 'nine', 'one', 'seven', 'six', 'three', 'two', 'zero')
ILSVRC = tuple(synsets.ilsvrc_2012())


def of_folder(root: pathlib.Path) -> sources.Source:
    return sources.open_source(config_of('folder', root), 'eval')


def names_of(source: sources.Source) -> list[str]:
    return [source.classes[source[index].label] for index in range(len(source))]


def test_every_source_names_its_classes(tmp_path: pathlib.Path) -> None:
    digits = sources.open_source(config_of('digits', ''), 'train')
    assert digits.classes == tuple('0123456789')
    put(tmp_path / 'own', 'b/1.png', 'A/1.png', 'a/1.png')
    assert of_folder(tmp_path / 'own').classes == ('A', 'a', 'b')
    put(tmp_path / 'wnids', f'{ILSVRC[7]}/1.png')
    assert of_folder(tmp_path / 'wnids').classes == ILSVRC
    put(tmp_path / 'numbers', 'a.png')
    (tmp_path / 'numbers' / 'labels.txt').write_text('a.png 2\n')
    assert of_folder(tmp_path / 'numbers').classes == ('0', '1', '2')
    for source in (digits, of_folder(tmp_path / 'own')):
        assert source.num_classes == len(source.classes)


def test_a_test_split_without_some_classes(tmp_path: pathlib.Path) -> None:
    """Missing or empty folders are normal, and move no label."""
    put(tmp_path, *(f'train/{name}/1.png' for name in TEN), 'val/two/1.png', 'val/five/2.png')
    (tmp_path / 'val' / 'zero').mkdir()
    config = base.get_config()
    config.data.source, config.data.dir = 'folder', str(tmp_path)
    config.model.num_classes = 10
    train, test = sources.open_both(config)
    assert train.classes == test.classes == TEN
    assert names_of(test) == ['five', 'two']
    assert [test[index].label for index in range(2)] == [1, 8]


@pytest.mark.parametrize('kind', ['array', 'file', 'tfds'])
def test_labels_are_numbered_as_the_network(kind: str, tmp_path: pathlib.Path) -> None:
    names = ('c', 'a', 'b')
    source: sources.Source
    if kind == 'array':
        images = np.zeros((3, 2, 2, 1), np.uint8)
        source = sources.ArraySource('x', names, 3, images, np.asarray([0, 2, 1], np.int32))
    elif kind == 'file':
        put(tmp_path, 'c.png', 'b.png', 'a.png')
        lines = ['c.png 0', 'b.png 2', 'a.png 1']
        (tmp_path / 'labels.txt').write_text('\n'.join(lines))
        (tmp_path / 'synsets.txt').write_text('\n'.join(names))
        source = of_folder(tmp_path)
    else:
        source = sources.TfdsSource.__new__(sources.TfdsSource)
        source.name, source.classes, source.complete = 'x', names, 3
        source._has_name, source.numbers = False, None
        source._data = [{'image': b'', 'label': label} for label in (0, 2, 1)]
    assert names_of(source) == ['c', 'b', 'a']
    renumbered = sources.numbered_as(source, ('a', 'b', 'c', 'd'), 'the network')
    assert [renumbered[index].label for index in range(3)] == [2, 1, 0]
    assert renumbered.num_classes == 4
    assert names_of(source) == ['c', 'b', 'a'], 'the source itself is as it was'
    assert sources.numbered_as(source, names, '') is source
    with pytest.raises(UserError, match="has class 'c' that the network has not; its 2 classes: a"):
        sources.numbered_as(source, ('a', 'b'), 'the network')


def test_bare_numbers(tmp_path: pathlib.Path) -> None:
    """They are ILSVRC's public numbers, or those of a network that has numbers; else they need
    names.
    """
    put(tmp_path, 'a.png', 'b.png')
    (tmp_path / 'labels.txt').write_text('a.png 0\nb.png 3\n')
    source = of_folder(tmp_path)
    for names in (tuple('0123456789'), ILSVRC):
        fitted = sources.numbered_as(source, names, 'the network')
        assert ([fitted[0].label, fitted[1].label], fitted.classes) == ([0, 3], names)
    with pytest.raises(
        UserError, match=r'has class numbers, RUN has classes by name.*synsets\.txt'
    ):
        sources.numbered_as(source, TEN, 'RUN')
    (tmp_path / 'synsets.txt').write_text('\n'.join(TEN[:4]))
    fitted = sources.numbered_as(of_folder(tmp_path), ('zero', *TEN[:4]), 'RUN')
    assert [fitted[0].label, fitted[1].label] == [1, 4]
    with pytest.raises(UserError, match="class '3'"):
        sources.numbered_as(source, tuple('012'), 'RUN')
    digits = sources.open_source(config_of('digits', ''), 'eval')
    with pytest.raises(UserError, match='digits has 10 classes'):
        sources.numbered_as(digits, ILSVRC, 'RUN')


def test_without_names_the_count_must_be_the_networks(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'a.png', 'b.png')
    (tmp_path / 'labels.txt').write_text('a.png 0\nb.png 3\n')
    config = base.get_config()
    config.data.source, config.data.dir = 'folder', str(tmp_path)
    for count in (4, 10, 1000):  # bare numbers may end before
        config.model.num_classes = count
        assert sources.open_for(config, 'eval').num_classes == count
    for split in ('train', 'eval'):
        config.model.num_classes = 3
        with pytest.raises(UserError, match='folder has 4 classes, the network 3'):
            sources.open_for(config, split)
    config.model.num_classes = 10
    with pytest.raises(UserError, match='folder has 4 classes, the network 10'):
        sources.open_for(config, 'train')


@pytest.mark.parametrize(
    ('found', 'line'),
    [
        (
            ('Zero', 'one'),
            "X has class 'Zero' that Y has not; there it is called 'zero': names must",
        ),
        (('one', 'zero '), "has class 'zero ' that Y has not; there it is called 'zero'"),
        (('one', 'two', 'zero'), "X has class 'two' that Y has not; its 2 classes: one, zero"),
        (('a', 'b', 'c', 'd', 'e'), "has 5 classes 'a', 'b', 'c' and 2 more that Y has not"),
        (('one',), "X lacks class 'zero' that Y has"),
        (('zero', 'one'), "classes of Y in another order: class 0 is 'zero', not 'one'"),
    ],
)
def test_a_difference_is_one_line(found: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as caught:
        classes.require_same(found, 'X', ('one', 'zero'), 'Y')
    assert line in str(caught.value)
    assert str(caught.value).isprintable()


def test_names_are_cut_and_escaped() -> None:
    with pytest.raises(UserError) as caught:
        classes.require_known(tuple(f'\x1b{k}' + 'x' * 10**6 for k in range(9)), 'X', ('y',), 'Y')
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    'content',
    [b'', b'{}', b'[]', b'[1]', b'[["a"]]', b'"ab"', b'null', b'["a", "a"]', b'\xff', b'[' * 10**5],
)
def test_kept_names_that_are_damaged(content: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'classes.json'
    assert classes.read(path) is None
    path.write_text(json.dumps(['a', 'caf\xe9']))
    assert classes.read(path) == ('a', 'caf\xe9')
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'classes\.json: '):
        classes.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r'classes\.json: not readable'):
        classes.read(path)


def test_a_prepared_set_has_its_own_names_and_size(tmp_path: pathlib.Path) -> None:
    """tfds' metadata: names of the classes, images of the split that a part is taken from."""

    @dataclasses.dataclass
    class Split:
        num_examples: int

    splits = {'train': Split(100), 'validation': Split(40)}
    for name, split, size, complete in (
        ('own', 'validation', 40, 40), ('own', 'validation[:10]', 10, 40),
        ('own', 'train+validation', 140, 140), ('imagenet2012', 'validation', 40, 50_000),
        ('imagenet2012:5.1.0', 'validation[:10%]', 4, 50_000), ('imagenet2012', 'train', 100, 100),
        ('mnist', 'test', 10_000, 10_000),
    ):  # fmt: skip
        assert sources._complete(name, split, splits, size) == complete, (name, split)
