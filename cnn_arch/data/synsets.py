"""The 1,000 classes of ILSVRC-2012 by WordNet id, in class order (sorted by id)."""

import functools
import pathlib


def read(path: pathlib.Path) -> list[str]:
    """The ids of a `synsets.txt`: the first word of each line, line k is class k."""
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


@functools.cache
def ilsvrc_2012() -> list[str]:
    """The ids of ILSVRC-2012's classes 0 to 999."""
    return read(pathlib.Path(__file__).with_name('ilsvrc_synsets.txt'))
