"""Decoding against Pillow, crops against the slow way, and what does not decode."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn_arch.data import decode
from cnn_arch.errors import UserError
from tests.shared import shared_data


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture with structure at several scales, RGB."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 40):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) / 3
    return Image.fromarray(total.round().astype(np.uint8))


def encoded(picture: Image.Image, kind: str = 'JPEG', **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes, mode: str = 'RGB') -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert(mode))


def sample_files() -> list[bytes]:
    folder = shared_data('ilsvrc_sample')
    return [file.read_bytes() for file in sorted(folder.glob('*/*.JPEG'))]


# ------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
@pytest.mark.parametrize('progressive', [False, True])
def test_jpeg_as_pillow_decodes_it(subsampling, progressive):
    data = encoded(smooth(77, 101), subsampling=subsampling, progressive=progressive, quality=90)
    assert decode.image_size(data) == (77, 101)
    np.testing.assert_array_equal(decode.decode(data), by_pillow(data))
    grey = decode.decode(data, channels=1)
    assert grey.shape == (77, 101, 1)
    # Pillow goes through RGB, rounding on the way.
    assert np.abs(grey[:, :, 0].astype(int) - by_pillow(data, 'L')).max() <= 2


def test_grey_jpeg():
    data = encoded(smooth(50, 60).convert('L'))
    rgb = decode.decode(data)
    assert rgb.shape == (50, 60, 3)
    np.testing.assert_array_equal(rgb, by_pillow(data))
    np.testing.assert_array_equal(decode.decode(data, 1)[:, :, 0], by_pillow(data, 'L'))


def test_cmyk_jpeg():
    original = smooth(50, 60)
    data = encoded(original.convert('CMYK'), quality=95)
    np.testing.assert_array_equal(decode.decode(data), by_pillow(data))
    assert np.abs(decode.decode(data).astype(int) - np.asarray(original)).mean() < 4
    assert decode.decode(data, 1).shape == (50, 60, 1)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', '1', 'RGBA', 'LA'])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_lossless_modes(mode, kind):
    picture = smooth(31, 45).convert(mode)
    if mode == 'RGBA':
        picture.putalpha(Image.linear_gradient('L').resize((45, 31)))
    data = encoded(picture, kind)
    assert decode.image_size(data) == (31, 45)
    # Alpha is dropped: the colours stay as they are stored.
    np.testing.assert_array_equal(decode.decode(data), np.asarray(picture.convert('RGB')))
    grey = np.asarray(picture.convert('L')).reshape(31, 45, 1)
    np.testing.assert_array_equal(decode.decode(data, 1), grey)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 32 * 40).astype(np.uint16).reshape(32, 40)
    data = encoded(Image.fromarray(values), 'PNG')
    expected = np.round(values / 257)
    np.testing.assert_array_equal(decode.decode(data, 1)[:, :, 0], expected)
    np.testing.assert_array_equal(decode.decode(data)[:, :, 2], expected)


def test_orientation_is_left_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = encoded(smooth(40, 60), exif=exif)
    assert decode.image_size(data) == (40, 60)
    assert decode.decode(data).shape == (40, 60, 3)


def test_real_pictures_as_pillow_decodes_them():
    for data in sample_files()[::10]:
        expected = by_pillow(data)
        assert decode.image_size(data) == expected.shape[:2]
        np.testing.assert_array_equal(decode.decode(data), expected)


@pytest.mark.parametrize('shape', [(9, 7), (9, 7, 1), (9, 7, 3)])
def test_arrays_pass_through(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert decode.image_size(pixels) == (9, 7)
    rgb, grey = decode.decode(pixels), decode.decode(pixels, 1)
    assert rgb.shape == (9, 7, 3)
    assert grey.shape == (9, 7, 1)
    if len(shape) == 3 and shape[2] == 3:
        assert rgb is pixels
        np.testing.assert_array_equal(
            grey[:, :, 0], np.asarray(Image.fromarray(pixels).convert('L'))
        )
    else:
        np.testing.assert_array_equal(rgb, np.broadcast_to(pixels.reshape(9, 7, 1), (9, 7, 3)))


@pytest.mark.parametrize(
    'array', [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(decode.DecodeError, match='array'):
        decode.decode(array)


# --------------------------------------------------------------- only the rows that are needed


@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
@pytest.mark.parametrize('progressive', [False, True])
def test_upper_rows_equal_those_of_the_whole(subsampling, progressive):
    data = encoded(smooth(91, 75), subsampling=subsampling, progressive=progressive, quality=85)
    whole = decode.decode(data)
    for rows in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 88, 89, 90, 91):
        upper = decode._upper_rows(data, rows, 3)
        assert rows <= len(upper) <= min(91, rows + 2)
        np.testing.assert_array_equal(upper[:rows], whole[:rows])


def test_upper_rows_with_restart_markers_and_long_headers():
    exif = Image.Exif()
    exif[0x010E] = 'a description ' * 2000
    data = encoded(smooth(91, 75), restart_marker_rows=1, exif=exif, comment=b'\xff\xd9 \xff\xc0')
    whole = decode.decode(data)
    np.testing.assert_array_equal(decode._upper_rows(data, 40, 3)[:40], whole[:40])
    assert len(decode._upper_rows(data, 40, 3)) == 42


def test_upper_rows_of_real_pictures():
    for place, data in enumerate(sample_files()[3::10]):
        whole = decode.decode(data)
        rows = 1 + (37 * place) % len(whole)
        np.testing.assert_array_equal(decode._upper_rows(data, rows, 3)[:rows], whole[:rows])


# -------------------------------------------------------------------------------------- crops


def slow_way(data: bytes, shorter: int, corner: tuple[int, int], size: int, filter_) -> np.ndarray:
    """Decodes all, resizes the whole picture with Pillow, then crops."""
    with Image.open(io.BytesIO(data)) as picture:
        height, width = decode.isotropic_size(picture.height, picture.width, shorter)
        resized = picture.convert('RGB').resize((width, height), filter_)
    top, left = corner
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def box_of(shape: tuple[int, int], shorter: int, corner: tuple[int, int], size: int) -> decode.Box:
    resized = decode.isotropic_size(*shape, shorter)
    scale = shape[0] / resized[0], shape[1] / resized[1]
    return corner[0] * scale[0], corner[1] * scale[1], size * scale[0], size * scale[1]


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_crop_first_is_the_slow_way_on_real_pictures(interpolation):
    """The mean absolute difference over all 300 pictures is at most one grey level; it is 0.2."""
    rng = np.random.default_rng(0)
    filter_ = Image.Resampling[interpolation.upper()]
    differences = []
    for data in sample_files():
        shape = decode.image_size(data)
        shorter = int(rng.integers(256, 513))
        resized = decode.isotropic_size(*shape, shorter)
        corner = tuple(int(rng.integers(side - 224 + 1)) for side in resized)
        ours = decode.crop_and_resize(
            data, box_of(shape, shorter, corner, 224), (224, 224), interpolation
        )
        theirs = slow_way(data, shorter, corner, 224, filter_)
        differences.append(np.abs(ours.astype(int) - theirs).mean())
    assert np.mean(differences) < 0.25
    assert max(differences) < 0.5


@pytest.mark.parametrize('shape', [(200, 256), (256, 180), (97, 106)])
@pytest.mark.parametrize('shorter', [64, 90, 97, 200, 333])
def test_geometry_on_pixels_that_encode_their_coordinates(shape, shorter):
    """Red is x, green is y: away from the border the filter must give the centre's coordinates."""
    height, width = shape
    ramps = np.zeros((*shape, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = np.arange(width), np.arange(height)[:, None]
    data = encoded(Image.fromarray(ramps), 'PNG')
    rng = np.random.default_rng(shorter)
    size = 48
    resized = decode.isotropic_size(height, width, shorter)
    for _ in range(5):
        corner = tuple(int(rng.integers(side - size + 1)) for side in resized)
        box = box_of(shape, shorter, corner, size)
        for mirror in (False, True):
            result = decode.crop_and_resize(data, box, (size, size), mirror=mirror).astype(float)
            if mirror:
                result = result[:, ::-1]
            y = box[0] + (np.arange(size) + 0.5) * box[2] / size - 0.5
            x = box[1] + (np.arange(size) + 0.5) * box[3] / size - 0.5
            # Half a grey level is rounding; to be one pixel off would give 0.75 at the least.
            # Where the filter is cut off at the picture's edge, it is not the centre any more.
            reach = max(1.0, box[2] / size)
            inner_y = (y > reach) & (y < height - 1 - reach)
            inner_x = (x > reach) & (x < width - 1 - reach)
            assert np.abs(result[:, :, 0] - x)[:, inner_x].max() < 0.56
            assert np.abs(result[:, :, 1] - y[:, None])[inner_y].max() < 0.56
        theirs = slow_way(data, shorter, corner, size, Image.Resampling.BILINEAR)
        ours = decode.crop_and_resize(data, box, (size, size))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_at_scale_one_a_crop_is_a_slice():
    data = encoded(smooth(120, 140), 'PNG')
    whole = decode.decode(data)
    crop = decode.crop_and_resize(data, (17.0, 30.0, 64.0, 80.0), (64, 80))
    np.testing.assert_array_equal(crop, whole[17:81, 30:110])
    mirrored = decode.crop_and_resize(data, (17.0, 30.0, 64.0, 80.0), (64, 80), mirror=True)
    np.testing.assert_array_equal(mirrored, whole[17:81, 30:110][:, ::-1])
    assert mirrored.flags.c_contiguous


def test_the_filter_reads_across_the_edge_of_the_box():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255  # white begins where the box ends
    crop = decode.crop_and_resize(pixels, (0.0, 0.0, 40.0, 20.0), (20, 10))
    # Reduced by two, the triangle reaches one pixel beyond: weights 1/8 3/8 3/8 1/8.
    assert (crop[:, -1] == round(255 / 8)).all()
    assert (crop[:, :-1] == 0).all()


def test_crops_of_grey_and_of_arrays():
    picture = smooth(60, 80).convert('L')
    data, pixels = encoded(picture, 'PNG'), np.asarray(picture)
    box = (5.0, 6.0, 40.0, 50.0)
    grey = decode.crop_and_resize(data, box, (32, 32), channels=1)
    assert grey.shape == (32, 32, 1)
    np.testing.assert_array_equal(decode.crop_and_resize(pixels, box, (32, 32), channels=1), grey)
    rgb = decode.crop_and_resize(pixels, box, (32, 32))
    np.testing.assert_array_equal(rgb, np.repeat(grey, 3, axis=2))


def test_smallest_pictures():
    for height, width in ((1, 1), (1, 9), (7, 1), (2, 3)):
        pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for interpolation in ('bilinear', 'bicubic', 'area', 'nearest'):
            crop = decode.crop_and_resize(
                pixels, (0.0, 0.0, height, width), (24, 24), interpolation
            )
            assert crop.shape == (24, 24, 3)
        theirs = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR)
        ours = decode.crop_and_resize(pixels, (0.0, 0.0, height, width), (24, 24))
        assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


def test_a_box_outside_of_the_picture_is_an_error():
    pixels = np.zeros((20, 30, 3), np.uint8)
    for box in ((-1.0, 0.0, 10.0, 10.0), (0.0, 0.0, 21.0, 10.0), (0.0, 25.0, 10.0, 10.0)):
        with pytest.raises(ValueError, match='does not lie within'):
            decode.crop_and_resize(pixels, box, (8, 8))


@pytest.mark.parametrize(
    ('shape', 'shorter', 'expected'),
    [
        ((375, 500), 256, (256, 341)),
        ((500, 375), 384, (512, 384)),
        ((100, 100), 256, (256, 256)),
        ((1000, 1001), 100, (100, 100)),
        ((3, 1000), 256, (256, 85333)),
    ],
)
def test_isotropic_size(shape, shorter, expected):
    assert decode.isotropic_size(*shape, shorter) == expected


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\xff',
        b'\xff\xd8',
        b'\xff\xd8\xff',
        b'\xff\xd8\xff\xd9',
        b'<html>404 Not Found</html>',
        b'\x89PNG\r\n\x1a\n',
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
        bytes(1000),
    ],
)
def test_no_picture(data):
    for function in (decode.image_size, decode.decode):
        with pytest.raises(decode.DecodeError) as caught:
            function(data)
        assert isinstance(caught.value, UserError)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('progressive', [False, True])
