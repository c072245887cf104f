"""Files that are damaged, hostile or something else, and what is said of each: a line is a row.

`name`, `command` (see test_bad_inputs.py), `make` (the file's bytes, or a function that puts what
is read into a folder and returns its path) and `words`, a part of the one line that comes of it.
Files that the fuzzers find become rows as well.
"""

import dataclasses
import functools
import gzip
import io
import os
import pathlib
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from tests import samples as s

Make = bytes | Callable[[pathlib.Path], pathlib.Path]


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad input; `ending` is that of the file's name."""

    name: str
    command: str  # weights, picture, mnist or archive
    make: Make
    words: str
    ending: str = ''


ONE = {'w': np.arange(4, dtype=np.float32)}
FOUR = np.arange(4, dtype='<f4').tobytes()
WIDE = {'count': 4, 'offset': 0, 'shape': (4,), 'strides': (1,)}


def tensor(**changes: object) -> bytes:
    """A state dictionary whose one tensor is laid otherwise over its four numbers."""
    values = {**WIDE, **changes}
    return s.dictionary({'w': s.tensor('0', *(values[key] for key in WIDE))})


def lying_zip() -> bytes:
    """A storage of 4 bytes whose size in the directory is that of 4,096 numbers."""
    whole = s.torch_zip(s.dictionary({'w': s.tensor('0', 4096, 0, (4096,), (1,))}), [b'\1\2\3\4'])
    place = whole.rindex(b'PK\x01\x02')
    return whole[: place + 24] + struct.pack('<I', 16384) + whole[place + 28 :]


def doubled(times: int) -> bytes:
    """A tuple of itself, again and again, as the name of a tensor."""
    return s.dictionary({}) + b'(K\x00' + b'\x85' + b'q\x00h\x00\x86' * times + b'N' + b'u'


def as_global(times: int) -> bytes:
    """The same as the name of what the pickle asks for."""
    return b'K\x00\x85' + b'q\x00h\x00\x86' * times + b'\x8c\x01a\x93'


def pipe(folder: pathlib.Path, name: str = 'weights.pth') -> pathlib.Path:
    """A named pipe into which nobody writes."""
    os.mkfifo(folder / name)
    return folder / name


def listening(folder: pathlib.Path) -> pathlib.Path:
    """A socket in the file system."""
    here = os.getcwd()
    os.chdir(folder)  # its name may only be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind('weights.pth')
    finally:
        os.chdir(here)
    return folder / 'weights.pth'


def link(folder: pathlib.Path) -> pathlib.Path:
    """A link to nowhere."""
    (folder / 'weights.pth').symlink_to(folder / 'gone')
    return folder / 'weights.pth'


KERNEL = 'conv1/conv1/kernel:0'


