"""From encoded bytes to the pixels a crop needs: RGB (or grey) uint8, resized with antialiasing.

A picture is taken as it is stored: an EXIF orientation is ignored and an alpha channel dropped, as
in the pipelines that the published networks were trained with.

Of a JPEG only the rows down to the lower edge of the crop are decoded. No decoder on offer as a
Python package can stop there, but each does if the header says that the picture ends there. (Most
of the time goes into the entropy-coded bits, which can be read only from the start. DCT scaling was
tried and left out: at a reduction by two it is 2.4 grey levels away from the antialiased resize.)

Bounds, all but the last checked before anything is decoded: 256 MiB encoded; 2**26 pixels (of WebP
and of CMYK, whose decoders hold more, 2**25) and sides of 65,535, so that a thread holds at most
768 MiB; the scans of a progressive JPEG, 1,000 and 2**30 pixels in all of them, which take as long
as 16 scans of the largest picture; 10,000 markers before its frame; a result of 2**26 pixels.
"""

import io
import zlib

import numpy as np
import simplejpeg
from PIL import Image

from cnn_arch.errors import UserError, shown
from cnn_arch.files import reason

MAX_BYTES = 2**28  # of an encoded picture
# The largest picture of ImageNet has about 60 M. A thread holds up to 12 bytes for each of them.
MAX_PIXELS = 2**26
MAX_SIDE = 2**16 - 1  # pixels, as JPEG has it
MAX_SCANS, MAX_SCANNED = 1000, 2**30  # scans of a progressive JPEG (10 are usual), and their pixels
MAX_MARKERS = 10_000  # before the frame header of a JPEG
MAX_CHUNKS = 2**18  # of a PNG
BAND = 2**18  # pixels that are converted at a time
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP')  # what Pillow may open

Box = tuple[float, float, float, float]  # top, left, height, width in source pixels

_PNG_START = b'\x89PNG\r\n\x1a\n'
_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}


class DecodeError(UserError):
    """The bytes are not a whole picture of a known format. The caller adds the record's key."""


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone. Raises DecodeError."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    if len(image) > MAX_BYTES:
        raise DecodeError(f'{len(image):,} bytes are more than the limit of {MAX_BYTES:,}')
    header = _jpeg_header(image)
    limit = MAX_PIXELS
    if header is None:
        picture = _open(image)
        width, height = picture.size
        if picture.format == 'WEBP' or picture.mode == 'CMYK':
            limit //= 2
        _check_tiles(picture)
    else:
        _, height, width = header
    if height * width > limit:
        raise DecodeError(f'{width} x {height} pixels are more than the limit of {limit:,}')
    if max(height, width) > MAX_SIDE:
        raise DecodeError(f'{width} x {height} pixels: a side is longer than {MAX_SIDE:,}')
    if image[:2] == _JPEG_START:
        _check_scans(image, height * width)
    return height, width


def decode(image: bytes | np.ndarray, channels: int = 3) -> np.ndarray:
    """The whole picture as uint8 [H, W, channels], channels 3 (RGB) or 1 (grey, ITU-R 601 luma).

    Arrays uint8 [H, W] or [H, W, C] pass through with their channels converted. Raises DecodeError.
    """
    if isinstance(image, np.ndarray):
        return _with_channels(image, channels)
    return _upper_rows(image, image_size(image)[0], channels)


def crop_and_resize(
    image: bytes | np.ndarray,
    box: Box,
    size: tuple[int, int],
    interpolation: str = 'bilinear',
    channels: int = 3,
    mirror: bool = False,
) -> np.ndarray:
    """The box (source pixels, maybe fractions), resized: uint8 [*size, channels].

    Antialiased: the filter is widened by the factor of reduction. It reads across the edge of the
    box, up to the edge of the picture, as if the whole picture had been resized and then cropped.
    `mirror` flips the result left to right. Raises DecodeError.
    """
    from cnn_arch.data import resize  # compiles; whoever only decodes need not wait for it

    height, width = image_size(image)
    if size[0] * size[1] > MAX_PIXELS:
        raise DecodeError(
            f'resized from {width} x {height} to {size[1]} x {size[0]} pixels, more than the limit '
            f'of {MAX_PIXELS:,}'
        )
    top, left, box_height, box_width = box
    if (
        min(top, left) < -1e-6
        or top + box_height > height + 1e-6
        or left + box_width > width + 1e-6
    ):
        raise ValueError(f'box {box} does not lie within {height} x {width} pixels')
    if isinstance(image, np.ndarray):
        pixels = _with_channels(image, channels)
    else:
        rows = resize.lower_edge(top, box_height, height, size[0], interpolation)
        pixels = _upper_rows(image, rows, channels)
    if (box_height, box_width) == size and (top, left) == (y := int(top), x := int(left)):
        part = pixels[y : y + size[0], x : x + size[1]]
        return np.ascontiguousarray(part[:, ::-1] if mirror else part)
    return resize.resize(pixels, height, box, size, interpolation, mirror)


