"""Pictures of strangers: what they may cost, and what may open them.

What is refused stands in the table of tests/bad_inputs/.
"""

import io
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cnn_arch.data import decode
from cnn_arch.data.preparation import records
from tests import samples
from tests.bad_inputs.rows import EPS
from tests.shared import ROOT

MEASURE = """
import pathlib, sys
from cnn_arch.data import decode
decode.decode(pathlib.Path(sys.argv[2]).read_bytes())
def peak():
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(status.split('VmHWM:')[1].split()[0])
before = peak()
pixels = decode.decode(pathlib.Path(sys.argv[1]).read_bytes())
print((peak() - before) / (pixels.shape[0] * pixels.shape[1]))
"""


@pytest.mark.parametrize(
    ('kind', 'mode', 'options'),
    [
        ('PNG', 'RGB', {}),
        ('PNG', 'I;16', {}),
        ('PNG', 'P', {}),
        ('JPEG', 'RGB', {'progressive': True, 'subsampling': 0}),
        ('TIFF', 'RGB', {'compression': 'tiff_lzw'}),
        # Half as many pixels are allowed of these.
        ('JPEG', 'CMYK', {'progressive': True}),
        ('WEBP', 'RGB', {}),
    ],
    ids=str,
)
def test_memory(kind: str, mode: str, options: dict, tmp_path: pathlib.Path) -> None:
    """No more than 12 bytes for each pixel that is allowed, as the docstring of decode says."""
    large, small = tmp_path / 'large', tmp_path / 'small'
    Image.new(mode, (3000, 3000)).save(large, kind, **options)
    Image.new(mode, (8, 8)).save(small, kind, **options)
    words = [sys.executable, '-c', MEASURE, str(large), str(small)]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    half = kind == 'WEBP' or mode == 'CMYK'
    assert 3 < float(said) < (24 if half else 12)
    assert decode.MAX_PIXELS * 12 == 768 << 20


def test_the_limits_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of WebP and CMYK half as many pixels."""
    monkeypatch.setattr(decode, 'MAX_PIXELS', 24 * 17)
    for kind, mode in (('JPEG', 'RGB'), ('PNG', 'RGB'), ('TIFF', 'RGB')):
        assert decode.image_size(samples.picture(kind, mode)) == (17, 24)
    for kind, mode in (('JPEG', 'CMYK'), ('WEBP', 'RGB')):
        with pytest.raises(decode.DecodeError, match='24 x 17 pixels are more than the limit of'):
            decode.image_size(samples.picture(kind, mode))


@pytest.mark.parametrize('size', [(65_535, 1), (1, 65_535)])
def test_long_and_narrow(size: tuple[int, int]) -> None:
    """Refused where resizing it would make 256 x 16,776,960; read where a crop is taken."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    resized = decode.isotropic_size(size[1], size[0], 256)
    started = time.monotonic()
    with pytest.raises(decode.DecodeError, match=r'resized from .* more than the limit'):
        decode.crop_and_resize(file.getvalue(), (0, 0, size[1], size[0]), resized)
    for interpolation in ('bilinear', 'bicubic', 'area', 'nearest'):
        part = decode.crop_and_resize(
            file.getvalue(), (0, 0, size[1], size[0]), (24, 24), interpolation
        )
        assert part.shape == (24, 24, 3)
    assert time.monotonic() - started < 30


def test_usual_scans_are_read() -> None:
    """Ten of a progressive JPEG, and those of a preview in its header."""
    exif = Image.Exif()
    exif[0x010E] = 'a'
    preview = b'\xff\xd8' + b'\xff\xda' * 300
    data = samples.picture(progressive=True)
    marked = data[:2] + b'\xff\xe2' + (len(preview) + 2).to_bytes(2, 'big') + preview + data[2:]
    np.testing.assert_array_equal(decode.decode(marked), decode.decode(data))


def test_nothing_but_pictures_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript is a program, which Pillow has Ghostscript run."""

    def run(*args: object, **kwargs: object) -> None:
        raise AssertionError('Ghostscript was to run')

    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', run)
    with Image.open(io.BytesIO(EPS)) as picture:
        assert picture.format == 'EPS'  # so Pillow would open it
    assert records.image_kind(EPS) == ('?', '?', (0, 0))
    with pytest.raises(decode.DecodeError, match='not a picture of a known format'):
        decode.decode(EPS)
    with pytest.raises(decode.DecodeError, match='not a picture of a known format'):
        records.to_rgb_jpeg(EPS)


def test_a_palette_with_transparency_is_its_colours() -> None:
    """Alpha is dropped, without a warning for each part of the picture."""
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), 'L').convert('P')
    file = io.BytesIO()
    picture.save(file, 'PNG', transparency=bytes(range(64)))
    expected = np.asarray(picture.convert('RGB'))
    np.testing.assert_array_equal(decode.decode(file.getvalue()), expected)
