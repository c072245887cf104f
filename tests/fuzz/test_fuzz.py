"""The fuzzers' short form: 10,000 cases, a fixed seed; `make fuzz` goes on from there."""

import pathlib

import pytest

from cnn_arch.weights import torch_pickle
from tests.fuzz import fuzz, mutation
from tests.fuzz.readers import READERS

# The time of a case differs: HDF5's has a process of its own, pictures are decoded twice.
CASES = {
    'torch_zip': 1800, 'torch_stream': 1800, 'safetensors': 1400, 'caffe': 1800, 'hdf5': 200,
    'jpeg': 400, 'png': 400, 'other_pictures': 300, 'idx': 600, 'gzip': 600, 'tar': 700,
}  # fmt: skip


def test_ten_thousand_cases() -> None:
    assert CASES.keys() == READERS.keys()
    assert sum(CASES.values()) == 10_000


@pytest.mark.parametrize('name', READERS)
def test_reader(name: str, tmp_path: pathlib.Path) -> None:
    report = fuzz.fuzz(name, CASES[name], 0, tmp_path)
    assert report['findings'] == [], fuzz.line(name, report)
    assert report['cases'] == CASES[name]
    assert report['peak'] < fuzz.MEMORY
    # Damage that is never read beyond a header finds nothing.
    assert report['read'] > CASES[name] // 20
    assert report['refused'] > CASES[name] // 20


def test_the_repairs_let_damage_through() -> None:
    """A storage with a changed number and its checksum made right is read, as it must be."""
    import io

    import numpy as np

    from tests import samples

    whole = samples.torch_file({'w': np.full(8, 1.5, np.float32)})
    damaged = whole.replace(b'\0\0\xc0\x3f', b'\0\0\x40\x3f', 1)
    repaired = mutation.repair_zip(damaged)
    with torch_pickle.open_zip(io.BytesIO(damaged)) as archive:
        assert archive.testzip() == 'archive/data/0'
    with torch_pickle.open_zip(io.BytesIO(repaired)) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize('fault', ['KeyError', 'hang', 'crash', 'memory'])
def test_the_fuzzer_finds(fault: str, tmp_path: pathlib.Path, monkeypatch) -> None:
    """A reader with each kind of fault, planted, is found out."""
    monkeypatch.setenv('CNN_ARCH_FUZZ_FAULT', fault)
    report = fuzz.fuzz('planted', 3, 0, tmp_path)
    said = fuzz.line('planted', report)
    assert len(report['findings']) == 3, said
    expected = {'KeyError': 'KeyError', 'hang': 'SIGALRM', 'crash': 'SIGSEGV', 'memory': 'Memory'}
    assert expected[fault] in said
    assert len(list(tmp_path.iterdir())) == 3