def test_truncated_jpeg(progressive):
    data = encoded(smooth(120, 160), quality=90, progressive=progressive)
    for share in np.linspace(0.02, 0.98, 25):
        cut = data[: int(len(data) * share)]
        with pytest.raises(decode.DecodeError):
            decode.decode(cut)
        # Though the rows of this crop are all there: a file is good or bad, whatever the crop.
        with pytest.raises(decode.DecodeError):
            decode.crop_and_resize(cut, (0.0, 0.0, 8.0, 8.0), (8, 8))


def test_truncated_png():
    data = encoded(smooth(60, 80), 'PNG')
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(decode.DecodeError):
            decode.decode(data[: int(len(data) * share)])


def test_jpeg_with_trailing_bytes():
    data = encoded(smooth(60, 80))
    np.testing.assert_array_equal(decode.decode(data + bytes(100)), decode.decode(data))
    # So many that the end marker is not looked for: Pillow decodes it all the same.
    np.testing.assert_array_equal(decode.decode(data + bytes(5000)), decode.decode(data))


def test_damage_gives_a_picture_or_an_error():
    """What else it gave, a loader's thread would not expect."""
    rng = np.random.default_rng(0)
    for kind in ('JPEG', 'PNG'):
        data = encoded(smooth(40, 56), kind)
        outcomes = set()
        for _ in range(150):
            damaged = bytearray(data)
            for place in rng.integers(2, len(data), 3):
                damaged[place] = rng.integers(256)
            try:
                height, width = decode.image_size(bytes(damaged))
                if height * width > 1e6:
                    continue  # a size that happens to be large is not the matter here
                assert decode.decode(bytes(damaged)).shape == (height, width, 3)
                box = (0.0, 0.0, min(8.0, height), min(8.0, width))
                assert decode.crop_and_resize(bytes(damaged), box, (8, 8)).shape == (8, 8, 3)
                outcomes.add('picture')
            except decode.DecodeError:
                outcomes.add('error')
        assert 'error' in outcomes
        if kind == 'JPEG':
            assert 'picture' in outcomes


def test_decompression_bombs_are_refused_before_they_go_off():
    ihdr = b'IHDR' + struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + ihdr + struct.pack('>I', zlib.crc32(ihdr))
    idat = b'IDAT' + zlib.compress(bytes(1000))
    png += struct.pack('>I', len(idat) - 4) + idat + struct.pack('>I', zlib.crc32(idat))
    jpeg = bytearray(encoded(smooth(40, 56)))
    place = decode._jpeg_header(bytes(jpeg))[0]
    jpeg[place : place + 4] = struct.pack('>HH', 60_000, 60_000)
    for bomb in (png, bytes(jpeg)):
        for function in (decode.image_size, decode.decode):
            with pytest.raises(decode.DecodeError):
                function(bomb)
        with pytest.raises(decode.DecodeError):
            decode.crop_and_resize(bomb, (0.0, 0.0, 8.0, 8.0), (8, 8))
    with pytest.raises(decode.DecodeError, match='limit'):
        decode.image_size(bytes(jpeg))
