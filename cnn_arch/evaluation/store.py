"""Posteriors of single images on disk: a killed evaluation goes on, an ensemble averages them.

One folder per answer, called by its key (keys.py):
posteriors.npy  float32 [images, classes], the rows of finished images
progress        of each image its state, label and the hash of its row, then the SHA-256 of all of
                these, of the folder's name and of the shape; written after the rows it speaks of

owner.json      the process that writes it, as long as it does

Nothing is believed that is not, byte for byte, what was written under that name: a row that differs
is measured again, and all rows where anything else does.
"""

import contextlib
import hashlib
import io
import logging
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cnn_arch import mesh as meshes
from cnn_arch import owner
from cnn_arch.data import fingerprint
from cnn_arch.data.sources import Source
from cnn_arch.errors import UserError

ROWS, PROGRESS = 'posteriors.npy', 'progress'
MISSING, COUNTED, SKIPPED = 0, 1, 2
SAVE_EVERY = 30.0  # seconds
FLOAT = np.dtype('<f4')
NOTE = np.dtype([('state', 'i1'), ('label', '<i4'), ('row', '<u8')])  # of an image, in `progress`


class Store:
    """The posteriors of one evaluation; the first process writes, all know what is there."""

    def __init__(self, folder: pathlib.Path, images: int, classes: int):
        """Opens what was kept for that many images and classes, or begins anew.

        What is damaged is a warning and begun anew, once something is written. Images that did not
        decode are tried again. A folder that cannot be written is a warning: the evaluation then
        has to end in one go.
        """
        self._folder = folder
        self._read = b''  # of `progress`, what the notes were taken from
        self._keeps, self._owned = True, False
        self._shape = (images, classes)
        self._notes = np.zeros(images, NOTE)
        self._rows: np.ndarray | None = None  # of the first process
        if jax.process_index() == 0:
            self._rows = np.zeros((images, classes), np.float32)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._rows = self._open()
            except (OSError, ValueError) as error:  # a memory map of no images is a ValueError
                logging.warning('posteriors are not kept: %s: %s', folder, error)
                self._keeps = False
        # What one process has read, all must know: which images remain decides the batches.
        self.states = meshes.exchange(self._notes['state'].copy())[0]
        self.labels = meshes.exchange(self._notes['label'].astype(np.int32))[0]
        self._saved = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every image is finished."""
        return bool((self.states != MISSING).all())

    def _open(self) -> np.ndarray:
        path, header = self._folder / ROWS, _header(self._shape)
        size = len(header) + FLOAT.itemsize * self._shape[0] * self._shape[1]
        kept = (self._folder / PROGRESS).exists()
        problem = _problem(path, header, size) or (self._read_progress() if kept else 'new')
        if problem:
            if kept:
                logging.warning('%s: %s: all is measured again', self._folder, problem)
            return np.zeros(self._shape, FLOAT)
        rows = np.memmap(path, FLOAT, 'r', len(header), self._shape)
        counted = np.flatnonzero(self._notes['state'] == COUNTED)
        damaged = [i for i in counted.tolist() if _hash(i, rows[i]) != self._notes['row'][i]]
        if damaged:
            self._notes[damaged] = 0
            logging.warning('%s: %d of %d rows of %s are not what was written: measured again',
                            self._folder, len(damaged), len(counted), ROWS)  # fmt: skip
        return rows

    def _read_progress(self) -> str:
        """What is wrong with it; '' where its notes are taken over."""
        try:
            data = self._read = (self._folder / PROGRESS).read_bytes()
        except OSError as error:
            return f'{PROGRESS} cannot be read ({error.strerror})'
        body = data[: self._notes.nbytes]
        if data != body + self._checksum(body):
            return f'{PROGRESS} is not what was written'
        self._notes = np.frombuffer(body, NOTE).copy()
        return ''

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within it what is added is kept. One evaluation at a time may write an answer.

        Where another one does, or the folder cannot be written, that is a warning, and what is
        added stays in memory.
        """
        with contextlib.ExitStack() as stack:
            if jax.process_index() == 0 and self._keeps:
                try:
                    stack.enter_context(owner.Owner(self._folder))
                    self._rows = self._begin()
                    self._owned = True
                except (OSError, ValueError, owner.InUse) as error:
                    logging.warning('posteriors are not kept: %s: %s', self._folder, error)
                    self._rows = np.array(self._rows)
            try:
                yield
            finally:
                self.save()
                self._owned = False

    def _begin(self) -> np.ndarray:
        """The rows as a file that can be written: that which was read, or a new one in its place.

        A new file, never an emptied one: who has read the old one keeps its rows.
        """
        path, progress = self._folder / ROWS, self._folder / PROGRESS
        now = progress.read_bytes() if progress.exists() else b''
        header = _header(self._shape)
        if isinstance(self._rows, np.memmap):
            if now != self._read:
                raise owner.InUse('another evaluation has written there meanwhile')
        else:
            progress.unlink(missing_ok=True)
            scratch = self._folder / f'{ROWS}.tmp'
            with scratch.open('wb') as file:
                file.write(header)
                file.truncate(len(header) + FLOAT.itemsize * self._shape[0] * self._shape[1])
            os.replace(scratch, path)
        return np.memmap(path, FLOAT, 'r+', len(header), self._shape)

    def _checksum(self, body: bytes) -> bytes:
        what = f'{self._folder.name} {self._shape} {FLOAT.str}\n'.encode()
        return hashlib.sha256(what + body).digest()

    @property
    def posteriors(self) -> np.ndarray:
        """float32 [images, classes]; only the first process has them."""
        assert self._rows is not None
        return self._rows

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities [images, count] of what is finished, on every process."""
        classes = np.full((len(self.states), count), -1, np.int32)
        probabilities = np.zeros((len(self.states), count), np.float32)
        if self._rows is not None:
            for index in np.flatnonzero(self.states == COUNTED):
                classes[index], probabilities[index] = best_of(self._rows[index], count)
        return meshes.exchange(classes)[0], meshes.exchange(probabilities)[0]

    def add(self, index: int, label: int, posteriors: np.ndarray | None) -> None:
        """One finished image, in `writing`; None: it did not decode. Saves now and then."""
        self.labels[index] = label
        self.states[index] = SKIPPED if posteriors is None else COUNTED
        if self._rows is not None and posteriors is not None:
            self._rows[index] = posteriors
            self._notes[index] = COUNTED, label, _hash(index, self._rows[index])
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes all that was added."""
        self._saved = time.monotonic()
        if not self._owned or not isinstance(self._rows, np.memmap):
            return
        self._rows.flush()
        body = self._notes.tobytes()
        scratch = self._folder / f'{PROGRESS}.tmp'
        scratch.write_bytes(body + self._checksum(body))
        os.replace(scratch, self._folder / PROGRESS)

    def discard(self) -> None:
        """Forgets all that is kept; what was added stays in memory, and is not saved any more."""
        if isinstance(self._rows, np.memmap):
            (self._folder / PROGRESS).unlink(missing_ok=True)
            self._rows = np.array(self._rows)


