"""The principal components of a training set's colours, for Krizhevsky's noise (AlexNet, 4.1).

    python -m cnn_arch.data.colour --config=CONFIG [--images=10000]

To each image the paper adds the components of the RGB values, scaled by their eigenvalues times
draws from N(0, 0.1). It prints neither the components nor the unit of the pixels, on which the size
of the noise depends. The defaults in configs/base.py are those of fb.resnet.torch ("computed from
random subset of ImageNet training images", datasets/imagenet.lua) for pixels in [0, 1], as nearly
everyone who has trained on ImageNet since; brightness then moves by about 3 grey levels. (The
authors' own cuda-convnet calls the factors standard deviations, which would make it 7.)
"""

import argparse
from collections.abc import Sequence

import numpy as np

from cnn_arch import commands, config_keys
from cnn_arch.arguments import Parser
from cnn_arch.data import decode, sources
from cnn_arch.data.progress import Progress
from cnn_arch.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command line; raises UserError."""
    args, config = commands.parse(_parser(), argv, uses=())
    config_keys.check_read(commands.split_overrides(argv)[0], ('data.',))
    if config.data.channels != 3:
        raise UserError('principal components of colours need data.channels=3')
    if args.images < 1:
        raise UserError(f'--images={args.images}: at least one')
    source = sources.open_source(config.data, 'train')
    mean, deviation, values, vectors = components(source, args.images)

    def text(row: np.ndarray, digits: int) -> str:
        return '(' + ', '.join(f'{number:.{digits}f}' for number in row) + ')'

    print(f'of {min(args.images, len(source)):,} images of {source.name}:')
    print(f"--config.data.mean='{text(mean, 3)}'")
    print(f"--config.data.std='{text(deviation, 3)}'")
    print(f"--config.data.augment.pca_eigenvalues='{text(values, 4)}'")
    rows = ', '.join(text(row, 4) for row in vectors)
    print(f"--config.data.augment.pca_eigenvectors='({rows})'")


def components(
    source: sources.Source, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean [3] and standard deviation [3] of RGB in grey levels; eigenvalues [3], falling, and
    eigenvectors [3, 3] (columns) of the covariance of RGB in [0, 1].

    Of that many images, evenly spread over the source; each counts alike, whatever its size.
    Raises UserError for an image that does not decode.
    """
    indices = np.linspace(0, len(source) - 1, min(images, len(source))).round().astype(int)
    first, second = np.zeros(3), np.zeros((3, 3))
    with Progress('reading', len(indices)) as report:
        for index in indices:
            example = source[int(index)]
            try:
                pixels = decode.decode(example.image).reshape(-1, 3) / 255.0
            except decode.DecodeError as error:
                raise UserError(f'image {example.key}: {error}') from error
            first += pixels.mean(0) / len(indices)
            second += pixels.T @ pixels / len(pixels) / len(indices)
            report.add()
    covariance = second - np.outer(first, first)
    values, vectors = np.linalg.eigh(covariance)
    deviation = np.sqrt(covariance.diagonal())
    return 255 * first, 255 * deviation, values[::-1], vectors[:, ::-1]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog='python -m cnn_arch.data.colour', description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=10_000, help='how many to read')
    return parser


if __name__ == '__main__':
    commands.run(main)
