"""Weights of torchvision and timm as .pth, read without PyTorch and without running anything.

A .pth file is a pickle: a program that builds objects and may call whatever it names. Here the
program is interpreted by hand. It can build numbers, strings, tuples, lists and dictionaries; of
what it can name, only an OrderedDict, a tensor's storage and the functions that put a tensor over a
storage are known, and they are understood, not called. Everything else is refused.

Two containers: a zip archive with `data.pkl` and one member per storage (PyTorch 1.6 and later),
and the older stream of pickles followed by the storages (most of torchvision's files of 2016-2019).

Bounds, each checked before memory is taken: a pickle of 16 MiB and 2**20 instructions (some
seconds), a directory of the archive of 16 MiB, numbers of 16 bytes, tensors of 8 dimensions. A
tensor never reaches beyond the bytes that were read of its storage, so no more is held than the
file has.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np

from cnn_arch import files
from cnn_arch.errors import shown
from cnn_arch.files import Refused
from cnn_arch.weights.tensors import Tensor, WeightFile

STORAGES = {
    'DoubleStorage': np.dtype('<f8'),
    'FloatStorage': np.dtype('<f4'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}
DICTIONARY = 'collections OrderedDict'
TENSOR = 'torch._utils _rebuild_tensor_v2'
OLD_TENSOR = 'torch._utils _rebuild_tensor'
PARAMETER = 'torch._utils _rebuild_parameter'
KNOWN = {DICTIONARY, TENSOR, OLD_TENSOR, PARAMETER} | {f'torch {name}' for name in STORAGES}

# Where programs that train keep the state dictionary, beside what else they save. Of a file that
# has several the first is taken.
WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'net', 'network', 'weights', 'params',
            'state_dict_ema', 'model_ema', 'ema')  # fmt: skip
EXPORT = (
    'only dictionaries of tensors are read: if you trust the file, open it with PyTorch and '
    "torch.save(model.state_dict(), 'weights.pth')"
)
WHAT = 'file of PyTorch tensors'

# Far above what a network of a thousand tensors needs, which is some 1e5 of either.
LARGEST_PICKLE = 1 << 24  # bytes; of an archive's directory too
MOST_INSTRUCTIONS = 1 << 20
LARGEST_KEY = 1 << 60  # below it no two numbers have one hash
LARGEST_NUMBER = 1 << 48
LONGEST_NUMBER = 16  # bytes
MOST_DIMENSIONS = 8
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older container
VERSION = 1001  # its second


@dataclasses.dataclass(frozen=True)
class Global:
    """Something that the pickle names; never looked up."""

    name: str  # 'module name'


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: an array laid over a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: pathlib.Path) -> WeightFile:
    """Names and shapes of a file; raises UserError where it is cut off, or would run code."""
    with files.open_regular(path) as file, files.reading(path, WHAT):
        is_zip = file.read(2) == b'PK'
        file.seek(0)
        return (_read_zip if is_zip else _read_stream)(path, file)


# ---- containers


def _read_zip(path: pathlib.Path, file: BinaryIO) -> WeightFile:
    with open_zip(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if re.fullmatch(r'[^/]+/data\.pkl', name)]
        if len(pickles) != 1 or len(archive.infolist()) != len(members):
            raise Refused('a zip archive without one data.pkl, or with two members of one name')
        prefix = pickles[0].removesuffix('data.pkl')
        if f'{prefix}constants.pkl' in members:
            raise Refused(
                'it is TorchScript, a program: if you trust it, open it with PyTorch and '
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        end = archive.start_dir
        for info in members.values():
            _check_member(info, end)
        if members[pickles[0]].file_size > LARGEST_PICKLE:
            raise Refused('its pickle is too large')
        order = members.get(f'{prefix}byteorder')
        if order and (order.file_size > 16 or archive.read(order) != b'little'):
            raise Refused('its numbers are not little-endian')
        value = interpret(io.BytesIO(archive.read(pickles[0])))

    def reader(storage: Storage) -> np.ndarray:
        with files.open_regular(path) as file, open_zip(file) as archive:
            info = archive.getinfo(f'{prefix}data/{storage.key}')
            _check_member(info, archive.start_dir)
            content = archive.read(info)  # compares the checksum
        if len(content) % storage.dtype.itemsize:
            raise Refused(f'storage {storage.key} ends within a number')
        return np.frombuffer(content, storage.dtype)

    def check(storage: Storage) -> None:
        info = members.get(f'{prefix}data/{storage.key}')
        needed = storage.count * storage.dtype.itemsize
        if info is None or info.file_size < needed:
            raise Refused(f'storage {storage.key} of {needed} bytes is not there')

    return _weight_file(path, value, check, reader)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive, if its directory is not larger than it may be. Raises Refused, BadZipFile."""
    return zipfile.ZipFile(cast(BinaryIO, _Pieces(file)))