def h5(change: Callable[[object], None]) -> Callable[[pathlib.Path], pathlib.Path]:
    """A Keras file, changed by h5py."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        import h5py

        path = folder / 'weights.h5'
        path.write_bytes(s.keras_file())
        with h5py.File(path, 'r+') as file:
            change(file)
        return path

    return make


def _external(file: object) -> None:
    import h5py

    for key in list(file.attrs):
        del file.attrs[key]
    file['model_weights'] = h5py.ExternalLink('/dev/zero', '/')


def _soft(file: object) -> None:
    import h5py

    del file['conv1']
    file['conv1'] = h5py.SoftLink('/fc1000')


def _virtual(file: object) -> None:
    import h5py

    del file[KERNEL]
    layout = h5py.VirtualLayout((4,), 'f4')
    layout[:] = h5py.VirtualSource('/dev/zero', 'x', (4,))
    file.create_virtual_dataset(KERNEL, layout)


def _elsewhere(file: object) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (4,), 'f4', external=[('/dev/zero', 0, 16)])


def _wide_text(file: object) -> None:
    import h5py

    kind = h5py.h5t.C_S1.copy()
    kind.set_size(1 << 30)
    del file.attrs['layer_names']
    # HDF5 stores no attribute of that size; as a data set nothing of it is written.
    del file[KERNEL]
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, KERNEL.encode(), kind, space)
    file.attrs['layer_names'] = [b'conv1']


def _sparse(file: object) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (1 << 20, 1 << 10), 'f4', chunks=(1024, 1024))


def _complex(file: object) -> None:
    del file[KERNEL]
    file[KERNEL] = np.ones(4, np.complex64)


def _texts(file: object) -> None:
    del file[KERNEL]
    file[KERNEL] = np.asarray([b'1.5', b'2.5'])


def _keras3(file: object) -> None:
    for key in list(file.attrs):
        del file.attrs[key]
    file.create_group('layers/conv2d/vars')


def _unnamed(file: object) -> None:
    del file.attrs['layer_names']


def _numbers_as_names(file: object) -> None:
    del file.attrs['layer_names']
    file.attrs['layer_names'] = [1, 2, 3]


def _unknown_kind(file: object) -> None:
    file['conv1'].attrs['weight_names'] = [b'conv1/kernel:0', b'conv1/bias:0\n']
    file['conv1']['conv1/gain\x1b[2J:0'] = np.ones(4, np.float32)
    file['conv1'].attrs['weight_names'] = [b'conv1/gain\x1b[2J:0']


def keras_zip(**members: bytes) -> bytes:
    """A zip archive with these members, `_` in their names for a point."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name.replace('__', '.'), content)
    return buffer.getvalue()


