"""Krizhevsky's colour noise (AlexNet, section 4.1) and the statistics it needs.

To each image the sum of the principal components of the RGB values is added, scaled by their
eigenvalues times draws from N(0, sigma), the same for all of its pixels. The paper prints neither
the components nor the unit of the pixels, on which the scale depends. The values below are those of
fb.resnet.torch (datasets/imagenet.lua, "computed from random subset of ImageNet training images"),
with the pixels in [0, 1], as nearly everyone who trained on ImageNet since has used them; with
sigma 0.1 the brightness moves by about 3 grey levels.

    python -m cnn_arch.data.colour --config=CONFIG [--images=10000]

computes them from a training set.
"""

import itertools

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, what Pillow's grey is
ORDERS = list(itertools.permutations(range(3)))  # of contrast, brightness, colour

EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])  # of the covariance of RGB in [0, 1]
EIGENVECTORS = np.array(  # in columns; rows R, G, B
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


def shift(alphas: np.ndarray) -> np.ndarray:
    """The additive RGB shift in grey levels, float32 [3], for three draws from N(0, sigma)."""
    return (255.0 * EIGENVECTORS @ (EIGENVALUES * alphas)).astype(np.float32)