class _Pieces:
    """A file for zipfile, which reads an archive's directory in one piece however large it is."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_PICKLE:
            raise Refused(f'{size:,} bytes in one piece')
        return self._file.read(size if size >= 0 else LARGEST_PICKLE)


def _check_member(info: zipfile.ZipInfo, end: int) -> None:
    """PyTorch stores, so that a member's size is that of its bytes, which lie before `end`."""
    name = shown(info.filename)
    if info.flag_bits & 1:
        raise Refused(f'{name} is encrypted')
    if info.compress_type != zipfile.ZIP_STORED:
        raise Refused(f'{name} is compressed')
    if info.file_size != info.compress_size or info.header_offset + info.file_size > end:
        raise Refused(f'{name} claims {info.file_size:,} bytes, which are not there')


def _read_stream(path: pathlib.Path, file: BinaryIO) -> WeightFile:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if interpret(file) != MAGIC or interpret(file) != VERSION:
        raise Refused(f'it begins as no file of torch.save does; {EXPORT}')
    system = interpret(file)
    if not isinstance(system, dict) or system.get('little_endian') is not True:
        raise Refused('its numbers are not little-endian')
    value = interpret(file)
    keys = interpret(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused('its list of storages is none')
    storages: dict[str, Storage] = {}
    for storage in _storages(value):
        if storages.setdefault(storage.key, storage) != storage:
            raise Refused(f'storage {shown(storage.key)} has two types or sizes')
    places: dict[str, int] = {}
    for key in keys:
        (count,) = struct.unpack('<q', file.read(8))
        if key not in storages or key in places:
            raise Refused(f'storage {shown(key)} belongs to no tensor, or is there twice')
        storage = storages[key]
        if count != storage.count:
            raise Refused(f'storage {shown(key)} has {count} elements, not {storage.count}')
        places[key] = file.tell()
        end = places[key] + count * storage.dtype.itemsize
        if end > size:
            raise Refused(f'{end - size} bytes are missing at its end')
        file.seek(end)

    def reader(storage: Storage) -> np.ndarray:
        with files.open_regular(path) as file:
            file.seek(places[storage.key])
            size = storage.count * storage.dtype.itemsize
            content = file.read(size)
        if len(content) != size:
            raise Refused(f'storage {shown(storage.key)} is cut off')
        return np.frombuffer(content, storage.dtype)

    def check(storage: Storage) -> None:
        if storage.key not in places:
            raise Refused(f'storage {shown(storage.key)} is not there')

    return _weight_file(path, value, check, reader)


def _storages(value: Any) -> list[Storage]:
    """Those of all tensors, wherever they stand: an optimiser's too, which nobody reads."""
    found, seen, waiting = [], {id(value)}, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, View):
            found.append(item.storage)
            continue
        if isinstance(item, dict):
            below = list(item.values())
        elif isinstance(item, list | tuple):
            below = list(item)
        else:
            continue
        for part in below:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return found


