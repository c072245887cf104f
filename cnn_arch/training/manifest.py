"""What makes a checkpoint complete and whole: the names, sizes and SHA-256 of all its files.

`manifest.json` is written last, in one piece, when every other file is on disk. A folder without it
was not finished; one whose files differ from it is damaged. Both are told without loading anything.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib

from cnn_arch.errors import shown

NAME = 'manifest.json'
THREADS = 4  # hashing releases the interpreter; more than one disk can be read at once


def write(folder: pathlib.Path) -> None:
    """Writes the manifest of all files that lie in a folder."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(_sha256, files))
    entries = {
        path.relative_to(folder).as_posix(): {'bytes': path.stat().st_size, 'sha256': digest}
        for path, digest in zip(files, digests, strict=True)
    }
    scratch = folder / f'{NAME}.tmp'
    with scratch.open('w') as file:
        json.dump(entries, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / NAME)


def problem(folder: pathlib.Path) -> str:
    """What is wrong with a folder, naming the file; '' if it is whole."""
    try:
        entries = _read(folder)
    except FileNotFoundError:
        return f'{NAME} is missing'
    except (OSError, ValueError, RecursionError) as error:
        return f'{NAME} cannot be read ({error})'
    for name, entry in entries.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f'{name} is missing'
        if size != entry['bytes']:
            return f'{name} has {size:,} bytes instead of {entry["bytes"]:,}'

    def differs(name: str) -> bool:
        try:
            return _sha256(folder / name) != entries[name]['sha256']
        except OSError:  # gone meanwhile, or not readable
            return True

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for name, different in zip(entries, pool.map(differs, entries), strict=True):
            if different:
                return f'{name} is not what was written (SHA-256)'
    return ''


def digest(folder: pathlib.Path, item: str) -> str:
    """SHA-256 of the contents of a subfolder, by the manifest."""
    entries = {name: entry for name, entry in _read(folder).items() if name.startswith(f'{item}/')}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _read(folder: pathlib.Path) -> dict[str, dict]:
    """Raises ValueError where it is not the JSON of a manifest."""
    entries = json.loads((folder / NAME).read_text())
    if not isinstance(entries, dict) or not entries:
        raise ValueError('it lists no files')
    for name, entry in entries.items():
        if pathlib.PurePosixPath(name).is_absolute() or '..' in name.split('/') or '\0' in name:
            raise ValueError(f'{shown(name)} is no file of the folder')
        typed = isinstance(entry, dict) and isinstance(entry.get('sha256'), str)
        if not typed or not isinstance(entry.get('bytes'), int):
            raise ValueError(f'no size and SHA-256 of {shown(name)}')
    return entries


def _sha256(path: pathlib.Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