def compressed_zip() -> bytes:
    """A state dictionary in an archive that deflates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + s.state(ONE) + b'.')
        archive.writestr('archive/data/0', FOUR)
    return buffer.getvalue()


def encrypted_zip() -> bytes:
    """The bit that says so."""
    data = bytearray(s.torch_file(ONE))
    place = -1
    while (place := data.find(b'PK\x01\x02', place + 1)) >= 0:
        data[place + 8] |= 1
    return bytes(data)


def blob_of_both() -> bytes:
    """A blob with numbers of 4 and of 8 bytes."""
    both = s.caffe_blob(np.ones(4)) + s.field(8, np.ones(4, '<f8').tobytes())
    return s.caffe_file({'conv1': [both]})


def _layer(*blob: bytes) -> bytes:
    return s.caffe_file({'conv1': [b''.join(blob)]})


def torch(instructions: bytes) -> bytes:
    """An archive with this pickle, and four numbers."""
    return s.torch_zip(instructions, [FOUR])


WEIGHTS = [
    Row('storage that claims more', 'weights', lying_zip(), 'archive/data/0 claims 16,384 bytes', '.pth'),
    Row('tuple doubled 30 times as a name', 'weights', torch(doubled(30)), 'a broken pickle', '.pth'),
    Row('tuple doubled 60 times as a name', 'weights', torch(doubled(60)), 'a broken pickle', '.pth'),
    Row('tuple doubled, asked for', 'weights', torch(as_global(60)), 'a name that is no text', '.pth'),
    Row('view before its storage', 'weights', torch(tensor(offset=-1)), 'impossible shape', '.pth'),
    Row('view beyond its storage', 'weights', torch(tensor(offset=1)), 'larger than storage 0', '.pth'),
    Row('stride below zero', 'weights', torch(tensor(strides=(-1,))), 'impossible shape', '.pth'),
    Row('stride of zero', 'weights', torch(tensor(shape=(4096,), strides=(0,))), 'larger than storage', '.pth'),
    Row('stride that overflows', 'weights', torch(tensor(shape=(2,), strides=(2**62,))), 'impossible shape', '.pth'),
    Row('shape that overflows', 'weights', torch(tensor(shape=(2**33, 2**33), strides=(1, 1))), 'larger than', '.pth'),
    Row('storage of 2**40', 'weights', torch(tensor(count=2**40)), 'is not there', '.pth'),
    Row('9 dimensions', 'weights', torch(tensor(shape=(1,) * 9, strides=(1,) * 9)), 'impossible shape', '.pth'),
    Row('number of 300 bytes', 'weights', torch(s.dictionary({'w': s.number(1 << 2400)})), 'a number of more than 16', '.pth'),
    Row('keys of one hash', 'weights', torch(b'}(' + s.number((1 << 61) - 1) + b'Nu'), 'a key that is no name', '.pth'),
    Row('deep tuple', 'weights', torch(b'N' + b'\x85' * 100_000), 'no dictionary of tensors', '.pth'),
    Row('deep dictionary', 'weights', torch(b'}' * 10_000 + b'K\x00' * 10), 'no dictionary', '.pth'),
    Row('string longer than the file', 'weights', torch(b'X\xff\xff\xff\xff'), 'in one piece', '.pth'),
    Row('text without end', 'weights', torch(b'Vabc'), 'a broken pickle', '.pth'),
    Row('call of eval', 'weights', torch(b'cbuiltins\neval\n(X\x01\x00\x00\x001tR'), "asks for 'builtins eval'", '.pth'),
    Row('name with an escape', 'weights', torch(b'cos\x1b[2J\nsystem\n'), r'os\x1b[2J system', '.pth'),
    Row('name of 100,000 letters', 'weights', torch(b'c' + b'o' * 100_000 + b'\nx\n'), '(100,002 characters)', '.pth'),
    Row('whole module', 'weights', torch(b'ctorchvision.models.resnet\nResNet\n)\x81'), 'torch.save(model.state_dict()', '.pth'),
    Row('whole module, old', 'weights', s.torch_stream(b'ctorchvision.models.resnet\nResNet\n', []), 'torch.save(model.state_dict()', '.pth'),
    Row('no tensors', 'weights', torch(s.dictionary({'epoch': b'K\x01'})), "'epoch' is no tensor", '.pth'),
    Row('empty dictionary', 'weights', torch(b'}'), 'no dictionary of tensors', '.pth'),
    Row('TorchScript', 'weights', s.torch_zip(s.state(ONE), [FOUR], {'archive/constants.pkl': b'', 'archive/code/x.py': b''}), 'torch.jit.load', '.pt'),
    Row('big-endian', 'weights', s.torch_zip(s.state(ONE), [FOUR]).replace(b'little', b'bigend'), 'not a complete', '.pth'),
    Row('compressed', 'weights', compressed_zip(), 'is compressed', '.pth'),
    Row('encrypted', 'weights', encrypted_zip(), 'is encrypted', '.pth'),
    Row('pickle with a changed bit', 'weights', s.torch_file(ONE).replace(b'FloatStorage', b'FloatStorcge', 1), 'Bad CRC-32', '.pth'),
    Row('zip of something else', 'weights', keras_zip(readme__txt=b'hello'), 'a zip archive, not a complete', '.pth'),
    Row('zip cut off', 'weights', s.torch_file(ONE)[:-30], 'not a complete file of PyTorch tensors', '.pth'),
    Row('stream cut off', 'weights', s.torch_stream(s.state(ONE, True), [FOUR])[:-3], '3 bytes are missing', '.pth'),
    Row('stream of another count', 'weights', s.torch_stream(s.state(ONE, True), [FOUR + FOUR]), 'has 8 elements, not 4', '.pth'),
    Row('stream with a storage too many', 'weights', s.torch_stream(s.state(ONE, True), [FOUR, FOUR]), 'belongs to no tensor', '.pth'),
    Row('stream of a pickle of data', 'weights', b'\x80\x02}q\x00.', 'begins as no file of torch.save', '.pth'),
    Row('.keras', 'weights', keras_zip(config__json=b'{}', **{'model__weights__h5': b''}), 'keras.models.load_model', '.keras'),
    Row('.npz', 'weights', keras_zip(a__npy=b''), 'arrays of NumPy', '.npz'),
    Row('LFS pointer', 'weights', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n', 'a pointer of Git LFS', '.safetensors'),
    Row('web page', 'weights', b'\n<!DOCTYPE html>\n<html>', 'a web page, not weights', '.pth'),
    Row('XML error', 'weights', b'\xef\xbb\xbf<?xml version="1.0"?><Error/>', 'a web page, not weights', '.h5'),
    Row('404', 'weights', b'404: Not Found', "a text, not weights: it begins '404: Not Found'", '.bin'),
    Row('empty', 'weights', b'', 'empty, not a complete weight file', '.ckpt'),
    Row('gzip', 'weights', gzip.compress(b'x'), 'packed with gzip', '.pth'),
    Row('tar of old PyTorch', 'weights', s.tar({'sys_info': b'x'}), 'a tar archive', '.pth.tar'),
    Row('TF-slim, V1', 'weights', b'\0' * 90 + bytes.fromhex('57fb808b247547db'), 'TF-Slim', '.ckpt'),
    Row('TF-slim, V2', 'weights', b'\x01\x02' * 90, 'background class', '.data-00000-of-00001'),
    Row('noise', 'weights', bytes(range(1, 256)), 'weights come as .h5, .safetensors', '.pth'),
    Row('pipe', 'weights', pipe, 'a pipe, not a file'),
    Row('socket', 'weights', listening, 'a socket, not a file'),
    Row('device', 'weights', lambda folder: pathlib.Path('/dev/zero'), 'a device, not a file'),
    Row('folder', 'weights', lambda folder: folder, 'a folder, not a file'),
    Row('link to nowhere', 'weights', link, 'a link to a file that is not there'),
    Row('float8', 'weights', s.safetensors_file({'w': ('F8_E4M3', (4,), (0, 4))}, b'1234'), 'w is stored as F8_E4M3', '.safetensors'),
    Row('float4', 'weights', s.safetensors_file({'w': ('F4', (8,), (0, 4))}, b'1234'), 'w is stored as F4', '.safetensors'),
    Row('header of 2**62', 'weights', struct.pack('<Q', 1 << 31) + b'{}', 'longer than 16 MiB', '.safetensors'),
    Row('offsets that overlap', 'weights', s.safetensors_file({'a': ('F32', (4,), (0, 16)), 'b': ('F32', (4,), (8, 24))}, b'x' * 24), 'not a complete safetensors', '.safetensors'),
    Row('offsets beyond', 'weights', s.safetensors_file({'a': ('F32', (4,), (0, 16))}, b'x' * 12), 'not a complete safetensors', '.safetensors'),
    Row('shape that overflows 64 bits', 'weights', s.safetensors_file({'a': ('F32', (2**33, 2**33), (0, 16))}, FOUR), 'not a complete safetensors', '.safetensors'),
    Row('JSON cut off', 'weights', struct.pack('<Q', 9) + b'{"w":{"dt', 'not a complete safetensors', '.safetensors'),
    Row('external link', 'weights', h5(_external), 'a link that is not followed'),
    Row('soft link', 'weights', h5(_soft), 'a link that is not followed'),
    Row('virtual data set', 'weights', h5(_virtual), 'is not an array of this file'),
    Row('external storage', 'weights', h5(_elsewhere), 'is not an array of this file'),
    Row('text of 2**30 bytes', 'weights', h5(_wide_text), 'no real numbers'),
    Row('array of 4 GiB in a file of 10 KB', 'weights', h5(_sparse), 'claims more than'),
    Row('complex HDF5', 'weights', h5(_complex), 'no real numbers'),
    Row('texts for numbers', 'weights', h5(_texts), 'no real numbers'),
    Row("Keras 3's .weights.h5", 'weights', h5(_keras3), "Keras 3's .weights.h5"),
    Row('no layer_names', 'weights', h5(_unnamed), 'no layer_names'),
    Row('numbers as names', 'weights', h5(_numbers_as_names), 'holds no names'),
    Row('kind with an escape', 'weights', h5(_unknown_kind), r'gain\x1b[2J:0'),
    Row('HDF5 cut off', 'weights', s.keras_file()[:3000], 'not a complete weight file', '.h5'),
    Row('HDF5 signature alone', 'weights', b'\x89HDF\r\n\x1a\n', 'not a complete weight file', '.h5'),
    Row('blob of both kinds', 'weights', blob_of_both(), 'conv1/0 holds numbers of 4 and of 8 bytes', '.caffemodel'),
    Row('blob without numbers', 'weights', _layer(s.field(7, s.field(1, b'\x04'))), 'of shape [4] holds 0 bytes', '.caffemodel'),
    Row('blob of 33 dimensions', 'weights', _layer(s.field(7, s.field(1, b'\x01' * 33))), 'more than 32 dimensions', '.caffemodel'),
    Row('name of 5,000 bytes', 'weights', s.caffe_file({'x' * 5000: []}), 'a name of 5,000 bytes', '.caffemodel'),
    Row('two layers of one name', 'weights', _layer(s.caffe_blob(np.ones(4))) * 2, 'two layers are called conv1', '.caffemodel'),
    Row('number without end', 'weights', b'\x0a\x03net' + b'\xff' * 20, 'an endless number', '.caffemodel'),
    Row('no layers', 'weights', s.caffe_file({}), 'without any weights', '.caffemodel'),
    Row('group of old protocol', 'weights', b'\x0a\x03net\x0b', 'wire type 3', '.caffemodel'),
]  # fmt: skip


# ---- pictures


def beside(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    """A class folder with a good picture and something called `name`."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        (folder / 'one').mkdir()
        return folder / 'one' / name

    return make


