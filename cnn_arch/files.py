"""Files of other people: opened only if they are files, and what a parser raises is one line."""

import contextlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import BinaryIO, TypeVar

from cnn_arch.errors import UserError, shown

Kind = TypeVar('Kind')


class Refused(Exception):
    """What a reader of ours finds wrong with a file; its text becomes part of the one line."""


def user_cache() -> pathlib.Path:
    """Where this user's programs keep what can be made again, of this project."""
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(home) / 'cnn_arch'


def open_regular(path: pathlib.Path) -> BinaryIO:
    """The file, opened to be read.

    Raises UserError where there is none, where it may not be read, and for pipes, devices, sockets
    and folders, which are not opened: a pipe would wait for its writer, a device never end.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f'{path}: {_kind(path)}, not a file')
        # Should it become a pipe in between, it must not wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = os.fdopen(descriptor, 'rb')
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise UserError(f'{path}: {_kind(path)}, not a file')
    except FileNotFoundError:
        link = ': a link to a file that is not there' if path.is_symlink() else ': no such file'
        raise UserError(f'{path}{link}') from None
    except (OSError, ValueError) as error:  # a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f'{path}: not readable ({reason})') from None
    return file


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, which is not opened. Raises UserError where `open_regular` would."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        open_regular(path).close()
        raise
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f'{path}: {_kind(path)}, not a file')
    return status.st_size


def read_text(path: pathlib.Path, limit: int) -> str:
    """A text of at most `limit` bytes in UTF-8, with or without its mark. Raises UserError."""
    try:
        return read_regular(path, limit).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 at byte {error.start:,}: store it so') from None


def read_json(path: pathlib.Path, kind: type[Kind], limit: int) -> Kind:
    """A value of a type from a JSON file of at most `limit` bytes. Raises UserError."""
    text = read_text(path, limit)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not valid JSON ({reason(error)})') from error
    if not isinstance(value, kind):
        name = 'object' if issubclass(kind, dict) else 'array'
        raise UserError(f'{path}: expected an {name} of JSON')
    return value


def read_regular(path: pathlib.Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises UserError as `open_regular` does."""
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(limit + 1) if size <= limit else b''
        except OSError as error:
            raise UserError(f'{path}: not readable ({error.strerror})') from None
    if size > limit or len(content) > limit:
        raise UserError(f'{path}: more than the limit of {limit:,} bytes')
    return content


def _kind(path: pathlib.Path) -> str:
    kinds = ((path.is_dir, 'a folder'), (path.is_fifo, 'a pipe'), (path.is_socket, 'a socket'))
    return next((name for test, name in kinds if test()), 'a device')


@contextlib.contextmanager
def reading(path: object, what: str) -> Iterator[None]:
    """The boundary of a reader: whatever is raised within is the file's fault, and one line.

    So it holds what parses a file of `what` and nothing else: a defect of ours beyond it keeps its
    traceback. The parser's own exception stays the cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # parsers raise what they like over a damaged file
        raise UserError(f'{path}: not a complete {what} ({reason(error)})') from error


def reason(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, MemoryError):
        return 'it asks for more memory than there is'
    if isinstance(error, RecursionError):
        return 'it is nested too deeply'
    text = str(error).strip()
    return shown(text) if text else type(error).__name__