def _views(value: Any) -> tuple[dict[str, View], tuple[str, ...]]:
    """The state dictionary, and what is to be said about where it stood."""
    if not isinstance(value, dict) or not value:
        raise Refused(f'it holds no dictionary of tensors; {EXPORT}')
    if _is_state(value):
        return value, ()
    inside = [name for name in WRAPPERS if _is_state(value.get(name))]
    if not inside:
        inner = next((value[name] for name in WRAPPERS if isinstance(value.get(name), dict)), value)
        name = next((n for n, v in inner.items() if not isinstance(v, View)), '')
        raise Refused(f'{shown(name)!r} is no tensor, and no dictionary of tensors stands there')
    taken, *others = inside
    left = f'; {", ".join(others)}, which it holds too, left out' if others else ''
    return value[taken], (f'taken from {taken!r} of the file{left}',)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(view, View) for name, view in value.items())
    )


def _weight_file(
    path: pathlib.Path,
    value: Any,
    check: Callable[[Storage], None],
    read_storage: Callable[[Storage], np.ndarray],
) -> WeightFile:
    def reader(view: View) -> Callable[[], np.ndarray]:
        def read_array() -> np.ndarray:
            with files.reading(path, WHAT):
                return _laid_over(read_storage(view.storage), view)

        return read_array

    tensors = {}
    views, notes = _views(value)
    for name, view in views.items():
        check(view.storage)
        tensors[name] = Tensor(view.shape, reader(view))
    return WeightFile(path, 'torch', '', tensors, notes)


