"""Every name, label and byte counts; a file that was read once is known again, never wrongly."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from cnn_arch.data import fingerprint, prepare, sources
from cnn_arch.data.fingerprint import identity
from cnn_arch.errors import UserError
from tests.data.test_sources import picture
from tests.evaluation.common import Pictures

COUNT = 200  # files: more than a sample of 64 would meet


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache of its own for each test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'cnn_arch' / 'hashes'


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered at once: this machine's clock tells changes apart."""
    monkeypatch.setattr(fingerprint, 'GRANULARITY', 0)


@pytest.fixture
def files(tmp_path: pathlib.Path) -> sources.FileSource:
    """Files of two classes, 1,000 bytes each."""
    rng = np.random.default_rng(0)
    names = [f'{"ab"[n % 2]}/{n:03d}.JPEG' for n in range(COUNT)]
    for name in names:
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(1000))
    labels = [n % 2 for n in range(COUNT)]
    return sources.FileSource('folder', ('a', 'b'), COUNT, tmp_path / 'data', names, labels)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    found: list[str] = []
    hash_file = fingerprint._hash

    def note(path: str):
        found.append(path)
        return hash_file(path)

    monkeypatch.setattr(fingerprint, '_hash', note)
    return found


def rewrite(path: pathlib.Path, data: bytes) -> None:
    """Other bytes under the same name, size and time."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(source: sources.FileSource, name: str, one: int, two: int):
    values = list(getattr(source, name))
    values[one], values[two] = values[two], values[one]
    return dataclasses.replace(source, **{name: values})


def renamed(source: sources.FileSource, index: int) -> sources.FileSource:
    names = list(source.names)
    names[index] = f'{names[index][0]}/{index:03d}_.JPEG'
    source.files[index].rename(source.root / names[index])
    return dataclasses.replace(source, names=names)


def relabelled(source: sources.FileSource, index: int) -> sources.FileSource:
    labels = list(source.labels)
    labels[index] = 1 - labels[index]
    return dataclasses.replace(source, labels=labels)


CHANGES = {
    'name': lambda source: dataclasses.replace(source, name='other'),
    'classes': lambda source: dataclasses.replace(source, classes=('a', 'b', 'c')),
    'complete': lambda source: dataclasses.replace(source, complete=50_000),
    'one less': lambda source: dataclasses.replace(
        source, names=source.names[:-1], labels=source.labels[:-1]
    ),
    'a file name': lambda source: renamed(source, 101),
    'a label': lambda source: relabelled(source, 101),
    'two labels of equal files': lambda source: swapped(source, 'labels', 100, 101),
    'the order': lambda source: swapped(source, 'names', 100, 102),
}  # fmt: skip


@pytest.mark.parametrize('what', CHANGES)
def test_each_part_alone_is_another_identity(files, what: str) -> None:
    before = identity(files)
    assert identity(files) == before
    unread = identity(files, contents=False)
    changed = CHANGES[what](files)
    assert identity(changed) != before
    assert identity(changed, contents=False) != unread


@pytest.mark.parametrize('index', range(0, COUNT, 20))
def test_a_content_under_the_same_name_size_and_time(files, remembered, index: int) -> None:
    """Also after the file was remembered: what the kernel notes of a change cannot be set back."""
    before = identity(files)
    rewrite(files.files[index], bytes(1000))
    after = identity(files)
    assert after['contents'] != before['contents']
    assert {**after, 'contents': ''} == {**before, 'contents': ''}


def test_two_pictures_that_change_places(files, remembered) -> None:
    before = identity(files)
    one, two = (files.files[n].read_bytes() for n in (2, 4))
    rewrite(files.files[2], two)
    rewrite(files.files[4], one)
    assert identity(files) != before


def test_names_of_classes_count(tmp_path: pathlib.Path) -> None:
    """A folder's name belongs to its files' names; what a source says of its classes counts too."""
    found = []
    for names in (('ab', 'cd'), ('ab', 'CD')):
        for name in names:
            picture(tmp_path / names[1] / name / 'a.jpg')
        found.append(identity(sources._folder(tmp_path / names[1], 'eval', 'folder')))
    assert found[0]['names'] != found[1]['names']
    source = Pictures()
    before = identity(source)
    source.classes = tuple('abcdefg')  # type: ignore[attr-defined]
    named = identity(source)
    assert named != before
    source.classes = tuple('abcdefG')  # type: ignore[attr-defined]
    assert identity(source) != named


def test_arrays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1)).astype(np.uint8)
    source = sources.ArraySource('digits', sources.DIGITS, COUNT, images, np.arange(COUNT) % 10)
    before = identity(source)
    assert identity(dataclasses.replace(source, images=images.copy())) == before
    other = images.copy()
    other[101, 1, 1] ^= 1
    labels = source.labels.copy()
    labels[101] += 1
    for change in ({'images': other}, {'labels': labels}, {'images': images.reshape(-1, 2, 8, 1)},
                   {'images': images[::-1]}):  # fmt: skip
        assert identity(dataclasses.replace(source, **change)) != before


@pytest.mark.parametrize('what', ['image', 'label', 'key'])
def test_sources_of_another_kind_are_read_whole(what: str) -> None:
    values = {'image': b'other', 'label': 9, 'key': 'other'}
    source = Pictures()
    before = identity(source)
    source.examples[7] = dataclasses.replace(source.examples[7], **{what: values[what]})
    assert identity(source) != before


def test_arrayrecord(tmp_path: pathlib.Path, remembered, read) -> None:
    """The files that hold the records stand for these; a part of a split is another source."""
    for split in ('train', 'val'):
        for number, name in enumerate(('one', 'two')):
            picture(tmp_path / 'tree' / split / name / f'{split}{number}.JPEG', 40 * number)
    out = tmp_path / 'out'
    argv = ['own', f'--from-folder={tmp_path / "tree"}', f'--out={out}']
    assert prepare.main(argv) == 0

    def opened(split: str) -> sources.TfdsSource:
        return sources.TfdsSource('own', split, str(out))

    identity(opened('train'), contents=False)
    assert not any('array_record' in name for name in read)
    before = identity(opened('validation'))
    assert before['images'] == 2
    assert identity(opened('validation')) == before
    assert identity(opened('validation[:1]')) != before
    assert identity(opened('train')) != before
    (file,) = [path for path in out.rglob('*validation*array_record*')]
    assert read.count(str(file)) == 1
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(file, bytes(data))
    assert identity(opened('validation')) != before


class TestCache:
    def test_what_was_read_is_not_read_again(self, files, remembered, read, cache) -> None:
        before = identity(files)
        assert len(read) == COUNT
        assert identity(files) == before
        assert len(read) == COUNT
        rewrite(files.files[7], bytes(1000))
        assert identity(files) != before
        assert read[COUNT:] == [str(files.files[7])]
        assert cache.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in cache.iterdir()] == [0o600]

    def test_a_change_within_the_clocks_grain_is_seen(self, files, read, monkeypatch) -> None:
        """As on a file system that counts in two seconds: the times of the change are the same."""

        def coarse(found: os.stat_result) -> list[int]:
            seconds = found.st_mtime_ns // 2_000_000_000 * 2_000_000_000
            return [found.st_size, seconds, seconds, 0, 0]

        monkeypatch.setattr(fingerprint, '_facts', coarse)
        before = identity(files)
        rewrite(files.files[7], bytes(1000))  # at once
        assert identity(files) != before

    @pytest.mark.parametrize('moment', ['before', 'after'])
    def test_only_what_is_older_than_the_grain_is_remembered(
        self, files, read, monkeypatch, moment: str
    ) -> None:
        late = {'before': 1.9, 'after': 2.1}[moment]
        newest = max(path.stat().st_ctime_ns for path in files.files)
        monkeypatch.setattr(fingerprint.time, 'time_ns', lambda: int(newest + late * 10**9))
        identity(files)
        identity(files)
        assert (str(files.files[-1]) in read[COUNT:]) == (moment == 'before')

    def damage_nothing(self, path: pathlib.Path) -> None:
        """A wrong hash with a right checksum: believed, which shows that the others are not."""

    def damage_checksum(self, path: pathlib.Path) -> None:
        data = path.read_bytes()
        path.write_bytes((b'1' if data[:1] == b'0' else b'0') + data[1:])

    def damage_end(self, path: pathlib.Path) -> None:
        path.write_bytes(path.read_bytes()[:-2])

    def damage_all(self, path: pathlib.Path) -> None:
        path.write_bytes(b'\xff\x00 no cache')

    def open_file(self, path: pathlib.Path) -> None:
        path.chmod(0o620)

    def open_folder(self, path: pathlib.Path) -> None:
        path.parent.chmod(0o777)

    def link(self, path: pathlib.Path) -> None:
        path.rename(path.with_suffix('.moved'))
        path.symlink_to(path.with_suffix('.moved'))

    CASES = ('damage_nothing', 'damage_checksum', 'damage_end', 'damage_all', 'open_file',
             'open_folder', 'link')  # fmt: skip

    @pytest.mark.parametrize('case', CASES)
    def test_never_believed_if_damaged_or_open_to_others(
        self, files, remembered, cache, monkeypatch, case: str
    ) -> None:
        right = identity(files)
        true = fingerprint._hash
        monkeypatch.setattr(
            fingerprint, '_hash', lambda path: ([*true(path)[0][:-1], 'f' * 64], True)
        )
        for path in cache.iterdir():
            path.unlink()
        assert identity(files) != right
        monkeypatch.setattr(fingerprint, '_hash', true)
        (path,) = cache.iterdir()
        getattr(self, case)(path)
        assert (identity(files) == right) == (case != 'damage_nothing')

    def test_another_users_is_not_used(self, files, remembered, read, monkeypatch) -> None:
        identity(files)
        user = os.geteuid()
        monkeypatch.setattr(os, 'geteuid', lambda: user + 1)
        identity(files)
        assert len(read) == 2 * COUNT

    def test_without_a_cache(self, files, tmp_path, monkeypatch) -> None:
        before = identity(files)
        (tmp_path / 'file').write_text('')
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
        assert identity(files) == before


def test_a_file_that_went_away(files) -> None:
    files.files[3].unlink()
    with pytest.raises(UserError, match=r'003\.JPEG: No such file'):
        identity(files)


def test_a_sequence_of_texts_tells_where_each_ends() -> None:
    texts = [
        ['ab', 'c'],
        ['a', 'bc'],
        ['abc'],
        ['a,b', 'c'],
        ['a', 'b', 'c'],
        ['a"', '"b'],
        ['', ''],
    ]
    assert len({fingerprint.digest_of(text) for text in texts}) == len(texts)
