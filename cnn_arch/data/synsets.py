"""The 1,000 classes of ILSVRC-2012 by WordNet id, in class order (sorted by id)."""

import functools
import pathlib

from cnn_arch.errors import UserError, shown

LARGEST = 2**24  # bytes; ImageNet's 21,841 synsets with all their words are 2 MB


def read(path: pathlib.Path) -> list[str]:
    """The ids of a `synsets.txt`: the first word of each line, line k is class k.

    Raises UserError for an id that stands there twice, and for what is no file of UTF-8 text of at
    most 16 MiB.
    """
    if not path.is_file():
        raise UserError(f'{path}: not a file')
    if path.stat().st_size > LARGEST:
        raise UserError(f'{path}: {path.stat().st_size:,} bytes are no list of classes')
    try:
        lines = path.read_text('utf-8-sig').split('\n')
    except UnicodeDecodeError as error:
        raise UserError(
            f'{path}: not UTF-8 text (byte {error.start:,}); save it as UTF-8'
        ) from None
    except OSError as error:
        raise UserError(f'{path}: not readable: {error.strerror}') from error
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            name = line.split(maxsplit=1)[0]
            if name in first:
                raise UserError(
                    f'{path}: {shown(name)} stands in line {number} and in line {first[name]}'
                )
            first[name] = number
    if not first:
        raise UserError(f'{path}: empty; it names the classes, one per line')
    return list(first)


@functools.cache
def ilsvrc_2012() -> list[str]:
    """The ids of ILSVRC-2012's classes 0 to 999."""
    return read(pathlib.Path(__file__).with_name('ilsvrc_synsets.txt'))
