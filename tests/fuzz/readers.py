"""Every reader of foreign files with whole files to damage, and what it must make of them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np

from cnn_arch.data import decode
from tests import samples
from tests.fuzz import mutation


@dataclasses.dataclass(frozen=True)
class Reader:
    """`read` takes a file and returns a digest of all that it held, or raises UserError.

    `repair` makes the checksums of a damaged file right again. Where `sealed`, checksums cover all
    that `read` digests: a changed byte is noticed, or changes nothing.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[pathlib.Path], str]
    repair: Callable[[bytes], bytes] | None = None
    sealed: bool = False


def _weights(path: pathlib.Path) -> str:
    """Names, shapes and numbers of all tensors, by the reader that the content asks for."""
    from cnn_arch.weights import caffe, kinds, safetensors_file, torch_pickle

    read = {
        '.pth': torch_pickle.read, '.caffemodel': caffe.read,
        '.safetensors': safetensors_file.read, '.h5': _keras,
    }  # fmt: skip
    file = read[kinds.kind_of(path)](path)
    digest = hashlib.sha256()
    for name, tensor in sorted(file.tensors.items()):
        array = tensor.read()
        assert array.shape == tensor.shape
        digest.update(f'{name} {array.shape} {array.dtype}'.encode('utf-8', 'replace'))
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keras(path: pathlib.Path) -> object:
    """keras_h5.read, with its process forked from this one, which is a hundred times faster."""
    import mmap
    import os
    import resource
    import time

    from cnn_arch.weights import h5_child, keras_h5

    def copied(path: pathlib.Path) -> mmap.mmap:
        out = path.with_name('copy')
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with out.open('w+b') as file:
                h5_child.convert(str(path), file)
            os._exit(0)
        started = time.monotonic()
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - started > 20:
                os.kill(child, 9)
            time.sleep(0.0005)
        if os.WIFSIGNALED(status):
            raise keras_h5.Refused(f'the HDF5 library fails on it: {os.WTERMSIG(status)}')
        with out.open('rb') as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    keras_h5._copied = copied
    return keras_h5.read(path)


def _picture(path: pathlib.Path) -> str:
    """The whole picture, and a crop of it as training takes it."""
    encoded = path.read_bytes()
    height, width = decode.image_size(encoded)
    pixels = decode.decode(encoded)
    assert pixels.shape == (height, width, 3)
    resized = decode.isotropic_size(height, width, 32)
    ratio = height / resized[0], width / resized[1]
    crop = (min(resized[0], 32), min(resized[1], 32))
    part = decode.crop_and_resize(encoded, (0, 0, crop[0] * ratio[0], crop[1] * ratio[1]), crop)
    assert part.shape == (*crop, 3)
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _idx(path: pathlib.Path) -> str:
    from cnn_arch.data import sources

    packed = path.read_bytes()[:2] == b'\x1f\x8b'
    name = path.rename(path.with_name('images.gz' if packed else 'images'))
    try:
        array = sources._idx(path.parent, 'images', (28, 28))
    finally:
        name.unlink()
    return hashlib.sha256(array.tobytes()).hexdigest()


def _archive(path: pathlib.Path) -> str:
    """Classes, pictures and bytes; Python's tarfile must find the same members."""
    import tarfile

    from cnn_arch.data.preparation import ilsvrc

    contents = ilsvrc.scan('train', path)
    with tarfile.open(path) as archive:
        names = [member.name for member in archive]
    assert sorted(f'{wnid}.tar' for wnid in contents.classes) == sorted(names)
    return f'{sorted(contents.classes.items())} {contents.bytes}'


def _planted(path: pathlib.Path) -> str:
    """A reader with a fault, for the fuzzer's own test."""
    import os
    import signal

    if path.read_bytes() == b'whole file':
        return ''
    fault = os.environ['CNN_ARCH_FUZZ_FAULT']
    if fault == 'hang':
        signal.alarm(1)
        while True:
            pass
    if fault == 'crash':
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == 'memory':
        bytearray(2 << 30)
    raise KeyError('not the one line')


