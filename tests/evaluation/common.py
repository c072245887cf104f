"""Small pictures, a small network, and evaluation done the slow, obvious way."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh
from PIL import Image

from cnn_arch import mesh as meshes
from cnn_arch import models
from cnn_arch.data.sources import Example
from cnn_arch.evaluation import dense
from configs import base
from tests import oracles

CLASSES = 7
SIZES = [(50, 70), (70, 50), (64, 64), (41, 90), (33, 47), (40, 40), (40, 57), (95, 40), (61, 83),
         (44, 131), (40, 41)]  # fmt: skip


class Pictures:
    """A source of generated pictures, smooth, JPEG and PNG in turn."""

    name = 'pictures'
    num_classes = CLASSES

    def __init__(self, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.complete = len(sizes)
        self.examples = []
        for number, (height, width) in enumerate(sizes):
            coarse = rng.integers(0, 255, (height // 6 + 2, width // 6 + 2, 3)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            file = io.BytesIO()
            picture.save(file, ('PNG', 'JPEG')[number % 2], quality=95)
            label = int(rng.integers(CLASSES))
            self.examples.append(Example(file.getvalue(), label, f'picture{number}'))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def small_config(protocol: str = 'center') -> ml_collections.ConfigDict:
    """A narrow VGG for windows of 32 pixels, tested at 40."""
    config = base.get_config()
    config.model.name, config.model.variant = 'vgg', 'A'
    config.model.num_classes = CLASSES
    config.model.options.layers = (8, 'M', 8, 'M', 16, 'M')
    config.model.options.fc_units = 16
    config.model.options.input_size = 32
    config.data.augment.size = 32
    config.data.augment.scale_min = config.data.augment.scale_max = 72
    config.data.std = (40.0, 50.0, 60.0)
    config.eval.protocol = protocol
    config.eval.scale = 40
    config.eval.batch_size = 8
    return config.lock()


def config_file(folder: pathlib.Path, classes: int) -> str:
    """Writes small_config of that many classes, for folders of pictures, as `FILE:VARIANT`."""
    (folder / 'small.py').write_text(
        'from tests.evaluation import common\n\n'
        "VARIANTS = ('narrow',)\n\n\n"
        "def get_config(variant=''):\n"
        '    config = common.small_config()\n'
        f'    config.model.num_classes = {classes}\n'
        "    config.data.source = 'folder'\n"
        '    return config\n'
    )
    return f'{folder}/small.py:narrow'


def random_variables(model: nn.Module, size: int, channels: int = 3, seed: int = 0) -> Any:
    """Variables of a network that tells images apart: He's spread, no trivial statistics."""
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape)
        if path[-1].key == 'var':
            value = 1 + 0.2 * np.abs(noise)
        elif path[-1].key in ('scale', 'coefficient'):
            value = 1 + 0.1 * noise
        elif leaf.ndim < 2:
            value = 0.1 * noise
        else:
            value = noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return value.astype(np.float32)

    return jax.tree.map_with_path(draw, abstract)


def mesh_of(devices: int) -> Mesh:
    """A mesh of the first devices, along `data`; skips the test where there are fewer."""
    oracles.need_devices(devices)
    return jax.make_mesh(
        (devices, 1), (meshes.DATA, meshes.MODEL), devices=jax.devices()[:devices],
        axis_types=(AxisType.Auto, AxisType.Auto),
    )  # fmt: skip


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class SlowLoop:
    """decode, resize, crop, forward, softmax, mean: one image at a time, nothing shared.

    With `scores` the softmax comes last, of the mean over all views.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        variables: Any,
        model: nn.Module | None = None,
        scores: bool = False,
    ):
        self.config, self.variables, self.scores = config, variables, scores
        self.model = model or models.build(config.model)
        self.crop = config.data.augment.size
        self._apply = jax.jit(self.model.apply)
        self.dense, self.dense_variables = dense.to_convolutional(self.model, variables, self.crop)
        self._apply_dense = jax.jit(self.dense.apply)

    def resized(self, encoded: bytes, scale: int) -> np.ndarray:
        picture = Image.open(io.BytesIO(encoded)).convert('RGB')
        width, height = picture.size
        if height < width:
            size = (round(width * scale / height), scale)
        else:
            size = (scale, round(height * scale / width))
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))

    def forward(self, images: np.ndarray, whole: bool = False) -> np.ndarray:
        """Posteriors (or scores) of pixels [N, H, W, 3]."""
        data = self.config.data
        pixels = (images.astype(np.float32) - np.float32(data.mean)) / np.float32(data.std)
        if whole:
            scores, _ = self._apply_dense(self.dense_variables, pixels)
            scores = np.asarray(scores, np.float64)
            scores = scores if scores.ndim == 2 else scores.mean(axis=(1, 2))
        else:
            scores = np.asarray(self._apply(self.variables, pixels)[0], np.float64)
        return scores if self.scores else softmax(scores)

    def center(self, image: np.ndarray) -> np.ndarray:
        top, left = (image.shape[0] - self.crop) // 2, (image.shape[1] - self.crop) // 2
        return self.forward(image[None, top : top + self.crop, left : left + self.crop])[0]

    def five(self, image: np.ndarray) -> list[np.ndarray]:
        c, (h, w) = self.crop, image.shape[:2]
        middle = image[(h - c) // 2 : (h - c) // 2 + c, (w - c) // 2 : (w - c) // 2 + c]
        return [image[:c, :c], image[:c, -c:], image[-c:, :c], image[-c:, -c:], middle]

    def mirrored(self, crops: list[np.ndarray]) -> np.ndarray:
        crops = np.stack(crops)
        return self.forward(np.concatenate([crops, crops[:, :, ::-1]])).mean(axis=0)

    def ten_crop(self, image: np.ndarray) -> np.ndarray:
        return self.mirrored(self.five(self.square(image, 0.5)))

    def corners(self, image: np.ndarray) -> np.ndarray:
        return self.mirrored(self.five(image))

    def square(self, image: np.ndarray, place: float) -> np.ndarray:
        side = min(image.shape[:2])
        top, left = int((image.shape[0] - side) * place), int((image.shape[1] - side) * place)
        return image[top : top + side, left : left + side]

    def grid(self, image: np.ndarray) -> np.ndarray:
        c, (h, w) = self.crop, image.shape[:2]
        tops = [(h - c) * i // 4 for i in range(5)]
        lefts = [(w - c) * i // 4 for i in range(5)]
        return self.mirrored([image[t : t + c, s : s + c] for t in tops for s in lefts])

    def googlenet(self, image: np.ndarray) -> np.ndarray:
        crops = []
        for place in (0.0, 0.5, 1.0):
            square = self.square(image, place)
            small = Image.fromarray(square).resize((self.crop,) * 2, Image.Resampling.BILINEAR)
            crops += [*self.five(square), np.asarray(small)]
        return self.mirrored(crops)

    def whole(self, image: np.ndarray) -> np.ndarray:
        both = np.stack([image, image[:, ::-1]])
        return self.forward(both, whole=True).mean(axis=0)

    def posteriors(
        self, source: Any, scales: Sequence[int], views: Sequence[str], count: int | None = None
    ) -> np.ndarray:
        """[images, classes] of the first `count` images."""
        result = []
        for index in range(len(source) if count is None else count):
            image = source[index].image
            parts = [getattr(self, v)(self.resized(image, s)) for s in scales for v in views]
            mean = np.mean(parts, axis=0)
            result.append(softmax(mean[None])[0] if self.scores else mean)
        return np.stack(result)
