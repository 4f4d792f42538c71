"""A dehazer of frames that does not flicker; what it remembers of a clip can go from process to process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.images import Array, quantize, to_tensor
from models.inference import Dehazed, Look, Tile, as_wanted, content_of, look_at, steadied
from models.options import VideoOptions
from models.video.smoothing import Smoother


class FrameDehazer:
    """Dehazes the frames of one clip, in order: :meth:`opened`, then the network of whoever has one, then
    :meth:`shown`. It holds no network, and can be pickled between two frames.
    """

    def __init__(self, options: VideoOptions) -> None:
        self._options = options
        self._smoother = Smoother(options.smoothing)
        self._look: tuple[Look, float, int] | None = None  # of the frame before, its time, and cuts until then
        self._inside: Tile | None = None

    @torch.inference_mode()
    def opened(self, pixels: Array) -> tuple[Tensor, Tensor]:
        """The frame (1, 3, H, W) in [0, 1], and the part of it that the network has to see: a view, without borders."""
        whole = to_tensor(pixels)
        self._inside = content_of(whole, self._inside)
        return whole, self._inside.of(whole)

    @torch.inference_mode()
    def shown(self, whole: Tensor, hazy: Tensor, found: Dehazed, time: float, kind: np.dtype[Any]) -> Array:
        """The frame to show.

        Args:
            whole, hazy: of :meth:`opened`; they are written to.
            found: what the network made of ``hazy``.
            time: of the frame, in seconds.
            kind: of its pixels.

        Returns:
            its pixels.
        """
        scene = self._smoother(hazy, found.scene, time)
        look = self._steady(look_at(hazy, scene, found.transmission, self._options), time)
        hazy.copy_(as_wanted(hazy, scene, found.transmission, look))
        pixels: Array = quantize(whole, kind)[0]
        return pixels

    def _steady(self, look: Look, time: float) -> Look:
        """What the controls take from a frame as a whole wavers as the network does, and is averaged over time too."""
        if self._look is not None and self._options.smoothing > 0.0:
            before, then, cuts = self._look
            kept = math.exp(-max(time - then, 0.0) / self._options.smoothing)
            look = look if cuts != self._smoother.cuts else steadied(before, look, kept)
        self._look = look, time, self._smoother.cuts
        return look
