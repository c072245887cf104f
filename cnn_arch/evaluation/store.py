"""Posteriors of single images on disk: a killed evaluation goes on, an ensemble averages them.

One folder per network, protocol and data set:
posteriors.npy  float32 [images, classes], the rows of finished images
progress.npz    label and state of each image; written after the rows it speaks of
"""

import contextlib
import logging
import os
import pathlib
import time
import zipfile

import jax
import numpy as np

from cnn_arch import mesh as meshes

MISSING, COUNTED, SKIPPED = 0, 1, 2
SAVE_EVERY = 30.0  # seconds


class Store:
    """The posteriors of one evaluation; the first process writes, all know what is there."""

    def __init__(self, folder: pathlib.Path, images: int, classes: int):
        """Opens what was kept for that many images and classes, or begins anew.

        A folder that cannot be written is a warning: the evaluation then has to end in one go.
        """
        self._folder = folder
        self.states = np.zeros(images, np.int8)
        self.labels = np.zeros(images, np.int32)
        self._rows: np.ndarray | None = None  # of the first process
        if jax.process_index() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._rows = self._open((images, classes))
            except (OSError, ValueError) as error:  # a memory map of no images is a ValueError
                logging.warning('posteriors are not kept: %s: %s', folder, error)
                self._rows = np.zeros((images, classes), np.float32)
        # What one process has read, all must know: which images remain decides the batches.
        self.states = meshes.exchange(self.states)[0]
        self.labels = meshes.exchange(self.labels)[0]
        self._saved = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every image is finished."""
        return bool((self.states != MISSING).all())

    def _open(self, shape: tuple[int, int]) -> np.ndarray:
        path, progress = self._folder / 'posteriors.npy', self._folder / 'progress.npz'
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            rows = np.lib.format.open_memmap(path, mode='r+')
            with progress.open('rb') as file, np.load(file) as kept:
                states, labels = kept['states'], kept['labels']
            if rows.shape == shape and len(states) == len(labels) == shape[0]:
                self.states, self.labels = states.astype(np.int8), labels.astype(np.int32)
                return rows
        progress.unlink(missing_ok=True)
        return np.lib.format.open_memmap(path, mode='w+', dtype=np.float32, shape=shape)

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
        """One finished image; None for one that did not decode. Saves now and then."""
        self.labels[index] = label
        self.states[index] = SKIPPED if posteriors is None else COUNTED
        if self._rows is not None and posteriors is not None:
            self._rows[index] = posteriors
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes all that was added."""
        self._saved = time.monotonic()
        if not isinstance(self._rows, np.memmap):
            return
        self._rows.flush()
        scratch = self._folder / 'progress.tmp.npz'
        np.savez(scratch, states=self.states, labels=self.labels)
        os.replace(scratch, self._folder / 'progress.npz')


def best_of(posteriors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most probable classes and their probabilities; -1 and 0 where there are fewer."""
    best = np.argsort(-posteriors, kind='stable')[:count]
    missing = count - len(best)
    classes = np.concatenate([best, np.full(missing, -1)]).astype(np.int32)
    return classes, np.concatenate([posteriors[best], np.zeros(missing)]).astype(np.float32)
