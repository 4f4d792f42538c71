"""Dehazed frames without flicker: the transmission that a network in effect used is smoothed over time.

A network sees each frame alone, so noise and compression make its idea of the haze waver, and the picture's brightness
and color with it. By the scattering model ``P = J T + A (1 - T)`` a dehazed frame is locally ``J = slope P + offset``
with ``slope = 1 / T`` and ``offset = A (1 - 1 / T)``, whatever the network. The two fields are fitted at low resolution
(the coefficients of a guided filter, per channel), follow the motion of the scene, and are averaged over time; the
frame is changed by the difference between the averaged and its own fields. What the network does to details is kept.

Where a cell does not look like the one that motion says it was, and after a cut, its memory is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.inference import guided_coefficients

_CELL = 6  # pixels of the frame that make a cell of the fields, at least
_SIDE = 64  # of the fields, in cells, at most
_RADIUS = 1  # of the fit, in cells
_EPSILON = 5e-3  # of the fit: contrast, as a variance, below which it is all offset
_LIKENESS = 0.06  # difference of a cell, in [0, 1], at which little of its memory is kept
_SLIP = 0.1  # of a cell, by which one seems to move where nothing moves but grain
_CUT = 0.35  # mean confidence below which the scene is another one


@dataclass
class _Memory:
    """Of the frame before: itself and its averaged fields, at low resolution, and how many frames they stand for."""

    hazy: Tensor  # 13hw
    fields: Tensor  # 16hw: slope and offset
    count: Tensor  # 11hw
    time: float


class Smoother:
    """Smooths the frames of one clip, in order.

    Args:
        seconds: time constant of the average; 0 leaves the frames as they are.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._memory: _Memory | None = None
        self.cuts = 0

    def __call__(self, hazy: Tensor, scene: Tensor, time: float) -> Tensor:
        """The scene to show.

        Args:
            hazy: (1, 3, H, W) in [0, 1].
            scene: what a network made of it, likewise.
            time: of the frame, in seconds, later than that of the frame before.
        """
        change = self.change(hazy, scene, time)
        if change is None:
            return scene
        change = F.interpolate(change, size=hazy.shape[-2:], mode="bilinear", align_corners=False)
        return (scene + change[:, :3] * hazy + change[:, 3:]).clamp_(0.0, 1.0)

    def change(self, hazy: Tensor, scene: Tensor, time: float) -> Tensor | None:
        """What has to be done to the scene besides: slopes and offsets (1, 6, h, w) of a small version of the frame, by
        which ``slope * hazy + offset`` is added; None leaves it as it is. Arguments as of a call.
        """
        if self._seconds <= 0:
            return None
        small_hazy, small_scene = thumbnail(hazy), thumbnail(scene)
        own = torch.cat(guided_coefficients(small_hazy, small_scene, _RADIUS, _EPSILON), dim=1)
        averaged, count = self._average(small_hazy, own, time)
        self._memory = _Memory(small_hazy, averaged, count, time)
        return averaged - own

    def _average(self, hazy: Tensor, own: Tensor, time: float) -> tuple[Tensor, Tensor]:
        old = self._memory
        fresh = torch.ones_like(hazy[:, :1])
        if old is None or old.hazy.shape != hazy.shape:
            return own, fresh
        grid = _motion(old.hazy, hazy)
        # The frame before with all that is known of it, moved to where it is now: 1(3+6+1)hw.
        before = F.grid_sample(
            torch.cat([old.hazy, old.fields, old.count], dim=1), grid, padding_mode="border", align_corners=True
        )
        # Of brightness, over 3x3 cells: grain and chroma noise are no other scene.
        difference = F.avg_pool2d(
            (before[:, :3] - hazy).mean(dim=1, keepdim=True).abs(), 3, 1, 1, count_include_pad=False
        )
        confidence = torch.exp(-((difference / _LIKENESS) ** 2))
        if confidence.mean() < _CUT:
            self.cuts += 1
            return own, fresh
        # What has come into the picture has no past. Without the slip grain would drop the memory along the edges in
        # every frame; -1 to 1 of the grid are width - 1 or height - 1 cells.
        reach = 1 + 2 * _SLIP / (grid.new_tensor(grid.shape[2:0:-1]) - 1)
        inside = (grid.abs() <= reach).all(dim=3)[:, None]
        count = before[:, 9:] * confidence * inside
        # A plain mean over the first frames, an exponential one from then on.
        kept = (count / (count + 1)).clamp(max=math.exp(-max(time - old.time, 0.0) / self._seconds))
        return torch.lerp(own, before[:, 3:9], kept), count + 1


def changed(fields: Tensor, change: Tensor) -> Tensor:
    """Add a :meth:`Smoother.change` to maps of color (1, C, 4, h, w), as of :func:`models.inference.coefficients`."""
    change = F.interpolate(change, size=fields.shape[-2:], mode="bilinear", align_corners=False)
    fields = fields.clone()
    # The 3x3 slopes' diagonal, a view 1hw3.
    fields[:, :3, :3].diagonal(dim1=1, dim2=2).add_(change[:, :3].movedim(1, -1))  # of each color by itself
    fields[:, :3, 3] += change[:, 3:]
    return fields


def thumbnail(image: Tensor) -> Tensor:
    """Return a frame at the size of the fields."""
    height, width = image.shape[-2:]
    scale = min(1 / _CELL, _SIDE / max(height, width))
    size = (max(2, round(height * scale)), max(2, round(width * scale)))
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def _motion(before: Tensor, now: Tensor) -> Tensor:
    """Where every cell of ``now`` was in ``before``: a grid for ``grid_sample``, (1, h, w, 2); beyond 1: not in it."""
    from skimage.registration import optical_flow_ilk

    gray = [image.mean(dim=1)[0].cpu().numpy() for image in (now, before)]
    height, width = gray[0].shape
    rows, columns = optical_flow_ilk(*gray, radius=7, num_warp=2)  # type: ignore[no-untyped-call]  # untyped there
    y, x = np.mgrid[:height, :width]
    # From cells to the -1..1 of `grid_sample`, x before y.
    places = np.stack([(x + columns) / (width - 1), (y + rows) / (height - 1)], axis=-1)[None] * 2 - 1
    return torch.from_numpy(places.astype(np.float32)).to(now.device)
