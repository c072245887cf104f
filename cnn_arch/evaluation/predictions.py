"""The classes that a network gave to each image, as a CSV file."""

import csv
import os
import pathlib

import jax

from cnn_arch.data.sources import Source
from cnn_arch.errors import UserError
from cnn_arch.evaluation.result import TOP, Result

RANKS = range(1, TOP + 1)
HEADER = ('file', 'label', *(f'class{rank}' for rank in RANKS),
          *(f'probability{rank}' for rank in RANKS))  # fmt: skip


def check_writable(path: pathlib.Path | None) -> None:
    """Raises UserError where a long evaluation would end without a place for its file."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UserError(f'--predictions={path}: this file cannot be written')


def write(path: pathlib.Path, result: Result, source: Source) -> None:
    """One line per image in the source's order, all lines or no file; the first process writes.

    Classes and probabilities are blank beyond the network's classes and for an image that did not
    decode.
    """
    if jax.process_index() != 0:
        return
    scratch = path.with_name(f'{path.name}.tmp')
    with scratch.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for index, (classes, probabilities) in enumerate(
            zip(result.classes, result.probabilities, strict=True)
        ):
            writer.writerow(
                [source[index].key, result.labels[index]]
                + [name if name >= 0 else '' for name in classes]
                + [
                    f'{p:.6g}' if c >= 0 else ''
                    for c, p in zip(classes, probabilities, strict=True)
                ]
            )
    os.replace(scratch, path)
