"""The boundary of the readers: names as messages show them, and whose fault an exception is."""

import errno
import os
import pathlib

import pytest

from cnn_arch import errors, files
from cnn_arch.errors import UserError, shown


def test_names_from_files_are_cut_and_escaped() -> None:
    assert shown('conv1.weight') == 'conv1.weight'
    assert shown('a\x1b[2J\nb\u202e') == r'a\x1b[2J\nb\u202e'
    assert shown('x' * 300) == 'x' * 200 + '... (300 characters)'
    assert shown(os.fsdecode(b'caf\xe9')) == r'caf\xe9'
    assert shown('\ud800') == r'\ud800'  # out of JSON: no name of a file


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(UserError('a/b\n.pth: \x07 not there')) == r'a/b\n.pth: \x07 not there'


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'bad'), 'codec'),
        (MemoryError(), 'more memory than there is'),
        (RecursionError('deep'), 'nested too deeply'),
        (EOFError(), 'EOFError'),
        (KeyError('a\nb'), r'a\\nb'),
        (ValueError('x' * 1000), r'\(1,000 characters\)'),
        (files.Refused('y' * 1000), 'y' * 1000),
    ],
)
def test_whatever_a_parser_raises_is_the_files_fault(error: Exception, reason: str) -> None:
    with (
        pytest.raises(UserError, match=rf'^p\.h5: not a complete file \(.*{reason}.*\)$') as raised,
        files.reading('p.h5', 'file'),
    ):
        raise error
    assert raised.value.__cause__ is error


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt), files.reading('p.h5', 'file'):
        raise KeyboardInterrupt


def test_a_file_that_grows_is_read_within_its_limit(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a').write_bytes(b'12345')
    assert files.read_regular(tmp_path / 'a', 5) == b'12345'
    with pytest.raises(UserError, match='more than the limit of 4 bytes'):
        files.read_regular(tmp_path / 'a', 4)
    with pytest.raises(UserError, match='a device, not a file'):
        files.read_regular(pathlib.Path('/dev/null'), 4)
    with pytest.raises(UserError, match='not readable'):
        files.read_regular(pathlib.Path('a\0b'), 4)


@pytest.mark.parametrize(
    ('number', 'remedy'),
    [
        (errno.ENOSPC, 'make room'),
        (errno.EDQUOT, 'make room'),
        (errno.EROFS, 'mount it for writing'),
        (errno.EACCES, 'get the right'),
        (errno.EPERM, 'get the right'),
        (errno.EIO, 'see to the disk'),
        (errno.ENOENT, None),
    ],
)
def test_what_a_disk_asks_for(number: int, remedy: str | None) -> None:
    """From Python, from TensorStore's text, and where it is the cause of another error."""
    direct, wrapped = OSError(number, 'x'), ValueError('y')
    wrapped.__cause__ = direct
    for error in (direct, ValueError(f"z [os_error_code='{number}']"), wrapped):
        found = errors.storage_problem(error)
        if remedy is None:
            assert found is None
        else:
            assert found is not None
            assert found[0] == os.strerror(number)
            assert found[1].startswith(remedy)
