"""scikit-learn's 1,797 handwritten digits of 43 writers, laid out as MNIST lays out its own."""

import numpy as np
import PIL.Image

EVAL_IMAGES = 360  # a fifth: the last in the order of writers, so that evaluation has other hands


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] (20x20 in the middle, 0 = background) and labels int32 [N].

    `split` is 'train' (1,437 images) or 'eval' (360).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = slice(None, -EVAL_IMAGES) if split == 'train' else slice(-EVAL_IMAGES, None)
    small = np.round(data.images[rows] * (255 / 16)).astype(np.uint8)  # 16 grey levels, 8x8
    images = np.zeros((len(small), 28, 28), np.uint8)
    for image, digit in zip(images, small, strict=True):
        large = PIL.Image.fromarray(digit).resize((20, 20), PIL.Image.Resampling.BICUBIC)
        image[4:24, 4:24] = np.asarray(large)
    return images, data.target[rows].astype(np.int32)
