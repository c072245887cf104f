"""Files of torchvision and timm: equal logits, and pickles that must not be obeyed."""

import collections
import io
import os
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.weights import importer, torch_pickle
from tests import oracles
from tests.weights import common

MEAN, STD = np.asarray([0.485, 0.456, 0.406]) * 255, np.asarray([0.229, 0.224, 0.225]) * 255


def write_zip(module: Any, path: pathlib.Path) -> None:
    import torch

    torch.save(module.state_dict(), path)


def write_old(module: Any, path: pathlib.Path) -> None:
    import torch

    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)


def write_safetensors(module: Any, path: pathlib.Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(module.state_dict(), path)


def check(
    module: Any,
    config: str,
    tmp_path: pathlib.Path,
    size: int,
    write: common.Writer = write_safetensors,
    suffix: str = '.safetensors',
) -> dict[str, Any]:
    """Logits from the imported file against the module's own, on pixels in [0, 255]."""
    import torch

    common.fill(module.eval())
    source = tmp_path / f'source{suffix}'
    write(module, source)
    record = common.imported(source, config, tmp_path / 'weights')
    pixels = common.random_pixels(3, size, size, 3)
    with torch.inference_mode():
        images = torch.tensor(common.torch_input(pixels, MEAN, STD))
        theirs = module.double()(images.double()).numpy()
    oracles.assert_close(common.logits(tmp_path / 'weights', config, pixels), theirs)
    return record


def small_resnet() -> Any:
    models = oracles.torchvision().models.resnet
    return models.ResNet(models.Bottleneck, [1, 2, 1, 1])


@pytest.mark.parametrize(
    ('write', 'suffix'),
    [(write_zip, '.pth'), (write_old, '.pth'), (write_safetensors, '.safetensors')],
    ids=['zip', 'old', 'safetensors'],
)
def test_torchvision_resnet(tmp_path: pathlib.Path, write: Any, suffix: str) -> None:
    config = common.small_config(tmp_path, 'resnet', '50-v1_5', blocks=(1, 2, 1, 1))
    record = check(small_resnet(), config, tmp_path, 65, write, suffix)
    assert record['source'] == 'torchvision'
    assert record['preprocessing']['trained_on'] == 'RGB'
    assert record['missing'] == []
    assert record['changes'] == []


def test_torchvision_basic_blocks(tmp_path: pathlib.Path) -> None:
    models = oracles.torchvision().models.resnet
    config = common.small_config(tmp_path, 'resnet', '34', blocks=(2, 1, 1, 1))
    check(models.ResNet(models.BasicBlock, [2, 1, 1, 1]), config, tmp_path, 64)


def test_torchvision_alexnet(tmp_path: pathlib.Path) -> None:
    """As the older .pth; the fully connected kernels change from [c, h, w] to [h, w, c]."""
    import torch

    peer = oracles.torchvision().models.alexnet()
    peer.classifier[1] = torch.nn.Linear(9216, 24)
    peer.classifier[4] = torch.nn.Linear(24, 24)
    peer.classifier[6] = torch.nn.Linear(24, 1000)
    config = common.small_config(tmp_path, 'alexnet', 'one_tower', fc_units=24)
    record = check(peer, config, tmp_path, 224, write_old, '.pth')
    assert record['keys']['data.augment.crop'] == 'random_resized'


SMALL_VGG = [4, 'M', 8, 'M', 8, 8, 'M', 16, 16, 'M', 16, 16, 'M']


@pytest.mark.parametrize('publisher', ['torchvision', 'timm'])
def test_vgg(tmp_path: pathlib.Path, publisher: str) -> None:
    """timm's fully connected layers are convolutions."""
    import torch

    config = common.small_config(tmp_path, 'vgg', 'A', layers=SMALL_VGG, fc_units=24)
    if publisher == 'torchvision':
        module = oracles.torchvision().models.vgg
        peer = module.VGG(module.make_layers(SMALL_VGG))
        peer.classifier[0] = torch.nn.Linear(16 * 49, 24)
        peer.classifier[3] = torch.nn.Linear(24, 24)
        peer.classifier[6] = torch.nn.Linear(24, 1000)
    else:
        oracles.timm()
        import timm.models.vgg

        peer = timm.models.vgg.VGG(SMALL_VGG, num_classes=1000)
        peer.pre_logits = timm.models.vgg.ConvMlp(16, 24, 7, drop_rate=0.0)
        peer.head = timm.layers.ClassifierHead(24, 1000)
    assert check(peer, config, tmp_path, 224)['source'] == publisher


@pytest.mark.parametrize('old_names', [False, True])
def test_torchvision_densenet(tmp_path: pathlib.Path, old_names: bool) -> None:
    """torchvision's own files still have the names of 2017."""
    peer = oracles.torchvision().models.DenseNet(8, (2, 3, 2, 2), 16)

    def write(module: Any, path: pathlib.Path) -> None:
        import torch

        state = module.state_dict()
        if old_names:
            old = [name.replace('.norm1.', '.norm.1.').replace('.norm2.', '.norm.2.')
                   .replace('.conv1.', '.conv.1.').replace('.conv2.', '.conv.2.')
                   for name in state]  # fmt: skip
            state = collections.OrderedDict(zip(old, state.values(), strict=True))
        torch.save(state, path)

    config = common.small_config(tmp_path, 'densenet', '121', blocks=(2, 3, 2, 2), growth_rate=8)
    check(peer, config, tmp_path, 64, write, '.pth')


@pytest.mark.parametrize('variant', ['se_resnet50', 'se_resnext50', 'senet154'])
def test_timm_senet(tmp_path: pathlib.Path, variant: str) -> None:
    oracles.timm()
    import timm.models.senet as senet

    layers = [1, 2, 1, 1]
    if variant == 'se_resnet50':
        peer = senet.SENet(senet.SEResNetBottleneck, layers, groups=1, reduction=16, inplanes=64)
    elif variant == 'se_resnext50':
        peer = senet.SENet(senet.SEResNeXtBottleneck, layers, groups=32, reduction=16, inplanes=64)
    else:
        peer = senet.SENet(
            senet.SEBottleneck, layers, groups=64, reduction=16, downsample_kernel_size=3,
            downsample_padding=1, inplanes=128, input_3x3=True,
        )  # fmt: skip
    config = common.small_config(tmp_path, 'senet', variant, blocks=layers)
    assert check(peer, config, tmp_path, 64)['source'] == 'timm'


def test_torchvision_resnext(tmp_path: pathlib.Path) -> None:
    models = oracles.torchvision().models.resnet
    peer = models.ResNet(models.Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4)
    config = common.small_config(tmp_path, 'senet', 'resnext50', blocks=(1, 1, 1, 1))
    assert check(peer, config, tmp_path, 64)['source'] == 'torchvision'


def test_half_precision_and_views(tmp_path: pathlib.Path) -> None:
    """Shared storages, transposed views and other types are read as PyTorch reads them."""
    import torch

    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    state = {
        'part': base[1:3, 2:5],
        'transposed': base.T,
        'half': torch.tensor([1.5, -2.25], dtype=torch.float16),
        'brain': torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        'count': torch.tensor(3),
        'parameter': torch.nn.Parameter(torch.ones(2)),
    }
    for new in (True, False):
        path = tmp_path / f'{new}.pth'
        torch.save(state, path, _use_new_zipfile_serialization=new)
        tensors = torch_pickle.read(path).tensors
        assert list(tensors) == list(state)
        for name, expected in state.items():
            got = np.asarray(tensors[name].read(), np.float64)
            np.testing.assert_array_equal(got, expected.detach().to(torch.float64).numpy())
            assert tensors[name].shape == tuple(expected.shape)


class Attack:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, proof: pathlib.Path):
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f'touch {self.proof}',)


