"""Weights of torchvision and timm as .pth, read without PyTorch and without running anything.

A .pth file is a pickle: a program that builds objects and may call whatever it names. Here the
program is interpreted by hand. It can build numbers, strings, tuples, lists and dictionaries; of
what it can name, only an OrderedDict, a tensor's storage and the functions that put a tensor over a
storage are known, and they are understood, not called. Everything else is refused.

Two containers: a zip archive with `data.pkl` and one member per storage (PyTorch 1.6 and later),
and the older stream of pickles followed by the storages (most of torchvision's files of 2016-2019).
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
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from cnn_arch.errors import UserError
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

# Far above what a network of a thousand tensors needs, which is some 1e5 of either.
LARGEST_PICKLE = 1 << 24  # bytes
MOST_INSTRUCTIONS = 1 << 20
LARGEST_NUMBER = 1 << 48
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older container
VERSION = 1001  # its second


class Refused(Exception):
    """The pickle is broken, or asks for what is not needed to describe tensors."""


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
    try:
        with path.open('rb') as file:
            is_zip = file.read(2) == b'PK'
        tensors = _read_zip(path) if is_zip else _read_stream(path)
    except (Refused, OSError, RuntimeError, zipfile.BadZipFile, struct.error) as error:
        raise UserError(f'{path}: not a complete file of PyTorch tensors ({error})') from error
    return WeightFile(path, 'torch', '', tensors)


# ---- containers


def _read_zip(path: pathlib.Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if re.fullmatch(r'[^/]+/data\.pkl', name)]
        if len(pickles) != 1:
            raise Refused('a zip archive without one data.pkl')
        prefix = pickles[0].removesuffix('data.pkl')
        for info in members.values():
            if info.compress_type != zipfile.ZIP_STORED:  # PyTorch stores, so sizes are honest
                raise Refused(f'{info.filename} is compressed')
        if members[pickles[0]].file_size > LARGEST_PICKLE:
            raise Refused('its pickle is too large')
        order = f'{prefix}byteorder'
        if order in members and archive.read(order) != b'little':
            raise Refused('its numbers are not little-endian')
        value = interpret(io.BytesIO(archive.read(pickles[0])))

    def reader(storage: Storage) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            return np.frombuffer(archive.read(f'{prefix}data/{storage.key}'), storage.dtype)

    def check(storage: Storage) -> None:
        info = members.get(f'{prefix}data/{storage.key}')
        needed = storage.count * storage.dtype.itemsize
        if info is None or info.file_size < needed:
            raise Refused(f'storage {storage.key} of {needed} bytes is not there')

    return _tensors(path, value, check, reader)


def _read_stream(path: pathlib.Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open('rb') as file:
        if interpret(file) != MAGIC or interpret(file) != VERSION:
            raise Refused('it begins as no file of torch.save does')
        system = interpret(file)
        if not isinstance(system, dict) or system.get('little_endian') is not True:
            raise Refused('its numbers are not little-endian')
        value = interpret(file)
        keys = interpret(file)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Refused('its list of storages is none')
        storages = {view.storage.key: view.storage for view in _views(value).values()}
        places: dict[str, int] = {}
        for key in keys:
            (count,) = struct.unpack('<q', file.read(8))
            if key not in storages:
                raise Refused(f'storage {key} belongs to no tensor')
            storage = storages[key]
            if count != storage.count:
                raise Refused(f'storage {key} has {count} elements, not {storage.count}')
            places[key] = file.tell()
            file.seek(count * storage.dtype.itemsize, io.SEEK_CUR)
        if file.tell() > size:
            raise Refused(f'{file.tell() - size} bytes are missing at its end')

    def reader(storage: Storage) -> np.ndarray:
        with path.open('rb') as file:
            file.seek(places[storage.key])
            return np.fromfile(file, storage.dtype, storage.count)

    def check(storage: Storage) -> None:
        if storage.key not in places:
            raise Refused(f'storage {storage.key} is not there')

    return _tensors(path, value, check, reader)


def _views(value: Any) -> dict[str, View]:
    """The state dictionary, which may stand under `state_dict` beside what training left."""
    if isinstance(value, dict) and isinstance(value.get('state_dict'), dict):
        value = value['state_dict']
    if not isinstance(value, dict) or not value:
        raise Refused('it holds no dictionary of tensors')
    for name, view in value.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise Refused(f'{name!r} is no tensor')
    return value


def _tensors(
    path: pathlib.Path,
    value: Any,
    check: Callable[[Storage], None],
    read_storage: Callable[[Storage], np.ndarray],
) -> dict[str, Tensor]:
    def reader(view: View) -> Callable[[], np.ndarray]:
        def read_array() -> np.ndarray:
            try:
                flat = read_storage(view.storage)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f'{path}: not readable ({error})') from error
            size = flat.dtype.itemsize
            strides = tuple(stride * size for stride in view.strides)
            return np.lib.stride_tricks.as_strided(
                flat[view.offset :], view.shape, strides, writeable=False
            )

        return read_array

    tensors = {}
    for name, view in _views(value).items():
        check(view.storage)
        tensors[name] = Tensor(view.shape, reader(view))
    return tensors


# ---- the pickle


def interpret(file: BinaryIO) -> Any:
    """The value of one pickle. Raises Refused for anything but plain data and tensors."""
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[Any, Any] = {}

    def pop_mark() -> list[Any]:
        if not marks or marks[-1] > len(stack):
            raise Refused('a broken pickle')
        values = stack[marks[-1] :]
        del stack[marks.pop() :]
        return values

    start = file.tell()
    if file.read(1) != b'\x80':  # PROTO, which torch.save writes first
        raise Refused('no pickle')
    file.seek(start)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
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
                stack.append(argument)
            elif name == 'MARK':
                marks.append(len(stack))
            elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
                memo[argument] = stack[-1]
            elif name == 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET', 'GET'):
                stack.append(memo[argument])
            elif name == 'TUPLE':
                stack.append(tuple(pop_mark()))
            elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
                length = int(name[-1])
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
                    argument = f'{module} {attribute}'
                if argument not in KNOWN:
                    raise Refused(f'it asks for {argument!r}, which no tensor needs')
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
        raise Refused(f'a broken pickle: {error}') from error
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
    if not isinstance(key, str | int):
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
    sizes = (*shape, *strides, offset)
    if len(shape) != len(strides) or len(shape) > 8:
        raise Refused('a tensor of impossible shape')
    if any(type(size) is not int or not 0 <= size < LARGEST_NUMBER for size in sizes):
        raise Refused('a tensor of impossible shape')
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A stride of 0 would make a large array of little; no weight has one.
    if math.prod(shape) > storage.count or (math.prod(shape) and last >= storage.count):
        raise Refused(f'a tensor that is larger than storage {storage.key}')
    return View(storage, offset, shape, strides)
