"""ILSVRC-2012 as it is handed out: what its files hold, and how to tell that they are whole.

Everything is checked before hours are spent on it. Reading the headers of the training archive
(1,000 archives of one class each inside one archive) takes some minutes.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO

from cnn_arch import files
from cnn_arch.data import progress, synsets
from cnn_arch.data.preparation import tar
from cnn_arch.errors import UserError, shown
from cnn_arch.files import Refused


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published file; size and SHA-256 as tfds' checksums.tsv has them."""

    name: str
    what: str
    images: int
    size: int  # bytes
    sha256: str


ARCHIVES = {
    'train': Archive(
        'ILSVRC2012_img_train.tar',
        'training set',
        1_281_167,
        147_897_477_120,
        'b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb',
    ),
    'validation': Archive(
        'ILSVRC2012_img_val.tar',
        'validation set',
        50_000,
        6_744_924_160,
        'c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0',
    ),
}
CLASSES = 1000
LARGEST_LABELS = 1 << 22  # bytes, of 50,000 lines
NAME, VERSION = 'imagenet2012', '5.1.0'  # as tfds 4.9 names and versions it
CLASS_ARCHIVE = re.compile(r'(n\d{8})\.tar')
VALIDATION_IMAGE = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')


@dataclasses.dataclass(frozen=True)
class Contents:
    """What one split holds."""

    classes: Counter[str]  # images of each class, by WordNet id
    bytes: int  # of all pictures
    names: frozenset[str] = frozenset()  # those of the `noted` files that are there

    @property
    def images(self) -> int:
        return sum(self.classes.values())


def check_archive(split: str, folder: pathlib.Path, partial: bool, checksum: bool) -> pathlib.Path:
    """The split's archive in `folder`, if it is there, is the right one and has the right size.

    `partial` allows another size, `checksum` reads all of it. Raises UserError.
    """
    archive = ARCHIVES[split]
    path = folder / archive.name
    if not path.is_file():
        raise UserError(
            f'{path} is missing: get it from https://image-net.org (registration is needed), '
            'the file belongs there as it is, not unpacked'
        )
    first = _first_name(path)
    for other, pattern in (('train', CLASS_ARCHIVE), ('validation', VALIDATION_IMAGE)):
        if other != split and pattern.fullmatch(first):
            raise UserError(
                f'{path} begins with {first}: that is the {ARCHIVES[other].what}, '
                f'not the {archive.what}'
            )
    size = path.stat().st_size
    if size != archive.size and not partial:
        how = 'truncated' if size < archive.size else 'not the published file'
        raise UserError(
            f'{path} has {size:,} bytes, the published one {archive.size:,}: {how}; fetch it '
            'again (--partial prepares a part of ImageNet all the same)'
        )
    if checksum and not partial and (found := _sha256(path)) != archive.sha256:
        raise UserError(
            f'{path}: SHA-256 {found} is not the published {archive.sha256}: damaged on the way, '
            'fetch it again'
        )
    return path


def scan(split: str, path: pathlib.Path, noted: Sequence[str] = ()) -> Contents:
    """Reads all headers of the split's archive. Raises UserError for what does not belong there.

    Every header is checked, those of the archives within the archive too; no picture is read.
    """
    with files.open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        whole = tar.Member(path.name, 0, size)
        if split == 'train':
            return _scan_train(file, path, whole, frozenset(noted))
        return _scan_validation(file, path, whole)


def check_counts(split: str, images: int, classes: int, where: object) -> None:
    """Raises UserError unless this is the whole split."""
    archive = ARCHIVES[split]
    if (images, classes) != (archive.images, CLASSES):
        raise UserError(
            f'{where}: {images:,} images of {classes:,} classes, the {archive.what} has '
            f'{archive.images:,} of {CLASSES:,} (--partial prepares a part all the same)'
        )


def _scan_train(
    file: IO[bytes], path: pathlib.Path, whole: tar.Member, noted: frozenset[str]
) -> Contents:
    known = set(synsets.ilsvrc_2012())
    classes: Counter[str] = Counter()
    total = 0
    found: set[str] = set()
    with progress.Progress(f'checking {path.name}', CLASSES, 'classes') as report:
        for member in report.over(_members(file, whole, path)):
            name = member.name
            match = CLASS_ARCHIVE.fullmatch(name)
            if not match or match[1] not in known or match[1] in classes:
                raise UserError(
                    f'{path}: unexpected member {shown(name)}; the training set holds one '
                    f'nXXXXXXXX.tar for each of {CLASSES:,} classes'
                )
            wnid, where = match[1], f'{path}, {name}'
            image = re.compile(rf'{wnid}_\d+\.JPEG')
            seen: set[str] = set()
            for picture in _members(file, member, where):
                if not image.fullmatch(picture.name) or picture.name in seen:
                    raise UserError(f'{where}: unexpected member {shown(picture.name)}')
                seen.add(picture.name)
                total += picture.size
            if not seen:
                raise UserError(f'{where}: no picture inside')
            classes[wnid] = len(seen)
            found |= noted & seen
    return Contents(classes, total, frozenset(found))


