"""Where tests find the real pictures and weights that the project does not ship."""

import functools
import os
import pathlib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def shared_data(name: str = '') -> pathlib.Path:
    """The folder of real test data (or `name` inside it); skips the test where it is absent."""
    folder = pathlib.Path(os.environ.get('CNN_ARCH_TEST_DATA', ROOT.parent / 'shared' / 'data'))
    if not (folder / name).exists():
        pytest.skip(f'{folder / name} is absent: set CNN_ARCH_TEST_DATA to the folder of real data')
    return folder / name


@functools.cache
def transcription() -> dict[str, Any]:
    """papers.yaml, the papers' numbers as another person read them; skips where it is absent."""
    import yaml

    path = shared_data().parent / 'papers' / 'papers.yaml'
    if not path.exists():
        pytest.skip(f'{path} is absent')
    return yaml.safe_load(path.read_text())['papers']