def _laid_over(numbers: np.ndarray, view: View) -> np.ndarray:
    """The tensor, over the numbers [N] that are really there."""
    _check_view(view.offset, view.shape, view.strides, numbers.size, view.storage.key)
    if math.prod(view.shape) == 0:
        return np.zeros(view.shape, numbers.dtype)
    strides = tuple(stride * numbers.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(
        numbers[view.offset :], view.shape, strides, writeable=False
    )


# ---- the pickle


class _Bounded:
    """A pickle's bytes in a larger file: asking for more than the bound is refused, not tried."""

    def __init__(self, file: BinaryIO):
        self._file, self._left = file, LARGEST_PICKLE

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise Refused(f'a broken pickle: {size:,} bytes in one piece')
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise Refused('its pickle is too large')
        return line


def interpret(file: BinaryIO) -> Any:
    """The value of one pickle. Raises Refused for anything but plain data and tensors.

    Each instruction adds at most its own bytes and one reference per value that it takes, so that
    memory is bounded by the number of instructions.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[Any, Any] = {}

    def pop_mark() -> list[Any]:
        if not marks or marks[-1] > len(stack):
            raise Refused('a broken pickle')
        values = stack[marks[-1] :]
        del stack[marks.pop() :]
        return values

    bounded = cast(BinaryIO, _Bounded(file))
    start = file.tell()
    if file.read(1) != b'\x80':  # PROTO, which torch.save writes first
        raise Refused('no pickle')
    file.seek(start)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
            name = opcode.name
            if count > MOST_INSTRUCTIONS:
                raise Refused('its pickle is too large')
            if name in ('PROTO', 'FRAME'):
                pass
            elif name == 'STOP':
                return stack.pop()
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            elif name in LITERALS:
                if isinstance(argument, int) and argument.bit_length() > 8 * LONGEST_NUMBER:
                    raise Refused('a number of more than 16 bytes')
                stack.append(argument)
            elif name == 'MARK':
                marks.append(len(stack))
            elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
                memo[_key(argument)] = stack[-1]
            elif name == 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET', 'GET'):
                stack.append(memo[argument])
            elif name == 'TUPLE':
                stack.append(tuple(pop_mark()))
            elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
                length = int(name[-1])
                if len(stack) < length:
                    raise Refused('a broken pickle')
                stack[-length:] = [tuple(stack[-length:])]
            elif name == 'APPEND':
                item = stack.pop()
                _list(stack[-1]).append(item)
            elif name == 'APPENDS':
                items = pop_mark()
                _list(stack[-1]).extend(items)
            elif name == 'SETITEM':
                item, key = stack.pop(), stack.pop()
                _dictionary(stack[-1])[_key(key)] = item
            elif name == 'SETITEMS':
                items = pop_mark()
                for key, item in zip(items[::2], items[1::2], strict=True):
                    _dictionary(stack[-1])[_key(key)] = item
            elif name in ('GLOBAL', 'STACK_GLOBAL'):
                if name == 'STACK_GLOBAL':
                    attribute, module = stack.pop(), stack.pop()
                    if not isinstance(module, str) or not isinstance(attribute, str):
                        raise Refused('a broken pickle: a name that is no text')
                    argument = f'{module} {attribute}'
                if argument not in KNOWN:
                    asked = shown(argument)
                    raise Refused(f"it asks for '{asked}', which no tensor needs; {EXPORT}")
                stack.append(Global(argument))
            elif name == 'BINPERSID':
                stack.append(_storage(stack.pop()))
            elif name == 'REDUCE':
                arguments, function = stack.pop(), stack.pop()
                stack.append(_understand(function, arguments))
            elif name == 'BUILD':
                stack.pop()  # attributes of the dictionary: versions of modules
                _dictionary(stack[-1])
            elif name in ('POP', 'POP_MARK'):
                raise Refused(f'an instruction that torch.save does not write, {name}')
            else:
                raise Refused(f'an instruction that tensors do not need, {name}')
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise Refused(f'a broken pickle: {files.reason(error)}') from error
    raise Refused('a pickle without an end')


CONSTANTS: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
}
LITERALS = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'INT', 'LONG', 'BINFLOAT',
            'BINUNICODE', 'SHORT_BINUNICODE', 'UNICODE', 'SHORT_BINSTRING', 'BINSTRING',
            'SHORT_BINBYTES', 'BINBYTES'}  # fmt: skip


def _list(value: Any) -> list:
    if type(value) is not list:
        raise Refused('a broken pickle: no list')
    return value


def _dictionary(value: Any) -> dict:
    if type(value) not in (dict, collections.OrderedDict):
        raise Refused('a broken pickle: no dictionary')
    return value


def _key(key: Any) -> Any:
    if not isinstance(key, str | int) or (isinstance(key, int) and not 0 <= key < LARGEST_KEY):
        raise Refused('a broken pickle: a key that is no name')
    return key


def _storage(identifier: Any) -> Storage:
    """('storage', type, key, device, elements), in older files with a view of it at the end."""
    match identifier:
        case ('storage', Global(name), str(key), str(), int(count), *rest) if rest in ([], [None]):
            dtype = STORAGES.get(name.removeprefix('torch '))
            if dtype is not None and re.fullmatch(r'\w+', key) and 0 <= count < LARGEST_NUMBER:
                return Storage(key, dtype, count)
    raise Refused('a storage that is none')


def _understand(function: Any, arguments: Any) -> Any:
    """What a call would give, of the few that are known."""
    match function, arguments:
        case Global(name), () if name == DICTIONARY:
            return collections.OrderedDict()
        case Global(name), (View() as view, *_) if name == PARAMETER:
            return view
        case Global(name), (
            Storage() as storage,
            int(offset),
            tuple(shape),
            tuple(strides),
            *_,
        ) if name in (TENSOR, OLD_TENSOR):
            return _view(storage, offset, shape, strides)
    raise Refused('a call that no tensor needs')


def _view(storage: Storage, offset: int, shape: tuple, strides: tuple) -> View:
    _check_view(offset, shape, strides, storage.count, storage.key)
    return View(storage, offset, shape, strides)


def _check_view(offset: int, shape: tuple, strides: tuple, count: int, key: str) -> None:
    """Refuses a view that reaches beyond `count` elements; in integers that do not overflow."""
    if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise Refused('a tensor of impossible shape')
    if any(
        type(size) is not int or not 0 <= size < LARGEST_NUMBER
        for size in (*shape, *strides, offset)
    ):
        raise Refused('a tensor of impossible shape')
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A stride of 0 would make a large array of little; no weight has one.
    if math.prod(shape) > count or (math.prod(shape) and last >= count):
        raise Refused(f'a tensor that is larger than storage {shown(key)}')
