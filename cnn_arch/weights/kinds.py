"""What kind of weight file something is: told by its first bytes, since endings say little.

The same state dictionary is called .pth, .pt, .th, .pth.tar, .bin or .ckpt, and what was downloaded
under the name of weights may be a web page.
"""

import pathlib
import struct
import zipfile

from cnn_arch import files
from cnn_arch.errors import UserError, shown
from cnn_arch.weights import torch_pickle

KINDS = ('.h5', '.safetensors', '.pth', '.caffemodel')
LOOKED_AT = 1 << 12  # bytes
HDF5 = b'\x89HDF\r\n\x1a\n'
TABLE_END = bytes.fromhex('57fb808b247547db')  # of TensorFlow's checkpoints, LevelDB's tables
# First bytes of what is no weight file, and what to do about it.
OTHERS = {
    b'version https://git-lfs': 'a pointer of Git LFS, not the file: fetch that (git lfs pull)',
    b'\x1f\x8b': 'packed with gzip: unpack it first (gunzip, or tar -xzf)',
    b'BZh': 'packed with bzip2: unpack it first',
    b'\xfd7zXZ': 'packed with xz: unpack it first',
    b'\x93NUMPY': 'an array of NumPy, which has no names: store a dictionary as .safetensors',
}  # fmt: skip
PAGES = (b'<!doctype', b'<html', b'<head', b'<?xml', b'<body')
SLIM = (
    'a checkpoint of TensorFlow (TF-Slim and the like), which is not read: its variables have '
    'other names, and its classes often a background class before the 1,000; for the same networks '
    'python -m cnn_arch.weights --list prints weights that are read'
)
KERAS_ZIP = (
    'a .keras archive: open it in Keras and store it as HDF5, '
    "keras.models.load_model(FILE).save('weights.h5')"
)


def kind_of(path: pathlib.Path) -> str:
    """One of KINDS. Raises UserError, which says what it is, where it is none of them."""
    with files.open_regular(path) as file:
        start = file.read(LOOKED_AT)
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if not start:
        raise UserError(f'{path}: empty, not a complete weight file')
    for first, what in OTHERS.items():
        if start.startswith(first):
            raise UserError(f'{path}: {what}')
    if start.removeprefix(b'\xef\xbb\xbf').lstrip().lower().startswith(PAGES):
        raise UserError(f'{path}: a web page, not weights: the download went wrong')
    slim = ('.index', '.meta', '.data-00000-of-00001')
    if end == TABLE_END or path.name.endswith(slim) or path.name == 'checkpoint':
        raise UserError(f'{path}: {SLIM}')
    if start[257:262] == b'ustar':
        raise UserError(
            f'{path}: a tar archive: unpack it, or if it is of PyTorch before 0.2, store it again '
            'with a newer one'
        )
    if any(start[place : place + 8] == HDF5 for place in (0, 512, 1024, 2048)):
        return '.h5'
    if start.startswith(b'PK'):
        return _kind_of_zip(path)
    # The length of a header, which may begin as a pickle does, and the header.
    if len(start) > 8 and start[8:9] == b'{' and struct.unpack('<Q', start[:8])[0] < 1 << 32:
        return '.safetensors'
    if start.startswith(b'\x80'):
        return '.pth'
    text = start.decode('ascii', 'ignore')
    if start.isascii() and all(letter.isprintable() or letter.isspace() for letter in text):
        raise UserError(f"{path}: a text, not weights: it begins '{shown(text[:40])}'")
    # A protocol buffer has no mark of its own: the ending tells, or the field that it begins with.
    if path.suffix == '.caffemodel' or _begins_as_caffe(start):
        return '.caffemodel'
    raise UserError(
        f'{path}: not a complete weight file: weights come as {", ".join(KINDS)}, under any name'
    )


def _kind_of_zip(path: pathlib.Path) -> str:
    """A zip archive is PyTorch's unless it says that it is something else."""
    with files.open_regular(path) as file, files.reading(path, 'zip archive'):
        try:
            with torch_pickle.open_zip(file) as archive:
                names = set(archive.namelist())
        except zipfile.BadZipFile:
            return '.pth'  # cut off; its reader says so
    if {'config.json', 'model.weights.h5'} <= names:
        raise UserError(f'{path}: {KERAS_ZIP}')
    if names and all(name.endswith('.npy') for name in names):
        raise UserError(f'{path}: arrays of NumPy: store them as .safetensors')
    if not any(name.endswith('data.pkl') for name in names):
        raise UserError(
            f'{path}: a zip archive, not a complete weight file: weights come as '
            f'{", ".join(KINDS)}, under any name'
        )
    return '.pth'


def _begins_as_caffe(start: bytes) -> bool:
    """The name of the network, as text, and then another field of it."""
    if start[0] != 0x0A or len(start) < 3:
        return False
    length = start[1]
    name, rest = start[2 : 2 + length], start[2 + length : 4 + length]
    fields = (b'\x12', b'\x1a', b'\x22', b'\x28', b'\xa2\x06')
    return length < 128 and name.isascii() and rest.startswith(fields)