def check_unchanged(source: Source, data: dict[str, Any], store: Store) -> None:
    """Makes sure that what was evaluated is what the store is called after: `data`, its identity.

    Raises UserError on every process, and nothing is kept, where pictures were changed meanwhile.
    """
    try:
        changed = fingerprint.identity(source) != data
    except UserError:
        changed = True
    if meshes.exchange(np.asarray([changed])).any():
        store.discard()
        raise UserError(
            f'{source.name}: pictures were changed while they were evaluated: run again'
        )


def _header(shape: tuple[int, int]) -> bytes:
    """Of a file of NumPy's format."""
    file = io.BytesIO()
    facts = {'descr': FLOAT.str, 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def _problem(path: pathlib.Path, header: bytes, size: int) -> str:
    """Why a file cannot hold the rows, or ''."""
    try:
        with path.open('rb') as file:
            if file.read(len(header)) != header:
                return f'{ROWS} has not the dtype and shape of this evaluation'
            if os.fstat(file.fileno()).st_size != size:
                return f'{ROWS} is not complete'
    except OSError as error:
        return f'{ROWS}: {error.strerror}'
    return ''


def _hash(index: int, row: np.ndarray) -> int:
    """Of one image's row in its place."""
    place = int(index).to_bytes(8, 'little')
    return int.from_bytes(
        hashlib.blake2b(row.tobytes(), digest_size=8, key=place).digest(), 'little'
    )


def best_of(posteriors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most probable classes and their probabilities; -1 and 0 where there are fewer."""
    best = np.argsort(-posteriors, kind='stable')[:count]
    missing = count - len(best)
    classes = np.concatenate([best, np.full(missing, -1)]).astype(np.int32)
    return classes, np.concatenate([posteriors[best], np.zeros(missing)]).astype(np.float32)