def zip_with(pickled: bytes, path: pathlib.Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        for name, content in members.items():
            archive.writestr(f'archive/{name}', content)


@pytest.mark.parametrize('container', ['zip', 'plain'])
def test_pickles_that_would_run_code_are_refused(tmp_path: pathlib.Path, container: str) -> None:
    proof, path = tmp_path / 'proof', tmp_path / 'weights.pth'
    pickled = pickle.dumps({'conv1.weight': Attack(proof)}, protocol=2)
    if container == 'zip':
        zip_with(pickled, path)
    else:
        path.write_bytes(pickled)
    with pytest.raises(UserError, match=r"asks for 'posix system', which no tensor needs"):
        importer.open_file(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ('pickled', 'reason'),
    [
        (b'\x80\x02cbuiltins\neval\n.', 'builtins eval'),
        (b'\x80\x04\x8c\x08builtins\x8c\x04exec\x93.', 'builtins exec'),
        (b'\x80\x02(K\x01ibuiltins\neval\n.', 'INST'),
        (b'\x80\x02ccollections\nOrderedDict\n)\x81.', 'NEWOBJ'),
        (b'\x80\x02}X\x01\x00\x00\x00aK\x01s.', "'a' is no tensor"),
        (b'\x80\x02]q\x00h\x00a.', 'no dictionary of tensors'),
        (b'\x80\x02}\x8a\xff', 'broken pickle'),
        (b'\x80\x02(((((.', 'pop from empty list'),
        (b'\x80\x02K\x01K\x02K\x03s.', 'no dictionary'),
        (b'', 'pickle'),
        (b'\x80\x02' + b'0' * 5, 'POP'),
    ],
)  # fmt: skip
def test_broken_pickles_are_refused(tmp_path: pathlib.Path, pickled: bytes, reason: str) -> None:
    zip_with(pickled, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=reason):
        importer.open_file(tmp_path / 'weights.pth')


class Stored:
    """What torch.save writes for a storage of floats: a persistent id."""

    def __init__(self, *identifier: Any):
        self.identifier = identifier


class Rebuilt:
    """What torch.save writes for a tensor: a call of a function of its own."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __reduce__(self) -> Any:
        import torch

        return torch._utils._rebuild_tensor_v2, self.arguments


class TorchPickler(pickle.Pickler):
    """As torch.save's."""

    def persistent_id(self, value: Any) -> Any:
        return value.identifier if isinstance(value, Stored) else None


def pickled_tensor(view: Any, count: int, key: str) -> bytes:
    """A state dictionary with one tensor over a storage of `count` floats."""
    import torch

    stored = Stored('storage', torch.FloatStorage, key, 'cpu', count)
    buffer = io.BytesIO()
    tensor = Rebuilt(stored, *view, False, collections.OrderedDict())
    TorchPickler(buffer, 2).dump({'w': tensor})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('view', 'count', 'key', 'reason'),
    [
        ((0, (4,), (1,)), 4, '0', None),
        ((1, (4,), (1,)), 4, '0', 'larger than storage'),
        ((0, (1000, 1000), (0, 0)), 4, '0', 'larger than storage'),
        ((0, (2, 2), (1, 3)), 4, '0', 'larger than storage'),
        ((0, (-1,), (1,)), 4, '0', 'impossible shape'),
        ((0, (2,), (1, 1)), 4, '0', 'impossible shape'),
        ((0, (4,), (1,)), 1 << 60, '0', 'storage that is none'),
        ((0, (4,), (1,)), 1 << 40, '0', 'is not there'),
        ((0, (4,), (1,)), 4, '../secret', 'storage that is none'),
        ((0, (4,), (1,)), 4, 'absent', 'is not there'),
    ],
)
def test_tensors_stay_within_their_storage(
    tmp_path: pathlib.Path, view: Any, count: int, key: str, reason: str | None
) -> None:
    path = tmp_path / 'weights.pth'
    zip_with(
        pickled_tensor(view, count, key), path, **{'data/0': np.arange(4, dtype='<f4').tobytes()}
    )
    if reason is None:
        np.testing.assert_array_equal(torch_pickle.read(path).tensors['w'].read(), [0, 1, 2, 3])
        return
    with pytest.raises(UserError, match=reason):
        importer.open_file(path)


def test_compressed_archives_are_refused(tmp_path: pathlib.Path) -> None:
    """Else a small file could fill the memory."""
    path = tmp_path / 'weights.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}, protocol=2))
        archive.writestr('archive/data/0', bytes(1 << 20))
    with pytest.raises(UserError, match='is compressed'):
        importer.open_file(path)


@pytest.mark.parametrize('write', [write_zip, write_old, write_safetensors])
@pytest.mark.parametrize('share', [0.001, 0.5, 0.999])
def test_cut_off_files_are_refused(tmp_path: pathlib.Path, write: Any, share: float) -> None:
    import torch

    suffix = '.safetensors' if write is write_safetensors else '.pth'
    path = tmp_path / f'weights{suffix}'
    write(torch.nn.Conv2d(3, 64, 7), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match='not a complete'):
        importer.open_file(path)


def test_a_flipped_bit_is_noticed(tmp_path: pathlib.Path) -> None:
    import torch

    path = tmp_path / 'weights.pth'
    write_zip(torch.nn.Conv2d(3, 64, 7), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    tensors = torch_pickle.read(path).tensors
    with pytest.raises(UserError, match='Bad CRC-32'):
        [tensor.read() for tensor in tensors.values()]
