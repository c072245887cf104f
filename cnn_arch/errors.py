"""How a command can end, and its exit codes."""

import errno
import os
import re

USER_ERROR = 2  # the user's mistake: one line on stderr, nothing half-written
DIVERGED = 3  # the loss was not finite and train.on_nonfinite is 'stop'
NOT_READY = 4  # the processes of a run are not all there, or do not agree; nothing has begun
NOT_WRITTEN = 74  # disk full, broken, read-only or gone (EX_IOERR); earlier checkpoints are kept
PREEMPTED = 75  # stopped by a signal after a complete save (EX_TEMPFAIL: run me again)


LONGEST_NAME = 200  # characters of a name from a file that a message shows


def shown(name: object) -> str:
    """A name out of somebody's file as a message may show it: cut to 200 characters, `escaped`."""
    text = name if isinstance(name, str) else str(name)
    cut = escaped(text[:LONGEST_NAME])
    return cut if len(text) <= LONGEST_NAME else f'{cut}... ({len(text):,} characters)'


def escaped(text: str) -> str:
    r"""A text in which what does not print (line ends, escapes, marks of direction) is escaped.

    Bytes of a file's name that are no UTF-8 (Python's surrogates) appear as `\xe9`.
    """
    return text if text.isprintable() else ''.join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if '\udc80' <= character <= '\udcff':
        return f'\\x{ord(character) - 0xDC00:02x}'
    return character.encode('unicode_escape').decode()


class UserError(Exception):
    """A mistake of the user; its text is one line: what is wrong, where, and what to do.

    It stays one line whatever a file's name or a parser's message brings along.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class Diverged(Exception):
    """A run whose loss or gradient was not finite; its text is one line."""


class NotReady(Exception):
    """A run whose processes cannot begin together; its text is one line per reason."""


class Stopped(Exception):
    """A signal has asked the run to end; raised where all processes are at the same place."""


class StorageError(Exception):
    """The workdir cannot be written, or is this run's no more; its text is one line."""


CODES: dict[type[Exception], int] = {
    UserError: USER_ERROR,
    Diverged: DIVERGED,
    NotReady: NOT_READY,
    StorageError: NOT_WRITTEN,
}

# Of the place that is written to, no mistake of this program, and what is to be done about it.
_ROOM, _RIGHTS, _DISK = 'make room', 'get the right to write there', 'see to the disk'
_STORAGE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: 'raise the limit of file sizes (ulimit -f)',
    errno.EROFS: 'mount it for writing, or choose a folder elsewhere',
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: _DISK,
    errno.ENXIO: _DISK,
    errno.ESTALE: 'mount it again',
    errno.ENOTCONN: 'mount it again',
}


def storage_problem(error: BaseException) -> tuple[str, str] | None:
    """('No space left on device', 'make room') and the like if that is the error, or its cause.

    TensorStore reports its own as text with the number, as in `[os_error_code='28']`.
    """
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return os.strerror(error.errno), _STORAGE[error.errno]
    found = re.search(r"os_error_code='(\d+)'", str(error))
    if found and int(found[1]) in _STORAGE:
        return os.strerror(int(found[1])), _STORAGE[int(found[1])]
    return storage_problem(error.__cause__) if error.__cause__ else None
