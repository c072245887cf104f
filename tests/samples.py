"""Small whole files of every kind that is read, made without the libraries of their publishers."""

import functools
import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

# ---- PyTorch

Tensors = dict[str, np.ndarray]


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """The instruction that pushes a whole number."""
    return pickle.dumps(value, 2)[2:-1]


def numbers(values: Sequence[int]) -> bytes:
    """The instructions that push a tuple of whole numbers."""
    return b'(' + b''.join(map(number, values)) + b't'


def tensor(
    key: str,
    count: int,
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    old: bool = False,
) -> bytes:
    """A tensor over a storage of `count` floats, as torch.save pickles it."""
    identifier = text('storage') + b'ctorch\nFloatStorage\n' + text(key) + text('cpu')
    stored = b'(' + identifier + number(count) + (b'N' if old else b'') + b'tQ'
    hooks = b'ccollections\nOrderedDict\n)R'
    view = number(offset) + numbers(shape) + numbers(strides) + b'\x89' + hooks
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + stored + view + b'tR'


def dictionary(items: dict[str, bytes]) -> bytes:
    """A dictionary of what the instructions push."""
    return b'}(' + b''.join(text(name) + value for name, value in items.items()) + b'u'


def contiguous(shape: Sequence[int]) -> list[int]:
    """Strides in elements."""
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def state(tensors: Tensors, old: bool = False) -> bytes:
    """The instructions for a state dictionary, each tensor in a storage of its own."""
    return dictionary(
        {
            name: tensor(str(place), array.size, 0, array.shape, contiguous(array.shape), old)
            for place, (name, array) in enumerate(tensors.items())
        }
    )


def torch_zip(
    instructions: bytes, storages: Sequence[bytes], others: dict[str, bytes] | None = None
) -> bytes:
    """The archive of PyTorch 1.6 and later."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        members = {'archive/data.pkl': b'\x80\x02' + instructions + b'.'}
        members['archive/byteorder'] = b'little'
        members |= {f'archive/data/{place}': content for place, content in enumerate(storages)}
        for name, content in (members | (others or {})).items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of a fixed date
    return buffer.getvalue()


def torch_file(tensors: Tensors, wrap: str = '') -> bytes:
    """A state dictionary of float32 tensors, perhaps under a key."""
    instructions = state(tensors)
    storages = [array.astype('<f4').tobytes() for array in tensors.values()]
    return torch_zip(dictionary({wrap: instructions}) if wrap else instructions, storages)


def torch_stream(instructions: bytes, storages: Sequence[bytes]) -> bytes:
    """The older container, of 2016 to 2020."""
    head = [0x1950A86A20F9469CFC6C, 1001, {'protocol_version': 1001, 'little_endian': True}]
    parts = [pickle.dumps(value, 2) for value in head]
    parts.append(b'\x80\x02' + instructions + b'.')
    parts.append(pickle.dumps([str(place) for place in range(len(storages))], 2))
    parts += [struct.pack('<q', len(content) // 4) + content for content in storages]
    return b''.join(parts)


# ---- the other weights


def safetensors_file(
    header: dict[str, tuple[str, Sequence[int], tuple[int, int]]], data: bytes
) -> bytes:
    """A file with this header: dtype, shape and places of each tensor."""
    entries = {
        name: {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(places)}
        for name, (dtype, shape, places) in header.items()
    }
    encoded = json.dumps(entries).encode()
    return struct.pack('<Q', len(encoded)) + encoded + data


def safetensors_of(tensors: Tensors) -> bytes:
    """A whole file of float32 tensors."""
    header, data = {}, b''
    for name, array in tensors.items():
        content = array.astype('<f4').tobytes()
        header[name] = ('F32', array.shape, (len(data), len(data) + len(content)))
        data += content
    return safetensors_file(header, data)


def varint(value: int) -> bytes:
    """A number of a protocol buffer."""
    result = b''
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


def field(key: int, content: bytes) -> bytes:
    """A field of bytes of a protocol buffer."""
    return varint(key << 3 | 2) + varint(len(content)) + content


def caffe_blob(array: np.ndarray) -> bytes:
    """A BlobProto."""
    shape = field(7, field(1, b''.join(map(varint, array.shape))))
    return shape + field(5, array.astype('<f4').tobytes())


def caffe_file(layers: dict[str, list[bytes]]) -> bytes:
    """A NetParameter of layers with these BlobProtos."""
    content = field(1, b'net')
    for name, blobs in layers.items():
        content += field(100, field(1, name.encode()) + b''.join(field(7, blob) for blob in blobs))
    return content


@functools.cache
def keras_file() -> bytes:
    """Two layers of Keras Applications' layout."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'weights.h5'
        with h5py.File(path, 'w') as file:
            file.attrs['layer_names'] = [b'conv1', b'fc1000']
            for layer, shape in (('conv1', (3, 3, 3, 4)), ('fc1000', (4, 5))):
                group = file.create_group(layer)
                group.attrs['weight_names'] = [
                    f'{layer}/{k}:0'.encode() for k in ('kernel', 'bias')
                ]
                group[f'{layer}/kernel:0'] = np.ones(shape, np.float32)
                group[f'{layer}/bias:0'] = np.ones(shape[-1], np.float32)
        return path.read_bytes()


# ---- data


def picture(
    kind: str = 'JPEG', mode: str = 'RGB', size: tuple[int, int] = (24, 17), **options: object
) -> bytes:
    """Noise and a slope, encoded."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 64, (size[1], size[0], 3)) + np.arange(size[0])[:, None] * 180 // size[0]
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """LeCun's format, of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(images: int = 20) -> dict[str, bytes]:
    """The four files, gzipped."""
    pixels, labels = np.zeros((images, 28, 28)), np.arange(images) % 10
    return {
        f'{stem}-{name}-ubyte.gz': gzip.compress(idx(array), mtime=0)
        for stem in ('train', 't10k')
        for name, array in (('images-idx3', pixels), ('labels-idx1', labels))
    }


def tar(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def training_archive(pictures: int = 3) -> bytes:
    """ImageNet's, with two classes."""
    classes = {
        f'{wnid}.tar': tar({f'{wnid}_{n}.JPEG': bytes([n]) * 700 for n in range(pictures)})
        for wnid in ('n01440764', 'n01443537')
    }
    return tar(classes)
