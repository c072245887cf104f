"""Where the views of an image lie: from relative places to pixels."""

import dataclasses

from cnn_arch.evaluation.protocols import VIEWS, Plan


@dataclasses.dataclass(frozen=True)
class View:
    """One view, relative to the image; `weight` is its share in the average over all scales."""

    kind: str  # window, square (resized to a window) or whole
    place: tuple[float, float]  # of the window in its region
    square: float | None  # of the region along the longer side; None = the whole image
    mirrored: bool
    weight: float

    def box(self, size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) in an image of (height, width) pixels."""
        top, left, height, width = 0, 0, *size
        if self.square is not None:
            side = min(size)
            top, left = (int((length - side) * self.square) for length in size)
            height = width = side
        if self.kind == 'window':
            top += int((height - crop) * self.place[0])
            left += int((width - crop) * self.place[1])
            height = width = crop
        return top, left, height, width


def views_of(plan: Plan) -> list[View]:
    """The views of one image at each scale; over all scales weights sum to 1."""
    result = []
    for name in plan.views:
        views = VIEWS[name]
        squares: tuple[float | None, ...] = views.squares or (None,)
        kinds = [('whole', squares[0], (0.0, 0.0))] if views.whole else []
        for square in squares:
            kinds += [('window', square, place) for place in views.places]
            if views.resized:
                kinds.append(('square', square, (0.0, 0.0)))
        flips = (False, True) if views.mirror and plan.mirror else (False,)
        weight = 1 / (len(kinds) * len(flips) * len(plan.views) * len(plan.scales))
        result += [
            View(kind, place, square, flip, weight)
            for kind, square, place in kinds
            for flip in flips
        ]
    return result


def bounding_box(views: list[View], size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
    """The smallest (top, left, height, width) of an image of that size that holds all views."""
    boxes = [view.box(size, crop) for view in views]
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    bottom = max(box[0] + box[2] for box in boxes)
    right = max(box[1] + box[3] for box in boxes)
    return top, left, bottom - top, right - left
