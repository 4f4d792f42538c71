"""One function that dehazes images of any size with any network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks import pad_to_multiple

MULTIPLE = 8


@dataclass(frozen=True)
class Dehazed:
    """``scene`` N3HW in [0, 1] and ``transmission`` N1HW in [0, 1], None where the network gives none."""

    scene: Tensor
    transmission: Tensor | None


def as_dehazed(output: Any) -> Dehazed:
    """What a network returned, as scene and transmission: a tensor is a scene; anything else has the attributes.

    Raises:
        TypeError: neither a tensor nor an object with a ``scene``.
    """
    if isinstance(output, Tensor):
        return Dehazed(output, None)
    scene = getattr(output, "scene", None)
    if not isinstance(scene, Tensor):
        raise TypeError(f"a network must map an image to an image; it returned {type(output).__name__} without .scene")
    return Dehazed(scene, getattr(output, "transmission", None))


@torch.inference_mode()
def dehaze(network: nn.Module, image: Tensor) -> Dehazed:
    """Dehaze a batch of images of one size.

    Args:
        network: maps N3HW in [0, 1] to a scene, or to an object with ``.scene`` and perhaps ``.transmission``.
        image: N3HW in [0, 1], any size from 1x1, on the network's device.

    Returns:
        scene and transmission of the input's size, clamped to [0, 1]. Memory and time grow linearly with the pixels.
    """
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image, MULTIPLE).contiguous(memory_format=torch.channels_last)
    found = as_dehazed(network(padded))
    transmission = None if found.transmission is None else found.transmission[..., :height, :width].clamp(0.0, 1.0)
    return Dehazed(found.scene[..., :height, :width].clamp(0.0, 1.0), transmission)


def blend(hazy: Tensor, scene: Tensor, strength: float) -> Tensor:
    """``strength`` 0 gives the hazy image, 1 the dehazed one. Shapes N3HW."""
    return scene if strength == 1.0 else torch.lerp(hazy, scene, strength)
