"""Random damage to a file's bytes, and checksums made right again so that it goes unnoticed."""

import random
import re
import struct
import zlib

# Where sizes and counts go wrong.
INTERESTING = [0, 1, 2, 127, 128, 255, 256, 512, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF,
               1 << 32, (1 << 40) + 1, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 512]  # fmt: skip


def mutate(data: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    """One to four changes."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not result:
            break
        rng.choice(CHANGES)(result, seeds, rng)
    return bytes(result)


def one_byte(data: bytes, rng: random.Random) -> bytes:
    """One byte with another value, which no checksum of the file's formats overlooks."""
    result = bytearray(data)
    result[rng.randrange(len(result))] ^= rng.randrange(1, 256)
    return bytes(result)


def _flip(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _integer(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTERESTING) % (1 << 8 * size)
    place = rng.randrange(len(data))
    data[place : place + size] = value.to_bytes(size, rng.choice(('little', 'big')))


def _cut(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _drop(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 4, 16, 512))]


def _repeat(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    place, size = rng.randrange(len(data)), rng.choice((1, 8, 64, 512, 4096))
    data[place:place] = bytes(data[place : place + size]) * rng.choice((1, 1, 3, 50))


def _noise(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    place, size = rng.randrange(len(data)), rng.choice((2, 8, 32))
    data[place : place + size] = rng.randbytes(size)


def _splice(data: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    other = rng.choice(seeds)
    place, source = rng.randrange(len(data)), rng.randrange(len(other))
    size = rng.choice((4, 32, 512))
    data[place : place + size] = other[source : source + size]


CHANGES = [_flip, _flip, _set, _integer, _integer, _cut, _drop, _repeat, _noise, _splice]


# ---- checksums


def repair_zip(data: bytes) -> bytes:
    """CRC-32 of each member of the central directory, where its bytes can be found."""
    result = bytearray(data)
    for found in re.finditer(re.escape(b'PK\x01\x02'), data):
        place = found.start()
        if place + 46 > len(data):
            continue
        (size,) = struct.unpack_from('<I', data, place + 20)
        (local,) = struct.unpack_from('<I', data, place + 42)
        if local + 30 > len(data):
            continue
        name, extra = struct.unpack_from('<HH', data, local + 26)
        start = local + 30 + name + extra
        crc = zlib.crc32(data[start : start + size])
        struct.pack_into('<I', result, place + 16, crc)
        struct.pack_into('<I', result, local + 14, crc)
    return bytes(result)


def repair_png(data: bytes) -> bytes:
    """CRC-32 of each chunk."""
    result, place = bytearray(data), 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from('>I', data, place)
        if place + 12 + size > len(data):
            break
        crc = zlib.crc32(data[place + 4 : place + 8 + size])
        struct.pack_into('>I', result, place + 8 + size, crc)
        place += 12 + size
    return bytes(result)


def repair_tar(data: bytes) -> bytes:
    """The sum of each block that has the mark of a header; archives within lie on blocks too."""
    result = bytearray(data)
    for place in range(0, len(data) - 511, 512):
        if data[place + 257 : place + 262] == b'ustar':
            header = data[place : place + 148] + b' ' * 8 + data[place + 156 : place + 512]
            result[place + 148 : place + 156] = b'%06o\0 ' % sum(header)
    return bytes(result)


def repair_safetensors(data: bytes) -> bytes:
    """The header's length, where its end can be found."""
    end = data.rfind(b'}}') + 2
    return struct.pack('<Q', end - 8) + data[8:] if end > 8 else data


def repair_hdf5(data: bytes) -> bytes:
    """Addresses of the end of the file; old headers, which Keras writes, have no checksums."""
    result = bytearray(data)
    if len(data) > 48:
        struct.pack_into('<Q', result, 40, len(data))
    return bytes(result)