def png(width: int, height: int, rows: bytes = b'', depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of this size by its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', crc)

    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    data = chunk(b'IDAT', zlib.compress(rows))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + data + chunk(b'IEND', b'')


def scans(times: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    whole = s.picture(size=(side, side), progressive=True)
    last = whole.rindex(b'\xff\xda')
    return whole[:last] + whole[last:-2] * times + whole[-2:]


def changed_pixels() -> bytes:
    """A PNG with one bit of its pixels changed, which Pillow does not see."""
    whole = bytearray(s.picture('PNG'))
    whole[whole.index(b'IDAT') + 200] ^= 1
    return bytes(whole)


def sized_jpeg(width: int, height: int, data: bytes = s.picture()) -> bytes:
    """A small JPEG that claims another size."""
    whole = bytearray(data)
    place = max(whole.find(b'\xff\xc0'), whole.find(b'\xff\xc2'))
    whole[place + 5 : place + 9] = struct.pack('>HH', height, width)
    return bytes(whole)


EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n'


def folder_picture(folder: pathlib.Path) -> pathlib.Path:
    """A folder called as a picture."""
    path = beside('b.JPEG')(folder)
    path.mkdir()
    return path


def pipe_picture(folder: pathlib.Path) -> pathlib.Path:
    """A pipe called as a picture."""
    return pipe(beside('b.JPEG')(folder).parent, 'b.JPEG')


def link_picture(folder: pathlib.Path) -> pathlib.Path:
    """A link called as a picture."""
    path = beside('b.JPEG')(folder)
    path.symlink_to('/dev/zero')
    return path


def broken_link(folder: pathlib.Path) -> pathlib.Path:
    """A link to nowhere called as a picture."""
    path = beside('b.JPEG')(folder)
    path.symlink_to(folder / 'gone')
    return path


def tiled(width: int, height: int) -> bytes:
    """A TIFF of tiles of this size."""
    tags = {
        256: 8,
        257: 8,
        258: 8,
        259: 1,
        262: 1,
        277: 1,
        322: width,
        323: height,
        324: 8,
        325: 64,
    }
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags.items())
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(80)


PICTURES = [
    Row('EPS', 'picture', EPS, 'not a picture of a known format', '.JPEG'),
    Row('PDF', 'picture', b'%PDF-1.4\n', 'not a picture of a known format', '.JPEG'),
    Row('SVG', 'picture', b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not a picture of a known', '.JPEG'),
    Row('Windows icon', 'picture', s.picture('ICO'), 'not a picture of a known format', '.png'),
    Row('web page', 'picture', b'<html>404</html>', 'not a picture of a known format', '.JPEG'),
    Row('empty', 'picture', b'', 'not a picture of a known format (0 bytes)', '.JPEG'),
    Row('PNG of one line', 'picture', png(67_108_864, 1), 'a side is longer than 65,535', '.png'),
    Row('PNG of one column', 'picture', png(1, 67_108_864), 'a side is longer than 65,535', '.png'),
    Row('PNG of too many pixels', 'picture', png(10_000, 10_000), 'more than the limit of 67,108,864', '.png'),
    Row('PNG of 2**62 pixels', 'picture', png(2**31 - 1, 2**31 - 1), 'pixels', '.png'),
    Row('PNG without pixels', 'picture', png(0, 9), 'not a picture of a known', '.png'),
    Row('PNG with a changed bit', 'picture', changed_pixels(), 'chunk IDAT at byte 33 has another checksum', '.png'),
    Row('PNG cut off', 'picture', s.picture('PNG')[:300], 'damaged picture', '.png'),
    Row('PNG of an unknown depth', 'picture', png(9, 9, b'\0' * 99, depth=7), 'picture', '.png'),
    Row('PNG header alone', 'picture', s.picture('PNG')[:8], 'picture', '.png'),
    Row('JPEG of 2,000 scans', 'picture', scans(2_000, 64), '2,009 scans over 4,096 pixels', '.JPEG'),
    Row('JPEG of 200 scans over many pixels', 'picture', sized_jpeg(4096, 4096, scans(200, 64)), '209 scans over 16,777,216', '.JPEG'),
    Row('JPEG that claims 65,500 x 65,500', 'picture', sized_jpeg(65_500, 65_500), 'more than the limit', '.JPEG'),
    Row('JPEG cut off', 'picture', s.picture()[:400], 'damaged picture', '.JPEG'),
    Row('JPEG header alone', 'picture', s.picture()[:30], 'picture', '.JPEG'),
    Row('JPEG of marks alone', 'picture', b'\xff\xd8' + b'\xff' * 99_999, '10,001 markers before any', '.JPEG'),
    Row('JPEG of comments alone', 'picture', b'\xff\xd8' + b'\xff\xfe\0\2' * 20_000, '10,001 markers before any', '.JPEG'),
    Row('GIF of too many pixels', 'picture', b'GIF89a' + struct.pack('<HHBBB', 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b',' + struct.pack('<HHHHB', 0, 0, 65_535, 65_535, 0) + b'\2\0;', 'exceeds limit', '.jpg'),
    Row('GIF cut off', 'picture', s.picture('GIF', 'P')[:200], 'picture', '.jpg'),
    Row('BMP cut off', 'picture', s.picture('BMP')[:300], 'damaged picture', '.jpg'),
    Row('TIFF cut off', 'picture', s.picture('TIFF')[:300], 'picture', '.jpg'),
    Row('TIFF of huge tiles', 'picture', tiled(65_520, 65_520), 'tiles of 4,292,870,400 pixels', '.jpg'),
    Row('WebP cut off', 'picture', s.picture('WEBP')[:60], 'picture', '.jpg'),
    Row('PPM of too many pixels', 'picture', b'P6 12000 12000 255\n', 'more than the limit', '.jpg'),
    Row('TIFF of floats', 'picture', s.picture('TIFF', 'F'), 'floating-point', '.jpg'),
    Row('pipe', 'picture', pipe_picture, 'b.JPEG is a FIFO, socket or device'),
    Row('folder', 'picture', folder_picture, 'b.JPEG is a folder, though called as a file'),
    Row('link to a device', 'picture', link_picture, 'b.JPEG: a link to /dev/zero, which lies outside the data'),
    Row('link to nowhere', 'picture', broken_link, 'b.JPEG: a link that leads nowhere'),
]  # fmt: skip


# ---- MNIST

IMAGES = 'train-images-idx3-ubyte.gz'


def mnist(content: bytes, name: str = IMAGES) -> Callable[[pathlib.Path], pathlib.Path]:
    """A folder of MNIST with another file."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        for file, whole in s.mnist().items():
            (folder / file).write_bytes(whole)
        (folder / IMAGES).unlink()
        (folder / name).write_bytes(content)
        return folder / name

    return make


def mnist_pipe(folder: pathlib.Path) -> pathlib.Path:
    """A folder of MNIST with a pipe."""
    path = mnist(b'')(folder)
    path.unlink()
    return pipe(folder, IMAGES)


def changed(data: bytes, place: int) -> bytes:
    """With one bit changed."""
    result = bytearray(data)
    result[place] ^= 16
    return bytes(result)


PACKED = s.mnist()[IMAGES]
TWENTY = s.idx(np.zeros((20, 28, 28)))

MNIST = [
    Row('lines of 784', 'mnist', mnist(gzip.compress(s.idx(np.zeros((20, 784, 1))))), 'its header says (20, 784, 1), MNIST has 28 x 28'),
    Row('32 x 32', 'mnist', mnist(gzip.compress(s.idx(np.zeros((20, 32, 32))))), 'MNIST has 28 x 28'),
    Row('4 GB in 4 MB', 'mnist', mnist(gzip.compress(TWENTY + bytes(1 << 26))), 'more bytes, but its header says'),
    Row('header of 2**42', 'mnist', mnist(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack('>3I', 2**32 - 1, 28, 28))), 'more than 268,435,456 bytes'),
    Row('header of 300,000', 'mnist', mnist(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack('>3I', 300_000, 28, 28))), '0 bytes, but its header says'),
    Row('gzip cut off', 'mnist', mnist(PACKED[:-20]), 'not a complete gzip file'),
    Row('gzip header alone', 'mnist', mnist(PACKED[:5]), 'not a complete gzip file'),
    Row('gzip with another checksum', 'mnist', mnist(changed(PACKED, -6)), 'not a complete gzip file'),
    Row('deflate damaged', 'mnist', mnist(changed(PACKED, 12)), 'not a complete gzip file'),
    Row('rubbish behind', 'mnist', mnist(PACKED + b'rubbish'), 'not a complete gzip file'),
    Row('two files in one', 'mnist', mnist(PACKED + PACKED), 'more bytes, but its header says'),
    Row('no gzip', 'mnist', mnist(TWENTY), 'not a complete gzip file'),
    Row('empty', 'mnist', mnist(b''), 'not an idx file of 3 dimensions'),
    Row('plain, cut off', 'mnist', mnist(TWENTY[:-1], IMAGES[:-3]), '15,679 bytes, but its header says'),
    Row('plain, too long', 'mnist', mnist(TWENTY + b'x', IMAGES[:-3]), 'more bytes, but its header says'),
    Row('plain, of floats', 'mnist', mnist(changed(TWENTY, 2), IMAGES[:-3]), 'not an idx file'),
    Row('text', 'mnist', mnist(gzip.compress(b'hello, this is text')), 'not an idx file'),
    Row('fewer than labels', 'mnist', mnist(gzip.compress(s.idx(np.zeros((19, 28, 28))))), '19 train images but 20 labels'),
    Row('none at all', 'mnist', mnist(gzip.compress(s.idx(np.zeros((0, 28, 28))))), '0 train images but 20 labels'),
    Row('pipe', 'mnist', mnist_pipe, 'a pipe, not a file'),
]  # fmt: skip


# ---- ImageNet's archives

INNER = s.tar({f'n01440764_{n}.JPEG': bytes([65 + n]) * 700 for n in range(3)})


def header(data: bytes, place: int, content: bytes, right: bool = True) -> bytes:
    """With other bytes in the first header, whose sum is made right."""
    result = bytearray(data)
    result[place : place + len(content)] = content
    if right:
        result[148:156] = b' ' * 8
        result[148:156] = b'%06o\0 ' % sum(result[:512])
    return bytes(result)


def outer(inner: bytes) -> bytes:
    """The training set with this archive of a class."""
    return s.tar({'n01440764.tar': inner})


def pax(records: bytes) -> bytes:
    """An archive whose first member has these pax records."""
    whole = s.tar({'x': records})
    return header(whole, 156, b'x').rstrip(b'\0').ljust(1024, b'\0') + INNER


def negative(size: int) -> bytes:
    """A size of a header below zero, in base 256."""
    return size.to_bytes(12, 'big', signed=True)


SECOND = 1536  # where the second of INNER's headers is

ARCHIVES = [
    Row('inner header with a changed bit', 'archive', outer(changed(INNER, SECOND + 3)), 'n01440764.tar is truncated or damaged'),
    Row('inner archive cut after a picture', 'archive', outer(INNER[:SECOND]), 'n01440764.tar is truncated or damaged'),
    Row('inner archive cut in a picture', 'archive', outer(INNER[:SECOND + 700]), 'in the middle of n01440764_1.JPEG'),
    Row('inner archive without its end', 'archive', outer(INNER[:3 * SECOND]), 'it has no end'),
    Row('two inner archives in one', 'archive', outer(INNER + INNER), 'something follows its end'),
    Row('inner size below zero', 'archive', outer(header(INNER, 124, negative(-512))), 'n01440764.tar is not a tar file'),
    Row('size below zero', 'archive', header(outer(INNER), 124, negative(-512)), 'is not a tar file'),
    Row('size of 2**80', 'archive', header(outer(INNER), 124, b'\x80' + (1 << 80).to_bytes(11, 'big')), 'ends in the middle of'),
    Row('size that is no number', 'archive', header(outer(INNER), 124, b'0000000x000\0'), 'is not a tar file'),
    Row('another sum', 'archive', header(outer(INNER), 0, b'm', right=False), 'is not a tar file'),
    Row('pax size below zero', 'archive', outer(pax(b'13 size=-512\n')), 'a member of size -512'),
    Row('pax size of a sentence', 'archive', outer(pax(b'12 size=big\n')), 'a member of size big'),
    Row('pax length of none', 'archive', outer(pax(b'size=3\n')), 'a damaged extended header'),
    Row('sparse', 'archive', outer(pax(b'22 GNU.sparse.major=1\n')), 'asks for GNU.sparse.major'),
    Row('sparse, of GNU', 'archive', outer(header(INNER, 156, b'S')), 'is not a plain file'),
    Row('extended header of 4 GiB', 'archive', outer(header(header(INNER, 124, b'37777777777\0'), 156, b'x')), 'an extended header of 4,294,967,295 bytes'),
    Row('name with an escape', 'archive', outer(s.tar({'n01440764_1\x1b[2J.JPEG': b'x'})), r'unexpected member n01440764_1\x1b[2J.JPEG'),
    Row('name of 60,000 letters', 'archive', outer(s.tar({'x' * 60_000: b'x'}, tarfile.GNU_FORMAT)), '(60,000 characters)'),
    Row('name that leaves the folder', 'archive', outer(s.tar({'../../x.JPEG': b'x'})), 'would leave its folder'),
    Row('link', 'archive', outer(header(INNER, 156, b'2')), 'is not a plain file'),
    Row('a picture twice', 'archive', outer(INNER[:SECOND] + INNER), 'unexpected member n01440764_0.JPEG'),
    Row('no picture', 'archive', outer(s.tar({})), 'no picture inside'),
    Row('gzipped', 'archive', gzip.compress(outer(INNER)), 'is not a tar file'),
    Row('web page', 'archive', b'<html>please register</html>', 'is not a tar file'),
    Row('pipe', 'archive', functools.partial(pipe, name='ILSVRC2012_img_train.tar'), 'is missing'),
]  # fmt: skip

ROWS = WEIGHTS + PICTURES + MNIST + ARCHIVES
