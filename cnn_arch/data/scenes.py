"""`digits_scenes`: real digits at random sizes and places on photograph-like canvases, as JPEG.

VGG's question in miniature: objects appear at many scales, so does scale jitter in training help?
The digits are scikit-learn's; the canvases have a power spectrum that falls as that of natural
images does, as 1/f^3 here (Field 1987 finds 1/f^2), in colour. All derives from a fixed seed.
"""

import os
import pathlib
import shutil
import tempfile

import numpy as np
import PIL.Image

from cnn_arch import files
from cnn_arch.data import digits

VERSION = 1  # of the pictures: they are made again when this changes
COPIES = {'train': 3, 'eval': 2}  # scenes drawn with each digit
SIDES = (64, 112)  # pixels, range of the shorter side
ASPECT = 1.5  # largest ratio of the longer side to the shorter
SHARE = (0.35, 0.85)  # of the shorter side that a digit's height covers


def prepare(directory: str) -> pathlib.Path:
    """The folder with `train/` and `eval/`, made now if absent (half a minute, 5,031 pictures).

    Lies in `directory`, or without one in the user's cache. A run that is interrupted leaves
    nothing behind that a later one would trust.
    """
    root = pathlib.Path(directory) if directory else files.user_cache()
    folder = root / f'digits_scenes_v{VERSION}'
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    print(f'drawing the digits scenes into {folder}', flush=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=root))
    try:
        for split, copies in COPIES.items():
            _write_split(scratch / split, split, copies)
        os.rename(scratch, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, and its pictures are the same
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write_split(folder: pathlib.Path, split: str, copies: int) -> None:
    images, labels = digits.load(split)
    (folder / 'images').mkdir(parents=True)
    lines = []
    for index in range(len(images) * copies):
        rng = np.random.default_rng([VERSION, split == 'train', index])
        name = f'{split}_{index:05d}.JPEG'
        scene = draw_scene(images[index % len(images)], rng)
        PIL.Image.fromarray(scene).save(folder / 'images' / name, quality=90)
        lines.append(f'{name} {labels[index % len(images)]}\n')
    (folder / 'labels.txt').write_text(''.join(lines))


def draw_scene(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uint8 [H, W, 3] canvas with `digit` (uint8 [28, 28], 0 = background) drawn into it."""
    short = int(rng.integers(SIDES[0], SIDES[1] + 1))
    long = int(short * rng.uniform(1, ASPECT))
    height, width = (short, long) if rng.random() < 0.5 else (long, short)
    canvas = _photograph(height, width, rng)

    box = digit[4:24, 4:24]
    side = int(rng.uniform(*SHARE) * short)
    ink = PIL.Image.fromarray(box).resize((side, side), PIL.Image.Resampling.BICUBIC)
    alpha = (np.asarray(ink, np.float32) / 255)[..., None]  # [side, side, 1]
    # As photographers do, rather in the middle: the mean of two uniform places.
    top = int(rng.integers(0, height - side + 1, size=2).mean())
    left = int(rng.integers(0, width - side + 1, size=2).mean())
    place = canvas[top : top + side, left : left + side]
    # A colour that stands out from the mean of what it covers: dark on bright, bright on dark.
    colour = rng.uniform(0, 60, size=3) + (195 if place.mean() < 128 else 0)
    place += alpha * (colour - place)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _photograph(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of amplitude 1/f^1.5 in correlated channels, float32 [height, width, 3], 0 to 255."""
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = np.maximum(f, 1 / max(height, width)) ** -1.5
    phases = rng.uniform(0, 2 * np.pi, size=(3, *f.shape))
    noise = np.fft.irfft2(amplitude * np.exp(1j * phases), s=(height, width))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    luminance, *chroma = noise
    contrast = rng.uniform(8, 28)
    base = rng.uniform(60, 195) + rng.uniform(-40, 40, size=3)
    mix = rng.normal(0, 0.2, size=(3, 2))
    channels = [
        base[c] + contrast * (luminance + mix[c, 0] * chroma[0] + mix[c, 1] * chroma[1])
        for c in range(3)
    ]
    return np.stack(channels, axis=-1).astype(np.float32).clip(0, 255)
