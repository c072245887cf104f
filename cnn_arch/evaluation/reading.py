"""From a source's image to the pixels that its views are cut from: decoded once, resized."""

import ml_collections
import numpy as np

from cnn_arch.data import decode
from cnn_arch.data.sources import Example, Source
from cnn_arch.evaluation import protocols, views
from cnn_arch.evaluation.batching import Shape


class Reader:
    """The images of a source at the scales of a protocol; safe in several threads."""

    def __init__(self, source: Source, config: ml_collections.ConfigDict, plan: protocols.Plan):
        self.source, self.scales = source, plan.scales
        self.views = views.views_of(plan)
        self._crop = plan.crop
        self._channels, self._interpolation = config.data.channels, config.eval.interpolation
        self.errors: dict[int, str] = {}  # why an image did not decode, with its key

    def box(self, size: Shape, scale: int) -> tuple[int, int, int, int]:
        """The part of a resized image that its views need: top, left, height, width."""
        resized = decode.isotropic_size(*size, scale)
        return views.bounding_box(self.views, resized, self._crop)

    def corners(self, size: Shape, scale: int) -> np.ndarray:
        """Where each view begins in that part, int32 [views, 2]."""
        resized = decode.isotropic_size(*size, scale)
        origin = views.bounding_box(self.views, resized, self._crop)[:2]
        corners = [view.box(resized, self._crop)[:2] for view in self.views]
        return np.asarray(corners, np.int32) - np.asarray(origin, np.int32)

    def open(self, index: int) -> tuple[Example, Shape | None]:
        """The still encoded image and its size; None where it is not a picture."""
        example = self.source[index]
        try:
            return example, decode.image_size(example.image)
        except decode.DecodeError as error:
            self.errors[index] = f'{example.key}: {error}'
            return example, None

    def prepare(self, index: int, example: Example, size: Shape) -> dict[int, np.ndarray] | None:
        """For each scale the part of the resized image that its views need, uint8 [H, W, C]."""
        try:
            return self._resized(example.image, size)
        except decode.DecodeError as error:
            self.errors[index] = f'{example.key}: {error}'
            return None

    def _resized(self, image: bytes | np.ndarray, size: Shape) -> dict[int, np.ndarray]:
        if len(self.scales) > 1:  # one scale decodes only what it needs
            image = decode.decode(image, self._channels)
        result = {}
        for scale in self.scales:
            resized = decode.isotropic_size(*size, scale)
            top, left, height, width = self.box(size, scale)
            ratio = (size[0] / resized[0], size[1] / resized[1])  # source pixels per pixel
            result[scale] = decode.crop_and_resize(
                image,
                (top * ratio[0], left * ratio[1], height * ratio[0], width * ratio[1]),
                (height, width),
                self._interpolation,
                self._channels,
            )
        return result