def _scan_validation(file: IO[bytes], path: pathlib.Path, whole: tar.Member) -> Contents:
    # tfds labels the sorted names one after the other: one name too many or too few in the middle
    # would shift all labels behind it.
    numbers, total = [], 0
    for member in _members(file, whole, path):
        match = VALIDATION_IMAGE.fullmatch(member.name)
        if not match:
            raise UserError(
                f'{path}: unexpected member {shown(member.name)}; the validation set holds '
                'ILSVRC2012_val_XXXXXXXX.JPEG alone, in no folder'
            )
        numbers.append(int(match[1]))
        total += member.size
    if sorted(numbers) != list(range(1, len(numbers) + 1)) or len(numbers) > 50_000:
        gap = next((k for k, n in enumerate(sorted(numbers), 1) if k != n), len(numbers))
        raise UserError(
            f'{path}: ILSVRC2012_val_{gap:08d}.JPEG is missing or twice there; labels go by number'
        )
    labels = published_labels()
    return Contents(Counter(labels[n - 1] for n in numbers), total)


def published_labels() -> list[str]:
    """The WordNet ids of the 50,000 validation images in order of their numbers, from tfds."""
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
    return path.read_text().split()


def validation_labels(path: pathlib.Path | None) -> list[str]:
    """The labels of a file (a WordNet id or the devkit's number per line), or the published ones.

    The devkit numbers the classes in an order of its own. No table of it is needed: each number
    must stand for one class wherever it occurs, by the published labels. Raises UserError.
    """
    published = published_labels()
    if path is None:
        return published
    if not path.is_file():
        raise UserError(f'{path}: no such file of validation labels')
    lines = files.read_text(path, LARGEST_LABELS).split()
    if len(lines) != len(published):
        raise UserError(f'{path}: {len(lines):,} labels, there are {len(published):,} images')
    if set(lines) <= set(synsets.ilsvrc_2012()):
        return lines
    wnid_of: dict[str, tuple[str, int]] = {}
    number_of: dict[str, str] = {}
    for line, (number, wnid) in enumerate(zip(lines, published, strict=True), 1):
        if not number.isdecimal() or len(number) > 4 or not 1 <= int(number) <= CLASSES:
            raise UserError(
                f'{path}, line {line}: {shown(number)!r} is no WordNet id of ILSVRC-2012 and no '
                f'number from 1 to {CLASSES}'
            )
        other, first = wnid_of.setdefault(number, (wnid, line))
        if other != wnid or number_of.setdefault(wnid, number) != number:
            raise UserError(
                f'{path}, line {line}: class {number} cannot be {wnid} (see line {first}): these '
                "are not the devkit's labels of the validation set"
            )
    return published


def _first_name(path: pathlib.Path) -> str:
    with files.open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            first = next(tar.members(file, 0, size), None)
        except tar.Unwanted as error:
            raise UserError(f'{path}: {error}; nothing was written') from None
        except Refused as error:
            raise UserError(f'{path} is not a tar file ({error}): fetch it again') from None
    return first.name if first else ''


def _members(file: IO[bytes], archive: tar.Member, where: object) -> Iterator[tar.Member]:
    """The members of an archive, which may itself be a member of the file."""
    found = tar.members(file, archive.place, archive.place + archive.size)
    for number in itertools.count():
        try:
            member = next(found, None)
        except tar.Unwanted as error:
            raise UserError(f'{where}: {error}; nothing was written') from None
        except Refused as error:
            what = 'is truncated or damaged' if number else 'is not a tar file'
            raise UserError(f'{where} {what}: {error}') from None
        if member is None:
            return
        yield member


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    chunk = 1 << 24
    name = f'SHA-256 of {path.name}'
    with path.open('rb') as file, progress.Progress(
        name, -(-path.stat().st_size // chunk), '16 MiB blocks'
    ) as report:  # fmt: skip
        while data := file.read(chunk):
            digest.update(data)
            report.add()
    return digest.hexdigest()
