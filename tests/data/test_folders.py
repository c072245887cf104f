"""Folders of pictures: each file used once, or named and counted, or refused in one line."""

import contextlib
import errno
import os
import pathlib
import resource
import signal
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import PIL.Image
import pytest

from cnn_arch.data import decode, folders, sources, synsets
from cnn_arch.errors import UserError
from tests.data.test_sources import config_of
from tests.shared import shared_data

TENCH, GOLDFISH = 'n01440764', 'n01443537'


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Whoever opens a FIFO waits for ever; here, for ten seconds."""

    def ended(*_: object) -> None:
        raise TimeoutError('something waits')

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(root: pathlib.Path, *names: str) -> None:
    """Empty files, of which only the names matter here."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')


def found(root: pathlib.Path, split: str = 'validation') -> dict[str, str]:
    """The class of each picture, by its path."""
    listing = folders.read(root, split)
    labels = [listing.classes[label] for label in listing.labels]
    assert len(set(listing.names)) == len(listing.names)
    return dict(zip(listing.names, labels, strict=True))


def remarks(root: pathlib.Path) -> str:
    return folders.read(root, 'validation').remarks


def refused(root: pathlib.Path, *words: str, split: str = 'validation') -> str:
    """The line that refuses it; it is one, bears the words and is no longer than a screen."""
    with pytest.raises(UserError) as caught:
        folders.read(root, split)
    line = str(caught.value)
    assert '\n' not in line
    assert len(line) < 1000
    for word in words:
        assert word in line, line
    return line


# ---- what is used


