"""Files of Caffe: equal logits on BGR input, and files that are cut off or something else."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnn_arch.errors import UserError
from cnn_arch.weights import caffe, importer
from tests import oracles
from tests.weights import caffe_files, common
from tests.weights.caffe_files import MEAN_BGR, Net

VGG_MEAN_BGR = (103.939, 116.779, 123.68)
EXACT_MEAN_BGR = (104.007, 116.669, 122.679)


def check(
    network: Callable[..., Any],
    config: str,
    tmp_path: pathlib.Path,
    size: int,
    mean_bgr: Any = MEAN_BGR,
    title: str = '',
    v1: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Our logits for RGB pixels against Caffe's for the same pixels in BGR."""
    import torch

    net = Net()
    pixels = common.random_pixels(2, size, size, 3)
    images = common.torch_input(pixels, mean_bgr[::-1], 1.0, bgr=True)
    with torch.inference_mode():
        theirs = network(net, torch.tensor(images).double(), **options).numpy()
    caffe_files.write(tmp_path / 'net.caffemodel', title, net.blobs, v1)
    record = common.imported(tmp_path / 'net.caffemodel', config, tmp_path / 'weights')
    oracles.assert_close(common.logits(tmp_path / 'weights', config, pixels), theirs)
    assert record['preprocessing']['trained_on'] == 'BGR'
    assert record['preprocessing']['mean'] == list(mean_bgr[::-1])
    assert record['missing'] == []
    assert any('reversed' in change for change in record['changes'])
    return record


@pytest.mark.parametrize(
    ('title', 'norm_first', 'v1'), [('AlexNet', True, True), ('CaffeNet', False, False)]
)
def test_alexnet(tmp_path: pathlib.Path, title: str, norm_first: bool, v1: bool) -> None:
    """Two towers, Caffe's response normalisation, 227x227; in the older spelling too."""
    config = common.small_config(tmp_path, 'alexnet', 'two_tower', fc_units=16)
    record = check(
        caffe_files.alexnet, config, tmp_path, 227, EXACT_MEAN_BGR, title, v1,
        norm_first=norm_first, units=16,
    )  # fmt: skip
    assert record['keys']['data.augment.size'] == 227
    assert 'warped' in record['note']


@pytest.mark.slow
def test_googlenet(tmp_path: pathlib.Path) -> None:
    record = check(caffe_files.googlenet, 'configs/googlenet.py:googlenet', tmp_path, 224)
    assert record['numbers'] == 13_378_280  # with both side classifiers


@pytest.mark.parametrize(
    ('variant', 'blocks', 'labels', 'bias'),
    [
        ('50', (1, 3, 1, 1), ('a', 'abc', 'a', 'a'), True),
        (
            '101',
            (1, 2, 7, 1),
            ('a', ('a', 'b1'), ('a', *(f'b{i}' for i in range(1, 7))), 'a'),
            False,
        ),
    ],
)
def test_resnet(tmp_path: pathlib.Path, variant: str, blocks: Any, labels: Any, bias: bool) -> None:
    """Blocks are called a, b, c, in the deep networks a, b1, b2; ResNet-50: conv1 has a bias."""
    config = common.small_config(tmp_path, 'resnet', variant, blocks=blocks)
    record = check(
        caffe_files.resnet, config, tmp_path, 65, VGG_MEAN_BGR, blocks=labels, conv1_bias=bias
    )
    assert record['keys']['model.options.ceil_mode_pool'] is True
    assert any('1 convolution bias' in change for change in record['changes']) == bias


@pytest.mark.parametrize(
    ('variant', 'kind'),
    [('se_resnet50', 'resnet'), ('se_resnext50', 'resnext'), ('senet154', '154')],
)
def test_senet(tmp_path: pathlib.Path, variant: str, kind: str) -> None:
    config = common.small_config(tmp_path, 'senet', variant, blocks=(1, 2, 1, 1))
    check(caffe_files.se_net, config, tmp_path, 64, blocks=(1, 2, 1, 1), kind=kind)


def small_file(path: pathlib.Path, v1: bool = False) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    blobs = {'conv1': [rng.standard_normal((4, 3, 5, 5), np.float32), np.ones(4, np.float32)]}
    caffe_files.write(path, 'net', blobs, v1)
    return blobs


@pytest.mark.parametrize('v1', [False, True])
def test_reads_what_protobuf_writes(tmp_path: pathlib.Path, v1: bool) -> None:
    path = tmp_path / 'net.caffemodel'
    blobs = small_file(path, v1)
    file = caffe.read(path)
    assert file.title == 'net'
    assert list(file.tensors) == ['conv1/0', 'conv1/1']
    assert file.tensors['conv1/1'].shape == ((1, 1, 1, 4) if v1 else (4,))
    for number, blob in enumerate(blobs['conv1']):
        np.testing.assert_array_equal(file.tensors[f'conv1/{number}'].read().squeeze(), blob)


@pytest.mark.parametrize('length', [0, 1, 7, 40, 300, 1180])
def test_cut_off_files_are_refused(tmp_path: pathlib.Path, length: int) -> None:
    path = tmp_path / 'net.caffemodel'
    small_file(path)
    content = path.read_bytes()
    assert len(content) > 1190
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match='caffemodel'):
        importer.open_file(path)


def test_every_cut_is_an_error_and_never_another(tmp_path: pathlib.Path) -> None:
    """No byte at which a file could end, and no flipped one, that gives another exception."""
    path = tmp_path / 'net.caffemodel'
    small_file(path)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(content[: rng.integers(1, len(content))])
        broken[rng.integers(0, min(len(broken), 60))] = rng.integers(0, 256)
        path.write_bytes(broken)
        try:
            tensors = importer.open_file(path).tensors
        except UserError:
            continue
        for tensor in tensors.values():
            assert tensor.read().shape == tensor.shape


def test_shape_and_numbers_must_agree(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'net.caffemodel'
    messages = caffe_files._messages()
    net = messages['NetParameter'](name='net')
    layer = net.layer.add(name='conv1')
    blob = layer.blobs.add()
    blob.shape.dim.extend([1 << 40, 1 << 20])
    blob.data.extend([1.0, 2.0])
    path.write_bytes(net.SerializeToString())
    with pytest.raises(UserError, match='holds 8 bytes'):
        importer.open_file(path)


def test_without_weights(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'net.caffemodel'
    caffe_files.write(path, 'net', {})
    with pytest.raises(UserError, match='without any weights'):
        importer.open_file(path)
