"""One owner of a folder at a time; a file in it says which process, on which host, since when.

`owner.json` is created exclusively, which NFS (from version 3 on) promises as local disks do; locks
of flock or fcntl would end with a mount's options. Its owner touches it every BEAT seconds and
removes it at the end. Who was killed leaves it behind, and the next one takes over:

- at once where both are on one host, in one boot and namespace of processes: there the process's
  number and starting time say whether it lives;
- else after SILENCE seconds of watching, in which nobody has touched the file. Only times that the
  file system gave to one file are compared, and only for being equal: clocks may differ.

Who takes over removes the file of the dead one. Only one process may do so: that which has created
`owner.json.after-<token of the dead one>`, in just the same way.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
import types

from cnn_arch.errors import StorageError, shown

FILE = 'owner.json'
BEAT = 10.0  # seconds between signs of life
SILENCE = 60.0  # seconds without one after which an owner elsewhere is dead
POLL = 1.0  # seconds between looks at a file that is watched
CHECK_EVERY = 1.0  # seconds in which `check` looks once
LIMIT = 4096  # bytes of the file that are read


class InUse(Exception):
    """A folder whose owner lives; its text names the owner: 'in use: process 7 on ...'."""


@dataclasses.dataclass(frozen=True)
class _Holder:
    """What a file says of its owner; of one that was not written whole only `token` is known."""

    token: str
    touched: int  # by the file system's clock
    host: str = ''
    process: int = 0
    started: str = ''  # clock ticks after the boot
    place: str = ''  # where numbers of processes mean the same
    since: str = ''

    def __str__(self) -> str:
        if not self.host:
            return 'in use by a process that has not yet said which'
        return (
            f'in use: process {self.process} on {shown(self.host)} has it since {shown(self.since)}'
        )


class Owner:
    """Owns a folder from `with` on to its end; creates it, and removes it again if it stays empty.

    Entering raises InUse where another process owns it, and OSError where it cannot be written.
    Leaving by an error of any kind raises StorageError where the folder was taken away meanwhile.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._file = folder, folder / FILE
        self._content = _content(secrets.token_hex(8))
        self._ended = threading.Event()
        self._looked = time.monotonic()
        self._made: list[pathlib.Path] = []  # folders that were not there

    def __enter__(self) -> 'Owner':
        parents = [self._folder, *self._folder.absolute().parents]
        self._made = [path for path in parents if not path.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _acquire(self._file, self._content)
        except BaseException:
            self._remove_empty()
            raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._ended.set()
        lost = self._lost()
        if not lost:
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._remove_empty()
        elif isinstance(error, Exception) and not isinstance(error, StorageError):
            raise StorageError(lost) from error

    def check(self) -> None:
        """Raises StorageError where the folder is gone or has another owner; looks now and then."""
        if time.monotonic() - self._looked < CHECK_EVERY:
            return
        self._looked = time.monotonic()
        lost = self._lost()
        if lost:
            raise StorageError(lost)

    def _lost(self) -> str:
        """Why this process owns the folder no more; '' while it does, or may."""
        try:
            content = self._file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            what = self._file if self._folder.is_dir() else self._folder
            return (
                f'{what} was removed while this run wrote to {self._folder}: it ends here; the '
                'same command goes on from what is left there'
            )
        except OSError:
            return ''  # a network that does not answer takes nothing away
        if content == self._content:
            return ''
        holder = _read(self._file)
        return (
            f'{self._folder} was taken over while this run stood still for over {SILENCE:.0f} s; '
            f'it is now {holder or "free"}'
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            if not self._lost():
                with contextlib.suppress(OSError):
                    os.utime(self._file)  # by the clock of the file system

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()


def is_free(folder: pathlib.Path) -> bool:
    """Whether the last owner of a folder is known to be dead, without waiting.

    One elsewhere is not known to be; who owned it properly to the end left no file: False.
    """
    holder = _read(folder / FILE)
    return holder is not None and holder.place == _place() and not _runs(holder)


def _acquire(path: pathlib.Path, content: bytes) -> None:
    """Creates `path`, once none of its owners lives. Raises InUse where one does."""
    while not _create(path, content):
        holder = _read(path)
        if holder is None:
            continue
        if _lives(path, holder):
            raise InUse(str(holder))
        guard = path.with_name(f'{path.name}.after-{holder.token}')
        try:
            _acquire(guard, content)
        except InUse:  # another one takes over, which does not take long
            time.sleep(0.05)
            continue
        try:
            now = _read(path)
            if now is not None and now.token == holder.token:
                path.unlink()
        finally:
            guard.unlink(missing_ok=True)


def _create(path: pathlib.Path, content: bytes) -> bool:
    """Whether it was not there, and now is this process's."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _read(path: pathlib.Path) -> _Holder | None:
    """What the file says; None where there is none. Opened anew, so that NFS asks its server."""
    try:
        with path.open('rb') as file:
            status, content = os.fstat(file.fileno()), file.read(LIMIT)
    except FileNotFoundError:
        return None
    unknown = _Holder(f'{status.st_ino:x}', status.st_mtime_ns)
    try:
        said = json.loads(content)
        holder = dataclasses.replace(unknown, **said)
    except (ValueError, TypeError, RecursionError):
        return unknown
    known = all(
        isinstance(getattr(holder, field.name), field.type)  # type: ignore[arg-type]
        for field in dataclasses.fields(_Holder)
    )
    return holder if known and holder.token.isalnum() else unknown


def _content(token: str) -> bytes:
    own = {
        'host': socket.gethostname(),
        'process': os.getpid(),
        'since': time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime()),
        'started': _started(os.getpid()),
        'place': _place(),
        'token': token,
    }
    return json.dumps(own, indent=1).encode() + b'\n'


def _lives(path: pathlib.Path, holder: _Holder) -> bool:
    """Whether an owner does; may take SILENCE seconds for one elsewhere."""
    if holder.place == _place():
        return _runs(holder)
    deadline, told = time.monotonic() + SILENCE, False
    while time.monotonic() < deadline:
        time.sleep(POLL)
        now = _read(path)
        if now is None or now.token != holder.token:
            return False  # that one has left; who came is looked at next
        if now.touched != holder.touched:
            return True
        if not told:
            logging.warning('%s: %s; waits up to %.0f s for a sign of life',
                            path.parent, holder, SILENCE)  # fmt: skip
            told = True
    return False


def _runs(holder: _Holder) -> bool:
    """Whether the process of an owner on this host does."""
    started = _started(holder.process)
    if started is None:
        return False
    return not started or not holder.started or started == holder.started


def _started(process: int) -> str | None:
    """When a process of this host started, '' if that is not to be known; None once it has ended.

    One that has ended may wait for its parent to take note (a zombie).
    """
    try:
        text = pathlib.Path(f'/proc/{process}/stat').read_text(errors='replace')
        state, *rest = text[text.rindex(')') + 1 :].split()
        return None if state in 'ZX' else rest[18]
    except (OSError, ValueError, IndexError):  # another system, or others' processes are hidden
        pass
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return ''


def _place() -> str:
    """This host in this boot, and the namespace that counts its processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        parts += [boot, os.readlink('/proc/self/ns/pid')]
    return ' '.join(parts)