TENSORS = {
    'conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    'bn1.running_var': np.ones(2, np.float32),
    'fc.weight': np.ones((5, 2), np.float32),
}


def _torch_zip() -> list[bytes]:
    shared = samples.dictionary(
        {
            'a': samples.tensor('0', 24, 2, (3, 2), (4, 1)),
            'b': samples.tensor('0', 24, 0, (4,), (6,)),
        }
    )
    storage = np.arange(24, dtype='<f4').tobytes()
    return [
        samples.torch_file(TENSORS),
        samples.torch_file(TENSORS, 'state_dict'),
        samples.torch_zip(shared, [storage]),
    ]


def _torch_stream() -> list[bytes]:
    storages = [array.tobytes() for array in TENSORS.values()]
    return [samples.torch_stream(samples.state(TENSORS, old=True), storages)]


def _safetensors() -> list[bytes]:
    half = np.ones(4, '<f2').tobytes()
    return [
        samples.safetensors_of(TENSORS),
        samples.safetensors_file(
            {'a': ('F16', (2, 2), (0, 8)), 'b': ('BF16', (4,), (8, 16))}, half * 2
        ),
    ]


def _caffe() -> list[bytes]:
    blobs = [samples.caffe_blob(array) for array in TENSORS.values()]
    new = samples.caffe_file({'conv1': blobs[:2], 'fc': blobs[2:]})
    old = b''.join(
        samples.field(2, samples.field(4, name) + samples.field(6, blob))
        for name, blob in ((b'conv1', blobs[0]), (b'fc', blobs[2]))
    )
    return [new, samples.field(1, b'old') + old]


def _jpegs() -> list[bytes]:
    return [
        samples.picture(),
        samples.picture(mode='L'),
        samples.picture(progressive=True, quality=90),
        samples.picture(mode='CMYK'),
        samples.picture(size=(48, 40), restart_marker_blocks=1),
    ]


def _pngs() -> list[bytes]:
    return [samples.picture('PNG', mode) for mode in ('RGB', 'RGBA', 'L', 'P', '1', 'I;16')]


def _others() -> list[bytes]:
    kinds = [('BMP', 'RGB'), ('BMP', 'P'), ('GIF', 'P'), ('PPM', 'RGB'), ('TIFF', 'RGB'),
             ('TIFF', 'CMYK'), ('WEBP', 'RGB'), ('WEBP', 'RGBA')]  # fmt: skip
    return [samples.picture(kind, mode) for kind, mode in kinds] + [
        samples.picture('TIFF', compression='tiff_lzw'),
        samples.picture('TIFF', compression='jpeg'),
    ]


def _tars() -> list[bytes]:
    import tarfile

    inner = samples.tar({'n01440764_1.JPEG': b'x' * 600}, tarfile.PAX_FORMAT)
    return [samples.training_archive(), samples.tar({'n01440764.tar': inner}, tarfile.GNU_FORMAT)]


READERS = {
    'torch_zip': Reader(_torch_zip, _weights, mutation.repair_zip, sealed=True),
    'torch_stream': Reader(_torch_stream, _weights),
    'safetensors': Reader(_safetensors, _weights, mutation.repair_safetensors),
    'caffe': Reader(_caffe, _weights),
    'hdf5': Reader(lambda: [samples.keras_file()], _weights, mutation.repair_hdf5),
    'jpeg': Reader(_jpegs, _picture),
    'png': Reader(_pngs, _picture, mutation.repair_png, sealed=True),
    'other_pictures': Reader(_others, _picture),
    'idx': Reader(lambda: [samples.idx(np.zeros((3, 28, 28)))], _idx),
    'gzip': Reader(lambda: [samples.mnist(3)['train-images-idx3-ubyte.gz']], _idx, sealed=True),
    'tar': Reader(_tars, _archive, mutation.repair_tar, sealed=True),
}

# Not one of the project's.
PLANTED = Reader(lambda: [b'whole file'], _planted)