def test_sub_folders_belong_to_their_class(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png', 'cat/home/2.png', 'cat/home/old/3.png', 'dog/1.png')
    assert found(tmp_path) == {
        'cat/1.png': 'cat', 'cat/home/2.png': 'cat', 'cat/home/old/3.png': 'cat', 'dog/1.png': 'dog'
    }  # fmt: skip
    assert remarks(tmp_path) == '2 pictures in sub-folders of their class folder'


def test_every_format_that_the_decoder_reads_is_a_picture(tmp_path: pathlib.Path) -> None:
    names = []
    for kind in decode.FORMATS:
        for ending in folders.ENDINGS[kind]:
            name = f'a/{kind}{ending.upper() if kind == "PNG" else ending}'
            put(tmp_path, name)
            PIL.Image.new('RGB', (20, 16), (200, 100, 50)).save(tmp_path / name, kind)
            names.append(name)
    source = sources.open_source(config_of('folder', tmp_path), 'eval')
    assert isinstance(source, sources.FileSource)
    assert sorted(source.names) == sorted(names)
    assert len(names) >= 10
    for index in range(len(source)):
        pixels = decode.decode(source[index].image)
        assert pixels.shape == (16, 20, 3)
        assert abs(pixels.mean(axis=(0, 1)) - (200, 100, 50)).max() < 5


def test_other_files_are_named_and_counted(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png', 'cat/1.xml', 'cat/2.xml', 'cat/3.heic', 'notes', 'stray.png')
    assert list(found(tmp_path)) == ['cat/1.png']
    assert remarks(tmp_path) == (
        'left out, outside class folders: 1 picture (stray.png); '
        'left out, no pictures by their endings: 4 files: 2 .xml (cat/1.xml, cat/2.xml), '
        '1 .heic (cat/3.heic), 1 without ending (notes)'
    )


def test_many_kinds_of_files_are_a_short_line(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png', *(f'cat/{"x" * 90}{n}.{"y" * 100}{n}' for n in range(300)))
    assert len(remarks(tmp_path)) < 2500
    assert '300 files' in remarks(tmp_path)


def test_hidden_things_and_litter_are_no_data(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png', '.ipynb_checkpoints/1.png', 'cat/.ipynb_checkpoints/1.png',
        'cat/._1.png', 'cat/.DS_Store', 'cat/Thumbs.db', 'cat/desktop.ini', '__MACOSX/cat/1.png',
        '__MACOSX/cat/._1.png', '.git/x.png')  # fmt: skip
    assert found(tmp_path) == {'cat/1.png': 'cat'}
    assert folders.read(tmp_path, 'validation').classes == ('cat',)
    assert remarks(tmp_path) == ''


def test_names_that_are_no_utf8(tmp_path: pathlib.Path) -> None:
    folder = os.fsencode(tmp_path) + b'/caf\xe9'
    os.mkdir(folder)
    with open(folder + b'/\xff\n.png', 'wb') as file:
        file.write(b'content')
    source = sources.open_source(config_of('folder', tmp_path), 'eval')
    assert source.classes == ('caf\\xe9',)
    example = source[0]
    assert (example.image, example.key) == (b'content', 'caf\\xe9/\\xff\\n.png')
    example.key.encode()  # can be written to any file


def test_one_class_name_in_two_forms_of_unicode(tmp_path: pathlib.Path) -> None:
    put(tmp_path / 'mac', 'cafe\u0301/1.png')
    put(tmp_path / 'linux', 'caf\xe9/1.png')
    mac, linux = (folders.read(tmp_path / name, 'train').classes for name in ('mac', 'linux'))
    assert mac == linux == ('caf\xe9',)
    put(tmp_path / 'linux', 'cafe\u0301/1.png')
    refused(tmp_path / 'linux', "called 'caf\xe9'", 'Unicode')


# ---- what is refused


def test_no_file_counts_twice(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png', 'dog/2.png')
    os.link(tmp_path / 'cat/1.png', tmp_path / 'dog/also.png')
    refused(tmp_path, 'cat/1.png and dog/also.png are one file')
    os.unlink(tmp_path / 'dog/also.png')
    os.symlink('../cat/1.png', tmp_path / 'dog/also.png')
    refused(tmp_path, 'cat/1.png and dog/also.png are one file')
    os.unlink(tmp_path / 'dog/also.png')
    os.symlink('../cat', tmp_path / 'dog/cats')
    refused(tmp_path, 'dog/cats', 'are one folder')
    os.unlink(tmp_path / 'dog/cats')
    os.symlink('.', tmp_path / 'dog/here')  # for ever
    refused(tmp_path, 'dog/here', 'are one folder')


def test_links_may_lead_anywhere_in_the_data_and_nowhere_else(tmp_path: pathlib.Path) -> None:
    """One rule for class folders, pictures and labels.txt."""
    data, other = tmp_path / 'data', tmp_path / 'other'
    put(data, 'store/a.png', 'store/cats/1.png', 'val/dog/2.png')
    put(other, 'b.png', 'cats/3.png', 'labels.txt')
    os.symlink('../../store/a.png', data / 'val/dog/a.png')
    os.symlink('../store/cats', data / 'val/cat')
    assert set(found(data)) == {'cat/1.png', 'dog/2.png', 'dog/a.png'}
    for link, target in (('dog/b.png', 'b.png'), ('cow', 'cats'), ('labels.txt', 'labels.txt')):
        os.symlink(other / target, data / 'val' / link)
        refused(data, f'val/{link}: a link to', 'outside the data')
        os.unlink(data / 'val' / link)
    for name in ('../../other/b.png', str(other / 'b.png')):
        (data / 'val/labels.txt').write_text(f'{name} 0\n')
        refused(data, 'labels.txt, line 1', 'lies outside')
    (data / 'val/labels.txt').write_text(f'../store/a.png 1\n{data}/val/dog/2.png 0\n')
    assert len(found(data)) == 2
    # The folder of the data itself, and that of a split, may lie anywhere.
    os.unlink(data / 'val/labels.txt')
    os.symlink(data, tmp_path / 'link')
    assert len(found(tmp_path / 'link')) == 3
    put(other, 'whole/cat/1.png')
    os.symlink(other / 'whole', data / 'train')
    assert found(data, 'train') == {'cat/1.png': 'cat'}


def test_links_that_lead_nowhere(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png')
    for link in ('cat/2.png', 'dog'):
        os.symlink('gone', tmp_path / link)
        refused(tmp_path, f'{link}: a link that leads nowhere')
        os.unlink(tmp_path / link)
    os.symlink('a.png', tmp_path / 'cat/a.png')  # to itself
    refused(tmp_path, 'cat/a.png: a link that leads nowhere')


def test_what_is_called_as_a_picture_and_is_none(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png')
    (tmp_path / 'cat/x.JPEG').mkdir()
    refused(tmp_path, 'cat/x.JPEG is a folder')
    (tmp_path / 'cat/x.JPEG').rmdir()
    os.mkfifo(tmp_path / 'cat/b.JPEG')
    refused(tmp_path, 'cat/b.JPEG is a FIFO')
    os.unlink(tmp_path / 'cat/b.JPEG')
    os.mkfifo(tmp_path / 'pipe')
    os.symlink('../pipe', tmp_path / 'cat/b.JPEG')
    refused(tmp_path, 'cat/b.JPEG is a FIFO')
    os.unlink(tmp_path / 'cat/b.JPEG')
    with contextlib.chdir(tmp_path / 'cat'), socket.socket(socket.AF_UNIX) as server:
        server.bind('b.JPEG')
        refused(tmp_path, 'cat/b.JPEG is a FIFO, socket or device')
    os.unlink(tmp_path / 'cat/b.JPEG')
    os.symlink('/dev/zero', tmp_path / 'cat/b.JPEG')
    refused(tmp_path, 'cat/b.JPEG')
    os.unlink(tmp_path / 'cat/b.JPEG')
    assert list(found(tmp_path)) == ['cat/1.png']  # a FIFO beside it is a file that is left out
    os.mkfifo(tmp_path / 'labels.txt')
    refused(tmp_path, 'labels.txt is a FIFO')


def test_pictures_in_no_class_folder(tmp_path: pathlib.Path) -> None:
    put(tmp_path, '1.png', '2.png')
    refused(tmp_path, '2 pictures (1.png, 2.png) in no class folder', 'labels.txt')


def test_what_cannot_be_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is played, for root may read everything."""

    def denied(path: object, *_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    put(tmp_path, 'cat/1.png')
    labelled(tmp_path, 'cat/1.png 0\n')
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'open', denied)
        refused(tmp_path, 'labels.txt: not readable: Permission denied')
    os.unlink(tmp_path / 'labels.txt')
    real, folder = os.scandir, str(tmp_path / 'cat')
    monkeypatch.setattr(os, 'scandir', lambda path: (denied if path == folder else real)(path))
    refused(tmp_path, 'cat: not readable: Permission denied')


def test_a_picture_that_has_gone(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png')
    source = sources.open_source(config_of('folder', tmp_path), 'eval')
    os.unlink(tmp_path / 'cat/1.png')
    with pytest.raises(UserError, match=r'cat/1\.png: no such file'):
        source[0]


# ---- splits


def test_a_missing_split_is_named(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'train/cat/1.png')
    line = refused(tmp_path, f'no folder {tmp_path / "validation"} and no {tmp_path / "val"}')
    assert "for the split 'validation'; there are train" in line
    put(tmp_path, 'val/cat/2.png')
    assert found(tmp_path) == {'cat/2.png': 'cat'}
    refused(tmp_path, f'no folder {tmp_path / "test"}', split='test')
    refused(tmp_path, 'val_clean', split='val_clean')


def test_a_split_of_a_name_of_its_own_must_be_there(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png')
    assert found(tmp_path, 'train') == found(tmp_path)  # one folder for both
    refused(tmp_path, "for the split 'holdout'", split='holdout')
    put(tmp_path, 'holdout/dog/1.png')
    assert found(tmp_path, 'holdout') == {'dog/1.png': 'dog'}


def test_the_folder_must_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'cat/1.png')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'needs the folder: --config\.data\.dir'):
        sources.open_source(config_of('folder', ''), 'eval')


# ---- labels.txt


def labelled(root: pathlib.Path, content: str | bytes) -> None:
    encoded = content.encode() if isinstance(content, str) else content
    (root / 'labels.txt').write_bytes(encoded)


def test_each_picture_has_one_line(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'a.png', 'images/b.png', 'c.png')
    labelled(tmp_path, 'a.png 0\nb.png 1\n')
    assert found(tmp_path) == {'a.png': '0', 'images/b.png': '1'}
    assert remarks(tmp_path) == 'left out, not in labels.txt: 1 picture (c.png)'
    labelled(tmp_path, 'a.png 0\n\nb.png 1\na.png 0\n')
    refused(tmp_path, 'a.png stands in line 1 (class 0) and in line 4 (class 0)')
    labelled(tmp_path, 'a.png 0\nb.png 1\na.png 1\n')
    refused(tmp_path, 'a.png stands in line 1 (class 0) and in line 3 (class 1)')
    for other in ('./a.png', 'images/../a.png', 'a.png'):  # however it is written
        labelled(tmp_path, f'a.png 0\n{other} 1\n')
        refused(tmp_path, 'in line 1 (class 0) and in line 2 (class 1)')
    labelled(tmp_path, 'b.png 0\nimages/b.png 1\n')
    refused(tmp_path, 'images/b.png stands in line 1')
    os.link(tmp_path / 'a.png', tmp_path / 'd.png')
    labelled(tmp_path, 'a.png 0\nd.png 1\n')
    refused(tmp_path, 'a.png and d.png are one file')
    labelled(tmp_path, f'a.png 0\n{tmp_path}/a.png 1\n')
    refused(tmp_path, 'are one file')


def test_a_line_may_name_any_file(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'a b.png', '.hidden.png', 'data.bin', 'sub/c.png')
    labelled(tmp_path, 'a b.png 0\r\n.hidden.png\t1\ndata.bin 2\nsub/c.png   003')
    assert found(tmp_path) == {'a b.png': '0', '.hidden.png': '1', 'data.bin': '2',
                               'sub/c.png': '3'}  # fmt: skip
    assert remarks(tmp_path) == ''


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('a.png 0\nb\xfc.png 1\n'.encode('latin-1'), ['line 2', 'byte 0xfc is not UTF-8']),
        ('a.png 0\n'.encode('utf-16'), ['UTF-16', 'UTF-8']),
        ('a.png 0\n'.encode('utf-16-be'), ['line 1']),
        (b'a.png 0\n\x00.png 1\n', ['line 2', 'no such picture: \\x00.png']),
        (b'a.png 0\nx\x1b[31m.png 1\n', ['line 2', 'x\\x1b[31m.png']),
        (b'a.png 0\n' + b'x' * 10**6 + b' 1\n', ['line 2', 'longer than']),
        (b'x' * 3000 + b' 1\n', ['no such picture', 'xxx...']),
        ('a.png \u0663\n'.encode(), ['line 1', 'expected `file class`']),  # an Arabic digit
        (b'a.png ' + b'9' * 4000, ['line 1', 'out of range, 0 to 999']),
        (b'a.png 1000', ['line 1', 'class 1000 is out of range']),
        (b'a.png 1.5', ['expected `file class`']),
        (b'a.png', ['expected `file class`']),
        (b'.. 1', ['line 1']),
        (b'sub 1', ['no such picture: sub']),
        (b'pipe 1', ['no such picture: pipe']),
        (b'\n\n', ['no pictures']),
        (b'', ['no pictures']),
    ],
)
def test_a_labels_file_that_is_wrong(
    tmp_path: pathlib.Path, content: bytes, words: list[str]
) -> None:
    put(tmp_path, 'a.png', 'sub/c.txt')
    os.mkfifo(tmp_path / 'pipe')
    labelled(tmp_path, content)
    line = refused(tmp_path, *words)
    assert str(tmp_path) in line
    assert line.isprintable()


def test_a_byte_order_mark_is_read_over(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'a.png')
    labelled(tmp_path, b'\xef\xbb\xbfa.png 0\n')
    assert found(tmp_path) == {'a.png': '0'}


def test_a_huge_labels_file_is_refused_unread(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'a.png')
    with (tmp_path / 'labels.txt').open('wb') as file:
        file.truncate(2**40)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    refused(tmp_path, '1,099,511,627,776 bytes')
    with (tmp_path / 'labels.txt').open('wb') as file:
        file.truncate(folders.LABELS_BYTES)  # one line of zeros
    refused(tmp_path, 'line 1: longer than')
    assert time.monotonic() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


# ---- ILSVRC


def test_a_list_of_synsets_names_the_classes_in_order(tmp_path: pathlib.Path) -> None:
    put(tmp_path, 'b/1.png', 'a/2.png')
    (tmp_path / 'synsets.txt').write_text('b some words\nc\na\n')
    listing = folders.read(tmp_path, 'train')
    assert listing.classes == ('b', 'c', 'a')
    assert found(tmp_path) == {'b/1.png': 'b', 'a/2.png': 'a'}
    labelled(tmp_path, 'a/2.png 2\nb/1.png 0\n')
    listing = folders.read(tmp_path, 'train')
    assert (listing.classes, listing.labels, listing.numbered) == (('b', 'c', 'a'), [2, 0], False)
    labelled(tmp_path, 'a/2.png 3\n')
    refused(tmp_path, 'class 3 is out of range, 0 to 2')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'a\nb\na\n', ['a stands in line 3 and in line 1']),
        (b'a\nc\n', ['names 2 classes, but not the class folder b']),
        (b'\xff\xfea\n', ['not UTF-8']),
        (b'', ['empty']),
    ],
)
def test_a_list_of_synsets_that_is_damaged(
    tmp_path: pathlib.Path, content: bytes, words: list[str]
) -> None:
    put(tmp_path, 'b/1.png', 'a/2.png')
    (tmp_path / 'synsets.txt').write_bytes(content)
    refused(tmp_path, str(tmp_path / 'synsets.txt'), *words)
    os.truncate(tmp_path / 'synsets.txt', 2**40)
    refused(tmp_path, 'synsets.txt: 1,099,511,627,776 bytes are no list of classes')


def test_only_ilsvrcs_validation_set_is_a_part_of_50_000(tmp_path: pathlib.Path) -> None:
    put(tmp_path / 'own', *(f'{number:04}/1.png' for number in range(1000)))
    assert folders.read(tmp_path / 'own', 'validation').complete == 1000
    put(tmp_path / 'part', f'train/{TENCH}/1.JPEG', f'val/{TENCH}/2.JPEG', f'test/{TENCH}/3.JPEG')
    complete = {split: folders.read(tmp_path / 'part', split).complete
                for split in ('train', 'validation', 'test')}  # fmt: skip
    assert complete == {'train': 1, 'validation': 50_000, 'test': 1}
    put(tmp_path / 'numbered', 'a.png')
    labelled(tmp_path / 'numbered', 'a.png 999\n')
    assert folders.read(tmp_path / 'numbered', 'validation').complete == 1
    put(tmp_path / 'flat', 'ILSVRC2012_val_00000001.JPEG')
    labelled(tmp_path / 'flat', 'ILSVRC2012_val_00000001.JPEG 65\n')
    assert folders.read(tmp_path / 'flat', 'validation').complete == 50_000
    assert folders.read(tmp_path / 'flat', 'validation').classes[65] == 'n01751748'


def test_word_net_ids_beside_other_names_are_ordinary(tmp_path: pathlib.Path) -> None:
    put(tmp_path, f'{TENCH}/1.JPEG', f'{GOLDFISH}/1.JPEG')
    assert folders.read(tmp_path, 'validation').classes == tuple(synsets.ilsvrc_2012())
    put(tmp_path, 'pike/1.JPEG')
    listing = folders.read(tmp_path, 'validation')
    assert listing.classes == (TENCH, GOLDFISH, 'pike')
    assert listing.complete == 3
    assert listing.remarks == ("ordinary classes, not ILSVRC's, because of pike beside WordNet ids")


def test_the_flat_validation_set_has_the_published_labels(tmp_path: pathlib.Path) -> None:
    pytest.importorskip('tensorflow_datasets')
    real = shared_data('ilsvrc_val227') / 'labels.txt'
    expected = dict(line.split() for line in real.read_text().splitlines())
    put(tmp_path / 'plain', *(f'val/{name}' for name in expected))
    put(tmp_path / 'kaggle', *(f'ILSVRC/Data/CLS-LOC/val/{name}' for name in expected))
    put(tmp_path / 'kaggle', f'ILSVRC/Data/CLS-LOC/train/{TENCH}/a.JPEG')
    for name in ('plain', 'kaggle'):
        signal.alarm(60)  # the import of tfds takes its time
        listing = folders.read(tmp_path / name, 'validation')
        labels = map(str, listing.labels)
        assert dict(zip(listing.names, labels, strict=True)) == expected
        assert listing.complete == 50_000
        assert listing.classes == tuple(synsets.ilsvrc_2012())
    assert found(tmp_path / 'kaggle', 'train') == {f'{TENCH}/a.JPEG': TENCH}
    put(tmp_path / 'plain', 'val/ILSVRC2012_val_00050001.JPEG')
    refused(tmp_path / 'plain', '00050001', 'validation images 1 to 50,000')


def test_the_devkits_labels_are_held_against_the_published_ones(tmp_path: pathlib.Path) -> None:
    pytest.importorskip('tensorflow_datasets')
    from cnn_arch.data.preparation import ilsvrc

    signal.alarm(60)
    put(tmp_path, 'val/ILSVRC2012_val_00000002.JPEG')
    published = ilsvrc.published_labels()
    numbers = {wnid: 1000 - k for k, wnid in enumerate(synsets.ilsvrc_2012())}
    lines = [str(numbers[wnid]) for wnid in published]
    truth = tmp_path / 'ILSVRC2012_devkit_t12' / 'data' / folders.TRUTH
    truth.parent.mkdir(parents=True)
    truth.write_text('\n'.join(lines) + '\n')
    assert found(tmp_path) == {'ILSVRC2012_val_00000002.JPEG': published[1]}
    truth.write_text('\n'.join([*lines[1:], lines[0]]) + '\n')
    refused(tmp_path, str(truth), "not the devkit's labels")


# ---- size


def test_listing_asks_no_file_for_its_status(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *(f'{name}/{number}.png' for name in 'abc' for number in range(100)))
    asked: list[str] = []
    real = os.stat
    monkeypatch.setattr(os, 'stat', lambda path, **k: asked.append(str(path)) or real(path, **k))
    assert len(folders.read(tmp_path, 'train').names) == 300
    assert not [path for path in asked if path.endswith('.png')]
    assert len(asked) < 60


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: pathlib.Path) -> None:
    signal.alarm(200)
    for number in range(1000):
        (tmp_path / f'{number:04}').mkdir()
        for k in range(100):
            os.close(os.open(tmp_path / f'{number:04}/{k:06}.JPEG', os.O_CREAT))
    began = time.monotonic()
    assert len(folders.read(tmp_path, 'train').names) == 100_000
    seconds = time.monotonic() - began
    print(f'100,000 files listed in {seconds:.2f} s')
    assert seconds < 5
