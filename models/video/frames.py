"""A dehazer of frames that does not flicker; what it remembers of a clip can go from process to process."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.images import Array, quantize, to_tensor
from models.inference import (
    Dehazed,
    Look,
    Tile,
    adjusted,
    as_wanted,
    bands,
    coefficients,
    content_of,
    gray,
    is_gray,
    look_at,
    mapped,
    reduced_side,
    shrunk,
    steadied,
)
from models.options import InferenceConfig, VideoOptions
from models.video.smoothing import Smoother, changed, thumbnail

_EVERY = 6  # frames of which the network sees one, as long as they are alike
_ALIKE = 0.0125  # mean difference of thumbnails, in [0, 1], of frames that are


@dataclass(frozen=True)
class OpenFrame:
    """A frame to dehaze, of the dehazer that opened it.

    Attributes:
        whole: 13HW in [0, 1].
        hazy: its part without borders, a view.
        small: a smaller version of that, of a large frame.
        ask: what the network has to see, likewise 13HW; None: what it made of a frame before will do.
    """

    whole: Tensor
    hazy: Tensor
    small: Tensor | None
    ask: Tensor | None


@dataclass(frozen=True)
class _Seen:
    """A small frame that the network saw, its thumbnail, what was done to it (coefficients), and for how many frames
    that has been used.
    """

    thumbnail: Tensor
    fields: Tensor
    frames: int


class FrameDehazer:
    """Dehazes the frames of one clip, in order: :meth:`opened`, then the network of whoever has one, then
    :meth:`shown`. It holds no network, and can be pickled between two frames.

    Of large frames the network sees a smaller version (:mod:`models.inference.guided`), and while they are much alike
    only one in six: what it did to one is done to the next ones too.
    """

    def __init__(self, options: VideoOptions) -> None:
        self._options = options
        self._smoother = Smoother(options.smoothing)
        self._look: tuple[Look, float, int] | None = None  # of the frame before, its time, and cuts until then
        self._inside: Tile | None = None
        self._seen: _Seen | None = None

    @torch.inference_mode()
    def opened(self, pixels: Array, execution: InferenceConfig) -> OpenFrame:
        """Open a frame, (H, W, 3), for a network that is run like this."""
        whole = to_tensor(pixels)
        self._inside = content_of(whole, self._inside)
        hazy = self._inside.of(whole)
        side = reduced_side(hazy.shape[-2:], execution)
        if self._options.wrap or side is None:
            return OpenFrame(whole, hazy, None, hazy)
        small = shrunk(hazy, side)
        return OpenFrame(whole, hazy, small, None if self._knows(small) else small)

    def _knows(self, small: Tensor) -> bool:
        seen = self._seen
        if seen is None or seen.frames >= _EVERY:
            return False
        now = thumbnail(small)
        return now.shape == seen.thumbnail.shape and float((now - seen.thumbnail).abs().mean()) <= _ALIKE

    @torch.inference_mode()
    def shown(self, frame: OpenFrame, found: Dehazed | None, time: float, kind: np.dtype[Any]) -> Array:
        """The frame to show.

        Args:
            frame: of :meth:`opened`; it is written to.
            found: what the network made of ``frame.ask``.
            time: of the frame, in seconds.
            kind: of its pixels.

        Returns:
            its pixels.
        """
        if frame.small is not None:
            self._show_large(frame.hazy, frame.small, found, time)
        elif found is not None:
            scene = self._smoother(frame.hazy, found.scene, time)
            look = self._steady(look_at(frame.hazy, scene, found.transmission, self._options), time)
            frame.hazy.copy_(as_wanted(frame.hazy, scene, found.transmission, look))
        pixels: Array = quantize(frame.whole, kind)[0]
        return pixels

    def _show_large(self, hazy: Tensor, small: Tensor, found: Dehazed | None, time: float) -> None:
        """Write to a large frame what it becomes."""
        fields = self._fields(small, found)
        made = mapped(fields, small, 0, small.shape[-2])
        change = self._smoother.change(small, made[:, :3], time)
        if change is not None:
            fields = changed(fields, change)
            # Again, as look_at has to see the scene without flicker.
            made = mapped(fields, small, 0, small.shape[-2])
        if is_gray(hazy[0]):
            fields = gray(fields)
        look = self._steady(look_at(small, made[:, :3], _rest(made), self._options), time)
        if 0.0 <= look.strength <= 1.0:
            fields = fields[:, :3]  # of the transmission nothing is wanted any more
        height, width = hazy.shape[-2:]
        for top, bottom in bands(height, width):
            rows = hazy[:, :, top:bottom]
            made = mapped(fields, rows, top, height)
            rows.copy_(adjusted(rows, made[:, :3], _rest(made), look, top, height))

    def _fields(self, small: Tensor, found: Dehazed | None) -> Tensor:
        """What is done to a frame, as coefficients."""
        if found is not None:
            self._seen = _Seen(thumbnail(small), coefficients(small, found.channels), 1)
        elif self._seen is None:
            raise ValueError("the network has seen no frame yet")
        else:
            self._seen = replace(self._seen, frames=self._seen.frames + 1)
        return self._seen.fields

    def _steady(self, look: Look, time: float) -> Look:
        """What the controls take from a frame as a whole wavers as the network does, and is averaged over time too."""
        if self._look is not None and self._options.smoothing > 0.0:
            before, then, cuts = self._look
            kept = math.exp(-max(time - then, 0.0) / self._options.smoothing)
            look = look if cuts != self._smoother.cuts else steadied(before, look, kept)
        self._look = look, time, self._smoother.cuts
        return look


def _rest(made: Tensor) -> Tensor | None:
    """The transmission, where there is one after the three colors."""
    return made[:, 3:] if made.shape[1] > 3 else None
