"""Weight files of strangers: no number that is not the file's, and what people have is read.

What is refused stands in the table of tests/bad_inputs/.
"""

import collections
import pathlib
import sys
from typing import Any

import numpy as np
import pytest

from cnn_arch import configuration
from cnn_arch.errors import UserError
from cnn_arch.weights import importer, keras_h5, torch_pickle
from tests import oracles, samples
from tests.shared import shared_data
from tests.weights import common

# ---- nothing beyond the file


def test_a_storage_is_as_long_as_its_bytes(tmp_path: pathlib.Path) -> None:
    """The file changes between its names being read and its numbers."""
    path = tmp_path / 'weights.pth'
    for make in (
        lambda count: samples.torch_file({'w': np.ones(count, np.float32)}),
        lambda count: samples.torch_stream(
            samples.state({'w': np.ones(count, np.float32)}, True), [bytes(4 * count)]
        ),
    ):
        path.write_bytes(make(4096))
        tensor = torch_pickle.read(path).tensors['w']
        path.write_bytes(make(1))
        with pytest.raises(UserError, match=r'not a complete .* (larger than|is cut off)'):
            tensor.read()


def test_views_are_held_against_the_numbers_that_are_there() -> None:
    """Whatever the view, as NumPy would index the storage, or refused; by brute force."""
    numbers = np.arange(12, dtype=np.float32)
    rng = np.random.default_rng(0)
    read = refused = 0
    for _ in range(3000):
        rank = int(rng.integers(0, 4))
        shape = tuple(map(int, rng.integers(0, 5, rank)))
        strides = tuple(map(int, rng.integers(0, 7, rank)))
        offset = int(rng.integers(0, 14))
        places = offset + sum(
            (index * stride for index, stride in zip(np.indices(shape), strides, strict=True)),
            np.zeros(shape, int),
        )
        within = places.size == 0 or places.max() < 12
        view = torch_pickle.View(
            torch_pickle.Storage('0', numbers.dtype, 12), offset, shape, strides
        )
        try:
            found = torch_pickle._laid_over(numbers, view)
        except torch_pickle.Refused:
            assert not within or places.size > 12
            refused += 1
            continue
        assert within
        np.testing.assert_array_equal(found, numbers[places])
        read += 1
    assert read > 500
    assert refused > 500


def test_a_changed_number_is_noticed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'weights.pth'
    whole = samples.torch_file({'w': np.full(8, 1.5, np.float32)})
    path.write_bytes(whole.replace(b'\0\0\xc0\x3f', b'\0\0\x40\x3f', 1))
    with pytest.raises(UserError, match=r'weights\.pth: .*Bad CRC-32'):
        torch_pickle.read(path).tensors['w'].read()


