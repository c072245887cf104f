"""From encoded bytes to the pixels a crop needs: RGB (or grey) uint8, resized with antialiasing.

What the decoders are asked for is always the picture as stored: an EXIF orientation is ignored and
an alpha channel dropped, as in the pipelines the published networks were trained with.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

from cnn_arch.errors import UserError

# A picture that claims more pixels than this is refused before anything is decoded: memory stays
# bounded by about 4 bytes times it per thread. The largest of ImageNet has some 60 million.
MAX_PIXELS = 120_000_000
FILTERS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


class DecodeError(UserError):
    """The bytes are not a whole picture of a known format. The caller adds the record's key."""


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone. Raises DecodeError."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    if image[:2] == b'\xff\xd8':
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(image, strict=False)
        except ValueError:
            width, height = _open(image).size
    else:
        width, height = _open(image).size
    if height * width > MAX_PIXELS:
        raise DecodeError(f'{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}')
    return height, width


def decode(image: bytes | np.ndarray, channels: int = 3) -> np.ndarray:
    """The whole picture as uint8 [H, W, channels], channels 3 (RGB) or 1 (grey, ITU-R 601 luma).

    Arrays uint8 [H, W] or [H, W, C] pass through with their channels converted. Raises DecodeError.
    """
    if isinstance(image, np.ndarray):
        return _with_channels(image, channels)
    image_size(image)  # refuses what is too large
    if image[:2] == b'\xff\xd8':
        try:
            return simplejpeg.decode_jpeg(image, colorspace='RGB' if channels == 3 else 'GRAY')
        except ValueError:
            pass  # CMYK, or damage: Pillow knows the one and tells how bad the other is
    return _decode_with_pillow(image, channels)


def crop_and_resize(
    image: bytes | np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: str = 'bilinear',
    channels: int = 3,
) -> np.ndarray:
    """The box (top, left, height, width; source pixels, maybe fractions) as uint8 [*size, channels].

    Antialiased: the filter is widened by the factor of reduction. It reads across the edge of the
    box, up to the edge of the picture, as if the whole picture had been resized and then cropped.
    Raises DecodeError.
    """
    pixels = decode(image, channels)
    height, width = pixels.shape[:2]
    top, left, box_height, box_width = box
    right, bottom = min(left + box_width, width), min(top + box_height, height)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    resized = picture.resize(
        (size[1], size[0]),
        FILTERS[interpolation],
        box=(max(left, 0.0), max(top, 0.0), right, bottom),
    )
    return np.asarray(resized).reshape(*size, channels)


def isotropic_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) of a picture whose shorter side is resized to `shorter` pixels."""
    if height <= width:
        return shorter, max(shorter, round(width * shorter / height))
    return max(shorter, round(height * shorter / width)), shorter


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DecodeError(
            f'an array image must be uint8 [H, W, C], not {pixels.dtype} {pixels.shape}'
        )
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, channels, axis=2)
    if pixels.shape[2] == 3 and channels == 1:
        return np.asarray(Image.fromarray(pixels).convert('L'))[:, :, None]
    raise DecodeError(f'cannot make {channels} channels of an array image of {pixels.shape[2]}')


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded))
    except Image.UnidentifiedImageError:
        raise DecodeError(f'not a picture of a known format ({len(encoded)} bytes)') from None
    except Exception as error:  # Pillow's plugins raise what they like on damaged headers
        raise DecodeError(f'damaged picture: {error}') from None


def _decode_with_pillow(encoded: bytes, channels: int) -> np.ndarray:
    picture = _open(encoded)
    mode = 'RGB' if channels == 3 else 'L'
    try:
        if picture.mode.startswith('I;16') or picture.mode == 'I':
            # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
            grey = np.asarray(picture).astype(np.float32)
            picture = Image.fromarray(np.clip(np.round(grey / 257), 0, 255).astype(np.uint8))
        pixels = np.asarray(picture.convert(mode))
    except Exception as error:
        raise DecodeError(f'damaged picture: {error}') from None
    return pixels.reshape(*pixels.shape[:2], channels)
