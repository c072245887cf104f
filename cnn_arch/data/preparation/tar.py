"""The members of a tar archive of plain files, read strictly.

Python's tarfile takes a damaged header for the archive's end, follows sizes below zero round in
circles and reads extended headers of any length. Here every header must hold its checksum, every
member lie within the archive, and the archive end as tar ends one: with blocks of zeros.

Read are POSIX (ustar, pax), GNU and old archives. Bounds: extended headers of 64 KiB, 2**22
members; memory is that of one header.
"""

import dataclasses
import posixpath
from collections.abc import Iterator
from typing import IO

from cnn_arch.errors import shown
from cnn_arch.files import Refused

BLOCK = 512  # bytes, what a tar archive is made of
LONGEST_HEADER = 1 << 16  # bytes of an extended header
LONGEST_END = 1 << 20  # bytes of zeros; tar fills up to 10,240, with other options to some more
MOST_MEMBERS = 1 << 22

PLAIN = (b'0', b'\0', b'7')
PAX, PAX_GLOBAL, GNU_NAME = b'x', b'g', b'L'


class Unwanted(Refused):
    """A member that does not belong into an archive of pictures."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A plain file: its name, without `.` and `..`, and where its bytes are."""

    name: str
    place: int
    size: int


def members(file: IO[bytes], start: int, end: int) -> Iterator[Member]:
    """The members of the archive that the file has between two places, in order.

    Raises Refused where it is damaged or cut off, and Unwanted for members that are no plain file
    or would leave their folder.
    """
    place, count = start, 0
    while True:
        header = _read(file, place, BLOCK, end)
        if header == bytes(BLOCK):
            break
        name, size, place = _member(file, header, place, end)
        count += 1
        if count > MOST_MEMBERS:
            raise Refused(f'more than {MOST_MEMBERS:,} members')
        yield Member(name, place, size)
        place += -(-size // BLOCK) * BLOCK
    _check_end(file, place, end)


def _member(file: IO[bytes], header: bytes, place: int, end: int) -> tuple[str, int, int]:
    """Name, size and place of the bytes of the member whose first header this is."""
    name, records = '', {}
    for _ in range(8):  # extended headers before one member; there are two at most
        _check_sum(header, place)
        kind, size = header[156:157], _number(header[124:136])
        place += BLOCK
        if kind not in (PAX, PAX_GLOBAL, GNU_NAME):
            break
        if size > LONGEST_HEADER:
            raise Refused(f'an extended header of {size:,} bytes')
        content = _read(file, place, size, end)
        if kind == GNU_NAME:
            name = content.rstrip(b'\0').decode('utf-8', 'surrogateescape')
        else:
            records.update(_records(content))
        if kind == PAX_GLOBAL and records:
            raise Refused('a header for all members gives them one name or size')
        place += -(-size // BLOCK) * BLOCK
        header = _read(file, place, BLOCK, end)
    else:
        raise Refused('extended headers without end')
    if not set(records) <= {'path', 'size'}:
        raise Refused(f'an extended header asks for {shown(", ".join(sorted(records)))}')
    name = records.get('path', name) or _name(header)
    if 'size' in records:
        if not (records['size'].isascii() and records['size'].isdecimal()):
            raise Refused(f'a member of size {shown(records["size"])}')
        size = int(records['size'][:20])
    normal = posixpath.normpath(name)
    if normal.startswith('/') or normal.split('/')[0] == '..':
        raise Unwanted(f'member {shown(name)!r} would leave its folder')
    if kind not in PLAIN or name.endswith('/'):
        raise Unwanted(f'member {shown(name)!r} is not a plain file')
    if size > end - place:
        raise Refused(f'it ends in the middle of {shown(normal)}: truncated, fetch it again')
    return normal, size, place


def _read(file: IO[bytes], place: int, size: int, end: int) -> bytes:
    if place + size > end:
        raise Refused('it has no end: truncated, fetch it again')
    file.seek(place)
    content = file.read(size)
    if len(content) < size:
        raise Refused('it has become shorter while it was read')
    return content


def _check_sum(header: bytes, place: int) -> None:
    """Of all bytes of the header, its own field counted as spaces; old tars added signed ones."""
    rest = header[:148] + b' ' * 8 + header[156:]
    unsigned = sum(rest)
    signed = unsigned - 256 * sum(byte > 127 for byte in rest)
    if _number(header[148:156]) not in (unsigned, signed):
        raise Refused(f'no header at byte {place:,}, or a damaged one: truncated, fetch it again')


def _number(field: bytes) -> int:
    """Octal digits, or after a first bit of one binary (GNU, for large files)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], 'big')
    digits = field.replace(b'\0', b' ').strip(b' ')
    if any(digit not in b'01234567' for digit in digits):
        raise Refused('a damaged header, with a number that is none: truncated, fetch it again')
    return int(digits or b'0', 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU has other fields where POSIX has the folder's name.
    prefix = _text(header[345:500]) if header[257:263] == b'ustar\0' else ''
    return f'{prefix}/{name}' if prefix else name


def _text(field: bytes) -> str:
    return field.split(b'\0')[0].decode('utf-8', 'surrogateescape')


# What archives of plain files say beside path and size, and what does not matter for reading them.
_IDLE = {'mtime', 'atime', 'ctime', 'uid', 'gid', 'uname', 'gname', 'comment', 'charset'}
_IDLE_OF = ('SCHILY.', 'LIBARCHIVE.', 'RHT.', 'APPLE.')


def _records(content: bytes) -> dict[str, str]:
    """Those of a pax header, `length key=value` and a line end each, without the idle ones."""
    records = {}
    place = 0
    while place < len(content):
        digits = content[place : place + 6].split(b' ')[0]
        if not digits.isdigit():
            raise Refused('a damaged extended header')
        stop = place + int(digits)
        key, equals, value = content[place + len(digits) + 1 : stop - 1].partition(b'=')
        if not equals or content[stop - 1 : stop] != b'\n':
            raise Refused('a damaged extended header')
        name = key.decode('utf-8', 'surrogateescape')
        if name not in _IDLE and not name.startswith(_IDLE_OF):
            records[name] = value.decode('utf-8', 'surrogateescape')
        place = stop
    return records


def _check_end(file: IO[bytes], place: int, end: int) -> None:
    """Only zeros follow: anything else would be left out without a word."""
    if end - place > LONGEST_END:
        raise Refused(f'{end - place:,} bytes follow its end')
    if _read(file, place, end - place, end).strip(b'\0'):
        raise Refused('something follows its end: two archives in one, or a damaged one')