def isotropic_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) of a picture whose shorter side is resized to `shorter` pixels."""
    if height <= width:
        return shorter, max(shorter, round(width * shorter / height))
    return max(shorter, round(height * shorter / width)), shorter


def _upper_rows(encoded: bytes, rows: int, channels: int) -> np.ndarray:
    """At least the first `rows` rows of the picture, uint8 [>= rows, W, channels]."""
    header = _jpeg_header(encoded)
    # Without the end marker the file is cut short somewhere, which only Pillow notices.
    if header is not None and encoded.find(_JPEG_END, -1024) >= 0:
        place, height, _ = header
        data: bytes | bytearray = encoded
        if rows + 2 < height:  # the rows below the last have a say in its interpolated chroma
            data = bytearray(encoded)
            data[place : place + 2] = (rows + 2).to_bytes(2, 'big')
        colours = 'RGB' if channels == 3 else 'GRAY'
        try:
            # Not strict: the unread rest counts as an irregularity.
            return simplejpeg.decode_jpeg(data, colours, strict=False)
        except ValueError:
            pass  # damage: Pillow tells how bad it is
    return _decode_with_pillow(encoded, channels)


def _jpeg_header(encoded: bytes) -> tuple[int, int, int] | None:
    """Place of the height in the frame header, height and width; None if not a usual JPEG.

    Usual are one or three components (grey or colour, not CMYK) of 8 bits. Raises DecodeError.
    """
    if encoded[:2] != _JPEG_START:
        return None
    place, markers = 2, 0
    try:
        while encoded[place] == 0xFF:
            markers += 1
            if markers > MAX_MARKERS:
                raise DecodeError(f'damaged picture: {markers:,} markers before any pixel')
            marker = encoded[place + 1]
            if marker in _FRAME_HEADERS:
                bits, components = encoded[place + 4], encoded[place + 9]
                height = int.from_bytes(encoded[place + 5 : place + 7], 'big')
                width = int.from_bytes(encoded[place + 7 : place + 9], 'big')
                usual = bits == 8 and components in (1, 3) and height > 0 and width > 0
                return (place + 5, height, width) if usual else None
            if marker == 0xFF:  # filling
                place += 1
            elif marker in _WITHOUT_LENGTH:
                place += 2
            else:
                place += 2 + int.from_bytes(encoded[place + 2 : place + 4], 'big')
    except IndexError:
        pass
    return None


def _check_scans(encoded: bytes, pixels: int) -> None:
    """Refuses a JPEG whose scans would take too long; each goes over all pixels.

    Within coded pixels the two bytes do not occur; a preview in the header brings its own along.
    """
    scans = encoded.count(_JPEG_SCAN)
    if scans > MAX_SCANS or (scans - 1) * pixels > MAX_SCANNED:
        raise DecodeError(f'damaged picture: {scans:,} scans over {pixels:,} pixels')


def _check_chunks(encoded: bytes) -> None:
    """Refuses a PNG of which a critical chunk has another checksum; Pillow compares few of them."""
    view, place = memoryview(encoded), 8
    for _ in range(MAX_CHUNKS):
        size, kind = (
            int.from_bytes(view[place : place + 4], 'big'),
            bytes(view[place + 4 : place + 8]),
        )
        end = place + 8 + size
        if end + 4 > len(view) or kind == b'IEND':
            return  # whether something is missing Pillow tells
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            view[end : end + 4], 'big'
        ):
            raise DecodeError(f'damaged picture: chunk {shown(kind.decode("latin-1"))} at byte '
                              f'{place:,} has another checksum')  # fmt: skip
        place = end + 4
    raise DecodeError(f'damaged picture: more than {MAX_CHUNKS:,} chunks')


def _check_tiles(picture: Image.Image) -> None:
    """Refuses a TIFF whose tiles, or strips, are larger than a picture may be."""
    tags = getattr(picture, 'tag_v2', {}) if picture.format == 'TIFF' else {}
    try:
        area = int(tags.get(322, 0)) * int(tags.get(323, 0))
    except (TypeError, ValueError):
        raise DecodeError('damaged picture: tiles of no size') from None
    if not 0 <= area <= MAX_PIXELS:
        raise DecodeError(f'damaged picture: tiles of {area:,} pixels')


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise DecodeError(f'not a picture of a known format ({len(encoded):,} bytes)') from None
    except Exception as error:  # Pillow's plugins raise what they like over a damaged header
        raise DecodeError(f'damaged picture: {reason(error)}') from None


def _decode_with_pillow(encoded: bytes, channels: int) -> np.ndarray:
    if encoded.startswith(_PNG_START):
        _check_chunks(encoded)
    try:
        with _open(encoded) as picture:
            if picture.mode == 'F':
                raise DecodeError('a picture of floating-point numbers has no defined grey levels')
            picture.load()
            picture.info.pop('transparency', None)  # dropped as an alpha channel is
            width, height = picture.size
            pixels = np.empty((height, width, channels), np.uint8)
            step = max(1, BAND // width)
            # In bands: else Pillow, NumPy and the conversion would each have all of it.
            for top in range(0, height, step):
                bottom = min(top + step, height)
                band = picture.crop((0, top, width, bottom))
                pixels[top:bottom] = _converted(band, channels)
            return pixels
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f'damaged picture: {reason(error)}') from None


def _converted(picture: Image.Image, channels: int) -> np.ndarray:
    if picture.mode.startswith('I'):  # 16 bits; Pillow's conversion would clip them at 255
        grey = np.round(np.asarray(picture) / 257).clip(0, 255).astype(np.uint8)
        return _with_channels(grey, channels)
    pixels = np.asarray(picture.convert('RGB' if channels == 3 else 'L'))
    return pixels.reshape(*pixels.shape[:2], channels)


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        raise DecodeError(f'an array must be uint8 [H, W, C], not {pixels.dtype} {pixels.shape}')
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, channels, axis=2)
    if pixels.shape[2] == 3 and channels == 1:
        return np.asarray(Image.fromarray(pixels).convert('L'))[:, :, None]
    raise DecodeError(f'cannot make {channels} channels of an array of {pixels.shape[2]}')
