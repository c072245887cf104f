"""Where tests find the real pictures and weights that the project does not ship."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def shared_data(name: str = '') -> pathlib.Path:
    """The folder of real test data (or `name` inside it); skips the test where it is absent."""
    folder = pathlib.Path(os.environ.get('CNN_ARCH_TEST_DATA', ROOT.parent / 'shared' / 'data'))
    if not (folder / name).exists():
        pytest.skip(f'{folder / name} is absent: set CNN_ARCH_TEST_DATA to the folder of real data')
    return folder / name
