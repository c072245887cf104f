"""From encoded bytes to the pixels a crop needs: RGB (or grey) uint8, resized with antialiasing.

A picture is taken as it is stored: an EXIF orientation is ignored and an alpha channel dropped, as
in the pipelines that the published networks were trained with.

Of a JPEG only the rows down to the lower edge of the crop are decoded. No decoder on offer as a
Python package can stop there, but each does if the header says that the picture ends there. (Most
of the time goes into the entropy-coded bits, which can be read only from the start. DCT scaling was
tried and left out: at a reduction by two it is 2.4 grey levels away from the antialiased resize.)
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

from cnn_arch.errors import UserError

# A picture that claims to have more pixels is refused before anything is decoded, so that a thread
# never holds more than some 4 bytes times this. The largest picture of ImageNet has about 60 M.
MAX_PIXELS = 2**26
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP')  # what Pillow may open

Box = tuple[float, float, float, float]  # top, left, height, width in source pixels

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}


class DecodeError(UserError):
    """The bytes are not a whole picture of a known format. The caller adds the record's key."""


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone. Raises DecodeError."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    header = _jpeg_header(image)
    if header is None:
        width, height = _open(image).size
    else:
        _, height, width = header
    if height * width > MAX_PIXELS:
        raise DecodeError(f'{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}')
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

    Usual are one or three components (grey or colour, not CMYK) of 8 bits.
    """
    if encoded[:2] != _JPEG_START:
        return None
    place = 2
    try:
        while encoded[place] == 0xFF:
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


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise DecodeError(f'not a picture of a known format ({len(encoded):,} bytes)') from None
    except Exception as error:  # Pillow's plugins raise what they like over a damaged header
        raise DecodeError(f'damaged picture: {error}') from None


def _decode_with_pillow(encoded: bytes, channels: int) -> np.ndarray:
    try:
        with _open(encoded) as picture:
            if picture.mode == 'F':
                raise DecodeError('a picture of floating-point numbers has no defined grey levels')
            if picture.mode.startswith('I'):  # 16 bits; Pillow's conversion would clip them at 255
                grey = np.round(np.asarray(picture) / 257).clip(0, 255).astype(np.uint8)
                return _with_channels(grey, channels)
            pixels = np.asarray(picture.convert('RGB' if channels == 3 else 'L'))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f'damaged picture: {error}') from None
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
