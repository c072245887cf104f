"""What a source holds, down to the last byte: what is equal here gives equal answers.

Every image's name, label and content counts, in order; a sample would not do. Files are read whole
once: then a file's size, times, inode and device stand for its content, as in git's index, and so
50,000 pictures are known again in two seconds. What is remembered of the files below a folder
lies in the user's cache, `$XDG_CACHE_HOME/cnn_arch/hashes` (~/.cache without it), one file for each
folder, with a checksum of itself. It is used only where it is whole and nobody but this user can
write it.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cnn_arch.data.sources import ArraySource, FileSource, Source, TfdsSource
from cnn_arch.errors import UserError
from cnn_arch.files import user_cache

# What tells sources apart beside their images; None where a source has no such part.
PARTS = ('name', 'num_classes', 'complete', 'classes')

VERSION = 1  # of what the cache holds
# Within so long after a file's last change another one may leave its times as they are: FAT counts
# in two seconds, kernels in hundredths. A hash taken so early is not remembered.
GRANULARITY = 2_000_000_000  # nanoseconds
MANY = 5_000  # files that take long enough to say so
CHUNK = 64  # files that a thread reads in turn
PRIVATE = 0o700

Entry = list[Any]  # of a file: size, mtime and ctime in nanoseconds, inode, device, SHA-256
Known = dict[str, Entry]  # by its name below the folder


def identity(source: Source, contents: bool = True) -> dict[str, Any]:
    """What tells this source from any other, as JSON has it, the plainest first.

    PARTS, the number of `images`, and SHA-256 of their `names`, `labels` and (with `contents`)
    `contents`, each over all images in order. Without `contents` files are not opened; ArrayRecord
    has names and labels in its files, for which their names and sizes then stand. Raises UserError
    where a file cannot be read.
    """
    found: dict[str, Any] = {part: _plain(getattr(source, part, None)) for part in PARTS}
    found['images'] = len(source)
    if isinstance(source, FileSource):
        found |= _of_files(source, contents)
    elif isinstance(source, TfdsSource):
        found |= _of_shards(source, contents)
    elif isinstance(source, ArraySource):
        found |= _of_arrays(source, contents)
    else:
        found |= _of_examples(source)
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_files(source: FileSource, contents: bool) -> dict[str, str]:
    paths = [str(file) for file in source.files]
    start = len(_common(paths))
    found = {
        'names': digest_of(path[start:] for path in paths),
        'labels': digest_of(map(str, source.labels)),
    }
    return found | ({'contents': digest_of(hashes(source.files))} if contents else {})


def _of_shards(source: TfdsSource, contents: bool) -> dict[str, str]:
    """ArrayRecord: of each of its files the part that belongs to the split, and its content."""
    parts = [f'{os.path.basename(shard.filename)} {shard.skip} {shard.take}'
             for shard in source.shards]  # fmt: skip
    if any('://' in shard.filename for shard in source.shards):  # in a bucket
        return _of_examples(source) if contents else {'names': digest_of(parts)}
    files = [pathlib.Path(shard.filename) for shard in source.shards]
    sizes = [str(_stat(str(file)).st_size) for file in files]
    found = {'names': digest_of([*parts, *sizes]), 'labels': digest_of(hashes(source.described))}
    return found | ({'contents': digest_of(hashes(files))} if contents else {})


def _of_arrays(source: ArraySource, contents: bool) -> dict[str, str]:
    """The images lie in memory: their names are numbers."""
    images, labels = np.ascontiguousarray(source.images), np.asarray(source.labels)
    found = {'labels': digest_of(map(str, labels.tolist()))}
    if contents:
        shape = f'{images.dtype.str} {images.shape}'
        found['contents'] = digest_of([shape, hashlib.sha256(images.data).hexdigest()])
    return found


def _of_examples(source: Source) -> dict[str, str]:
    names, labels, contents = [], [], []
    for index in range(len(source)):
        example = source[index]
        image = example.image
        if isinstance(image, bytes):
            contents.append(hashlib.sha256(image).hexdigest())
        else:
            pixels = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
            contents.append(f'{image.dtype.str} {image.shape} {pixels}')
        names.append(example.key)
        labels.append(str(example.label))
    return {
        'names': digest_of(names),
        'labels': digest_of(labels),
        'contents': digest_of(contents),
    }


def digest_of(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts that tells where each ends."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def hashes(files: Sequence[pathlib.Path]) -> list[str]:
    """SHA-256 of each file's content, in hexadecimal.

    A file is read unless it is known to be as it was. Raises UserError where one cannot be read.
    """
    if not files:
        return []
    paths = [str(file) for file in files]
    root = _common(paths)
    names = [path[len(root) :] for path in paths]
    cache = _Cache(root)
    known = cache.read()
    result, unknown = [''] * len(paths), []
    for index, name in enumerate(names):
        entry = known.get(name)
        if entry and entry[:-1] == _facts(_stat(paths[index])):
            result[index] = entry[-1]
        else:
            unknown.append(index)
    if len(unknown) >= MANY:
        logging.info('%s: %s files are read once, to know them again', root, f'{len(unknown):,}')
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chunks = [unknown[start : start + CHUNK] for start in range(0, len(unknown), CHUNK)]
        read = pool.map(lambda chunk: [_hash(paths[index]) for index in chunk], chunks)
        for chunk, found in zip(chunks, read, strict=True):
            for index, (entry, lasts) in zip(chunk, found, strict=True):
                result[index] = entry[-1]
                if lasts:
                    known[names[index]] = entry
    if unknown:
        cache.write(known)
    return result


def _hash(path: str) -> tuple[Entry, bool]:
    """Of a file, and whether its facts will tell every later change."""
    began = time.time_ns()
    try:
        with open(path, 'rb', buffering=0) as file:
            before = _facts(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
            after = _facts(os.fstat(file.fileno()))
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from error
    return [*before, digest], before == after and began - max(before[1:3]) > GRANULARITY


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from error


def _facts(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _common(paths: Iterable[str]) -> str:
    """The folder that all files lie below, with a slash at its end."""
    return os.path.join(os.path.commonpath({path.rpartition(os.sep)[0] for path in paths}), '')


class _Cache:
    """What is remembered of the files below a folder; what goes wrong with it costs only time."""

    def __init__(self, root: str):
        self._folder = user_cache() / 'hashes'
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self._path = self._folder / f'{name}.v{VERSION}.json'

    def read(self) -> Known:
        """Nothing where it is absent, damaged, or open to others."""
        try:
            if not _is_private(os.lstat(self._folder), stat.S_ISDIR):
                return {}
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW), 'rb') as file:
                if not _is_private(os.fstat(file.fileno()), stat.S_ISREG):
                    return {}
                checksum, _, body = file.read().partition(b'\n')
            if hashlib.sha256(body).hexdigest().encode() != checksum:
                return {}
            return json.loads(body)
        except (OSError, ValueError):
            return {}

    def write(self, known: Known) -> None:
        """All of it or nothing; several processes may do so at once."""
        body = json.dumps(known, separators=(',', ':')).encode()
        with contextlib.suppress(OSError):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=PRIVATE, exist_ok=True)
            if not _is_private(os.lstat(self._folder), stat.S_ISDIR):
                logging.warning('%s can be written by others: it is not used', self._folder)
                return
            handle, scratch = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, 'wb') as file:
                    file.write(hashlib.sha256(body).hexdigest().encode() + b'\n' + body)
                os.replace(scratch, self._path)
            except BaseException:
                os.unlink(scratch)
                raise


def _is_private(found: os.stat_result, kind: Any) -> bool:
    """Whether it is of this kind, this user's, and nobody else can write it."""
    others = stat.S_IWGRP | stat.S_IWOTH
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & others