@pytest.mark.parametrize(
    ('program', 'words'),
    [
        ('while True: pass', 'fails on it: no end after 1 s'),
        ('import os; os.abort()', 'fails on it: SIGABRT'),
        ('import os; os.write(1, b"x" * 99)', 'its names are cut off'),
        (
            'import os, struct; text = b\'{"arrays": [["a", "kernel", "<f4", [99]]]}\'; '
            'os.write(1, struct.pack("<q", len(text)) + text)',
            'an array was not read to its end',
        ),
        (
            'import os, struct; text = b\'{"arrays": [["a", "kernel", "O", [1]]]}\'; '
            'os.write(1, struct.pack("<q", len(text)) + text)',
            'an array of another kind',
        ),
        ('raise SystemExit', 'or h5py does not run'),
    ],
)
def test_the_hdf5_library_may_fail(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    """It hangs, dies, or answers what it should not; the process ends with its limit."""
    child = tmp_path / 'child.py'
    limit = 'import resource, sys\nlimit = int(sys.argv[2])\n'
    limit += 'resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))\n'
    limit += 'resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n'
    child.write_text(limit + program)
    monkeypatch.setattr(keras_h5, 'CHILD', child)
    monkeypatch.setattr(keras_h5, 'COMPUTING', 1)
    path = tmp_path / 'weights.h5'
    path.write_bytes(samples.keras_file())
    with pytest.raises(UserError, match=words) as error:
        keras_h5.read(path)
    assert str(path) in str(error.value)


def test_the_process_of_hdf5_has_its_limits(tmp_path: pathlib.Path) -> None:
    import subprocess

    program = (
        'import resource, sys; sys.argv = ["", sys.argv[1], "7"]; from cnn_arch.weights import '
        'h5_child; h5_child.convert = lambda *_: print([resource.getrlimit(kind)[0] for kind in '
        '(resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_CORE)]); '
        'h5_child.main(sys.argv[1], 7)'
    )
    path = tmp_path / 'file'
    path.write_bytes(bytes(1000))
    words = [sys.executable, '-c', program, str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([7, (1 << 30) + 4000, 0])


# ---- numbers that are no weights


@pytest.fixture(scope='module')
def network() -> dict[str, Any]:
    """torchvision's ResNet of one block per stage."""
    models = oracles.torchvision().models.resnet
    module = models.ResNet(models.BasicBlock, [1, 1, 1, 1])
    common.fill(module)
    return module.state_dict()


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    return common.small_config(tmp_path, 'resnet', '34', blocks=(1, 1, 1, 1))


def digest(path: pathlib.Path, config: str) -> tuple[str, list[str]]:
    """Of the arrays that an import would write, and what it says."""
    settings = configuration.load(config)
    file, family, recipe = importer.choose(importer.open_file(path), settings)
    found = importer.convert(file, family, recipe, settings, partial=False)[1]
    return found['digest'], found['changes']


@pytest.mark.parametrize(
    ('name', 'change', 'words'),
    [
        ('bn1.running_var', lambda t: t.index_fill(0, t.new_tensor([3]).long(), -1e-3),
         'layer1.0.bn1.running_var has negative values'),
        ('conv1.weight', lambda t: t * (1 + 0.5j), 'conv1.weight holds complex64, not real'),
        ('conv1.weight', lambda t: t.to(dtype=t.new_tensor(0, dtype=None).char().dtype),
         'conv1.weight holds int8, not real'),
        ('bn1.running_mean', lambda t: t.double() + 1e300, 'running_mean has values that are not'),
    ],
)  # fmt: skip
def test_numbers_that_are_no_weights(network, config, tmp_path, name, change, words) -> None:
    """In safetensors, which has them all."""
    import safetensors.torch

    name = 'layer1.0.bn1.running_var' if 'var' in name else name
    path = tmp_path / 'weights.safetensors'
    safetensors.torch.save_file({**network, name: change(network[name])}, path)
    with pytest.raises(UserError, match=words):
        digest(path, config)


# ---- what people have


def test_prefixes_wrappers_and_endings(network, config, tmp_path) -> None:
    """The same numbers whatever stands around them; written by PyTorch itself."""
    import torch

    def prefixed(prefix: str) -> dict[str, Any]:
        return collections.OrderedDict((prefix + name, value) for name, value in network.items())

    plain = tmp_path / 'plain.pth'
    torch.save(network, plain)
    expected, said = digest(plain, config)
    assert said == []
    averaged = {'n_averaged': torch.tensor(7), **prefixed('module.')}
    optimiser = {'state': {0: {'momentum_buffer': torch.ones(3)}}, 'param_groups': [{'lr': 0.1}]}
    cases = {
        'a.th': ({'state_dict': prefixed('module.'), 'best_prec1': 91.7}, True),
        'b.pth.tar': ({'state_dict': prefixed('module.'), 'optimizer': optimiser}, False),
        'c.pt': (prefixed('_orig_mod.'), True),
        'd.bin': (prefixed('module._orig_mod.'), True),
        'e.ckpt': ({'state_dict': prefixed('model.'), 'epoch': 1}, True),
        'f': ({'model': network}, False),
        'g.pth': ({'state_dict_ema': prefixed('module.'), 'epoch': 1}, True),
        'h.pth': ({'model_ema': network, 'model': network}, True),
        'i.weights': (prefixed('encoder.backbone.'), True),
        'j.pth': (averaged, True),
    }  # fmt: skip
    for name, (value, new) in cases.items():
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=new)
        found, said = digest(tmp_path / name, config)
        assert found == expected, name
        assert said, name
    assert said == ["names without the 'module.' that all of them begin with"]
    _, said = digest(tmp_path / 'h.pth', config)
    assert said == ["taken from 'model' of the file; model_ema, which it holds too, left out"]


def test_a_prefix_of_some_is_no_prefix(network, config, tmp_path) -> None:
    import torch

    state = {name if name == 'fc.bias' else f'module.{name}': v for name, v in network.items()}
    torch.save(state, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=r'without a place in the network: module\.conv1\.weight'):
        digest(tmp_path / 'weights.pth', config)


def test_a_real_file_of_several_devices() -> None:
    """As PyTorch reads it, with all its own checks."""
    import torch

    path = shared_data('weights/cifar_resnet20.th')
    file = importer.open_file(path)
    theirs = torch.load(path, weights_only=True, map_location='cpu')['state_dict']
    assert file.notes == ("taken from 'state_dict' of the file",)
    assert list(file.tensors) == list(theirs)
    for name, tensor in file.tensors.items():
        np.testing.assert_array_equal(tensor.read(), theirs[name].numpy())
    without = importer._without_prefix(file)[-1]
    assert next(iter(without.tensors)) == 'conv1.weight'


def test_a_caffe_model_under_another_name(tmp_path: pathlib.Path) -> None:
    blob = samples.caffe_blob(np.arange(4))
    (tmp_path / 'weights.bin').write_bytes(samples.caffe_file({'conv1': [blob]}))
    file = importer.open_file(tmp_path / 'weights.bin')
    assert (file.layout, list(file.tensors)) == ('caffe', ['conv1/0'])
    np.testing.assert_array_equal(file.tensors['conv1/0'].read(), np.arange(4))
