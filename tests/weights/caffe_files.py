"""Networks as Caffe computes them, in PyTorch, and .caffemodel files as Caffe writes them.

A network is a function that calls the methods of a `Net` with Caffe's names and sizes; blobs are
drawn at random where a layer is first called. Files are written by Google's protobuf library from a
schema built here at run time, which knows nothing of the reader under test.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MEAN_BGR = (104.0, 117.0, 123.0)


class Net:
    """Layers of Caffe on [N, C, H, W] tensors in float64; the blobs are float32."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self.blobs: dict[str, list[np.ndarray]] = {}

    def _draw(self, name: str, *shapes: Sequence[int]) -> list[Any]:
        import torch

        if name not in self.blobs:
            self.blobs[name] = [
                self._rng.standard_normal(shape, np.float32)
                * np.float32(np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)
                for shape in shapes
            ]
        return [torch.tensor(blob).double() for blob in self.blobs[name]]

    def conv(
        self, name: str, x: Any, out: int, kernel: int, stride: int = 1, pad: int = 0,
        group: int = 1, bias: bool = True,
    ) -> Any:  # fmt: skip
        import torch

        shapes = [(out, x.shape[1] // group, kernel, kernel)] + ([(out,)] if bias else [])
        weight, *rest = self._draw(name, *shapes)
        return torch.nn.functional.conv2d(
            x, weight, *rest, stride=stride, padding=pad, groups=group
        )

    def fc(self, name: str, x: Any, out: int) -> Any:
        import torch

        x = x.flatten(1)
        return torch.nn.functional.linear(x, *self._draw(name, (out, x.shape[1]), (out,)))

    def norm(self, name: str, scale: str, x: Any) -> Any:
        """BatchNorm with global statistics, whose sums are divided by a factor, then Scale."""
        import torch

        channels = x.shape[1]
        if name not in self.blobs:
            factor = np.float32(3.0)
            self.blobs[name] = [
                factor * self._rng.normal(0, 0.1, channels).astype(np.float32),
                factor * self._rng.uniform(0.5, 1.5, channels).astype(np.float32),
                np.asarray([factor]),
            ]
            self.blobs[scale] = [
                self._rng.uniform(0.5, 1.5, channels).astype(np.float32),
                self._rng.normal(0, 0.1, channels).astype(np.float32),
            ]
        mean, var, factor = self.blobs[name]
        # Caffe divides in float32.
        tensors = [mean / factor, var / factor, *self.blobs[scale]]
        mean, var, gamma, beta = (torch.tensor(blob).double() for blob in tensors)
        return torch.nn.functional.batch_norm(x, mean, var, gamma, beta, eps=1e-5)

    def pool(self, x: Any, kernel: int, stride: int, pad: int = 0) -> Any:
        """Max pooling; Caffe rounds the number of windows up."""
        import torch

        return torch.nn.functional.max_pool2d(x, kernel, stride, pad, ceil_mode=True)

    def lrn(self, x: Any) -> Any:
        """Across five maps; alpha is divided by their number, k is 1."""
        import torch

        return torch.nn.functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


def alexnet(net: Net, x: Any, norm_first: bool = True, units: int = 4096) -> Any:
    """bvlc_alexnet, or with `norm_first` false bvlc_reference_caffenet."""

    def after(x: Any) -> Any:
        return net.pool(net.lrn(x), 3, 2) if norm_first else net.lrn(net.pool(x, 3, 2))

    x = after(net.conv('conv1', x, 96, 11, 4).relu())
    x = after(net.conv('conv2', x, 256, 5, pad=2, group=2).relu())
    x = net.conv('conv3', x, 384, 3, pad=1).relu()
    x = net.conv('conv4', x, 384, 3, pad=1, group=2).relu()
    x = net.pool(net.conv('conv5', x, 256, 3, pad=1, group=2).relu(), 3, 2)
    x = net.fc('fc6', x, units).relu()
    return net.fc('fc8', net.fc('fc7', x, units).relu(), 1000)


def googlenet(net: Net, x: Any) -> Any:
    """bvlc_googlenet with its side classifiers (computed only to draw their blobs)."""
    import torch

    def inception(name: str, x: Any, *maps: int) -> Any:
        ones, reduce3, three, reduce5, five, proj = maps
        a = net.conv(f'{name}/1x1', x, ones, 1).relu()
        b = net.conv(f'{name}/3x3_reduce', x, reduce3, 1).relu()
        b = net.conv(f'{name}/3x3', b, three, 3, pad=1).relu()
        c = net.conv(f'{name}/5x5_reduce', x, reduce5, 1).relu()
        c = net.conv(f'{name}/5x5', c, five, 5, pad=2).relu()
        d = net.conv(f'{name}/pool_proj', net.pool(x, 3, 1, 1), proj, 1).relu()
        return torch.cat([a, b, c, d], dim=1)

    def side(name: str, x: Any) -> None:
        x = torch.nn.functional.avg_pool2d(x, 5, 3)
        x = net.conv(f'{name}/conv', x, 128, 1).relu()
        net.fc(f'{name}/classifier', net.fc(f'{name}/fc', x, 1024).relu(), 1000)

    x = net.lrn(net.pool(net.conv('conv1/7x7_s2', x, 64, 7, 2, 3).relu(), 3, 2))
    x = net.conv('conv2/3x3_reduce', x, 64, 1).relu()
    x = net.pool(net.lrn(net.conv('conv2/3x3', x, 192, 3, pad=1).relu()), 3, 2)
    x = inception('inception_3a', x, 64, 96, 128, 16, 32, 32)
    x = net.pool(inception('inception_3b', x, 128, 128, 192, 32, 96, 64), 3, 2)
    x = inception('inception_4a', x, 192, 96, 208, 16, 48, 64)
    side('loss1', x)
    x = inception('inception_4b', x, 160, 112, 224, 24, 64, 64)
    x = inception('inception_4c', x, 128, 128, 256, 24, 64, 64)
    x = inception('inception_4d', x, 112, 144, 288, 32, 64, 64)
    side('loss2', x)
    x = net.pool(inception('inception_4e', x, 256, 160, 320, 32, 128, 128), 3, 2)
    x = inception('inception_5a', x, 256, 160, 320, 32, 128, 128)
    x = inception('inception_5b', x, 384, 192, 384, 48, 128, 128)
    return net.fc('loss3/classifier', x.mean((2, 3)), 1000)


def resnet(net: Net, x: Any, blocks: Sequence[Sequence[str]], conv1_bias: bool = False) -> Any:
    """KaimingHe/deep-residual-networks; `blocks` are the labels of each stage: a, b, c or a, b1."""

    def layer(x: Any, end: str, out: int, kernel: int = 1, stride: int = 1) -> Any:
        x = net.conv(f'res{end}', x, out, kernel, stride, kernel // 2, bias=False)
        return net.norm(f'bn{end}', f'scale{end}', x)

    x = net.conv('conv1', x, 64, 7, 2, 3, bias=conv1_bias)
    x = net.pool(net.norm('bn_conv1', 'scale_conv1', x).relu(), 3, 2)
    for stage, labels in enumerate(blocks, 2):
        width = 64 * 2 ** (stage - 2)
        for label in labels:
            stride = 2 if label == 'a' and stage > 2 else 1
            name = f'{stage}{label}_branch'
            shortcut = layer(x, f'{name}1', 4 * width, 1, stride) if label == 'a' else x
            y = layer(x, f'{name}2a', width, 1, stride).relu()
            y = layer(y, f'{name}2b', width, 3).relu()
            x = (layer(y, f'{name}2c', 4 * width) + shortcut).relu()
    return net.fc('fc1000', x.mean((2, 3)), 1000)


def se_net(net: Net, x: Any, blocks: Sequence[int], kind: str) -> Any:
    """hujie-frank/SENet: SE-ResNet, SE-ResNeXt (32x4d) or SENet-154, with that many blocks."""
    width, group = {'resnet': (64, 1), 'resnext': (128, 32), '154': (256, 64)}[kind]

    def layer(x: Any, name: str, out: int, kernel: int, stride: int = 1, group: int = 1) -> Any:
        x = net.conv(name, x, out, kernel, stride, kernel // 2, group, bias=False)
        return net.norm(f'{name}/bn', f'{name}/bn/scale', x)

    if kind == '154':
        x = layer(x, 'conv1_1/3x3_s2', 64, 3, 2).relu()
        x = layer(layer(x, 'conv1_2/3x3', 64, 3).relu(), 'conv1_3/3x3', 128, 3).relu()
    else:
        x = layer(x, 'conv1/7x7_s2', 64, 7, 2).relu()
    x = net.pool(x, 3, 2)
    for stage, count in enumerate(blocks, 2):
        out, maps = 256 * 2 ** (stage - 2), width * 2 ** (stage - 2)
        for index in range(1, count + 1):
            name = f'conv{stage}_{index}'
            stride = 2 if index == 1 and stage > 2 else 1
            first = stride if kind == 'resnet' else 1
            reduced = maps // 2 if kind == '154' else maps
            y = layer(x, f'{name}_1x1_reduce', reduced, 1, first).relu()
            y = layer(y, f'{name}_3x3', maps, 3, stride // first, group).relu()
            y = layer(y, f'{name}_1x1_increase', out, 1)
            gate = net.conv(f'{name}_1x1_down', y.mean((2, 3), keepdim=True), out // 16, 1).relu()
            gate = net.conv(f'{name}_1x1_up', gate, out, 1).sigmoid()
            if index == 1:
                x = layer(
                    x, f'{name}_1x1_proj', out, 3 if kind == '154' and stride == 2 else 1, stride
                )
            x = (gate * y + x).relu()
    return net.fc('classifier', x.mean((2, 3)), 1000)


# ---- files


def _messages() -> dict[str, Any]:
    """The few messages of caffe.proto that hold weights."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='caffe_test.proto', package='caffe')

    def message(name: str, *fields: tuple[str, int, int, bool, str]) -> None:
        proto = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = proto.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f'.caffe.{of}'
            if repeated and kind in (kinds.TYPE_FLOAT, kinds.TYPE_INT64, kinds.TYPE_DOUBLE):
                added.options.packed = True

    message('BlobShape', ('dim', 1, kinds.TYPE_INT64, True, ''))
    message(
        'BlobProto',
        *((n, i, kinds.TYPE_INT32, False, '') for i, n in
          enumerate(('num', 'channels', 'height', 'width'), 1)),
        ('data', 5, kinds.TYPE_FLOAT, True, ''),
        ('shape', 7, kinds.TYPE_MESSAGE, False, 'BlobShape'),
        ('double_data', 8, kinds.TYPE_DOUBLE, True, ''),
    )  # fmt: skip
    layer = (('name', 1, kinds.TYPE_STRING, False, ''), ('type', 2, kinds.TYPE_STRING, False, ''),
             ('phase', 10, kinds.TYPE_INT32, False, ''),
             ('blobs', 7, kinds.TYPE_MESSAGE, True, 'BlobProto'))  # fmt: skip
    message('LayerParameter', *layer)
    v1 = (('bottom', 2, kinds.TYPE_STRING, True, ''), ('name', 4, kinds.TYPE_STRING, False, ''),
          ('type', 5, kinds.TYPE_INT32, False, ''),
          ('blobs', 6, kinds.TYPE_MESSAGE, True, 'BlobProto'),
          ('blobs_lr', 7, kinds.TYPE_FLOAT, True, ''))  # fmt: skip
    message('V1LayerParameter', *v1)
    message(
        'NetParameter', ('name', 1, kinds.TYPE_STRING, False, ''),
        ('layers', 2, kinds.TYPE_MESSAGE, True, 'V1LayerParameter'),
        ('force_backward', 5, kinds.TYPE_BOOL, False, ''),
        ('layer', 100, kinds.TYPE_MESSAGE, True, 'LayerParameter'),
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [proto.name for proto in file.message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f'caffe.{name}'))
        for name in names
    }


def write(
    path: pathlib.Path, title: str, blobs: dict[str, list[np.ndarray]], v1: bool = False
) -> None:
    """As `caffe train` does; with `v1` as before 2014-07, where every blob has four dimensions."""
    messages = _messages()
    net = messages['NetParameter'](name=title, force_backward=False)
    data = net.layers.add() if v1 else net.layer.add()
    data.name = 'data'
    for name, arrays in blobs.items():
        layer = net.layers.add() if v1 else net.layer.add()
        layer.name = name
        if v1:
            layer.bottom.append('data')
            layer.type = 4
            layer.blobs_lr.extend([1.0, 2.0])
        else:
            layer.type = 'Convolution'
            layer.phase = 1
        for array in arrays:
            blob = layer.blobs.add()
            if v1:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            else:
                blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
    path.write_bytes(net.SerializeToString())
