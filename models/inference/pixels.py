"""A large photograph from pixels to pixels, in bands: neither it nor its result is ever whole in floating point."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.images import Array, quantize, to_tensor
from models.inference.borders import content_of
from models.inference.controls import blend, is_plain
from models.inference.dehazing import dehaze, reduced_side
from models.inference.guided import bands, coefficients, mapped, small_size
from models.options import Controls, InferenceConfig


@torch.inference_mode()
def dehaze_pixels(
    network: nn.Module, pixels: Array, config: InferenceConfig, controls: Controls, device: torch.device
) -> tuple[Array, float | None] | None:
    """Do what :func:`dehaze` and :func:`controlled` do to a photograph, bit for bit, with a fraction of the memory.

    Args:
        network: on ``device``.
        pixels: (H, W, 3), uint8 or uint16.
        config: precision and memory.
        controls: what is wanted.
        device: of the network.

    Returns:
        the result and how much haze there was, 1 - mean transmission; or None where it has to be done whole: all pixels
        are to be shown, it is small, gray, or the controls take something from the result as a whole.
    """
    strength = controls.strength
    if reduced_side(pixels.shape[:2], config) is None or strength == "auto" or not is_plain(controls):
        return None
    pixels = np.require(pixels, requirements=("C", "W"))  # as torch wants them; mostly they are
    inside = content_of(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    part = pixels[inside.top : inside.bottom, inside.left : inside.right]
    side = reduced_side(part.shape[:2], config)
    if side is None or _is_gray(part):
        return None
    small = _shrunk(part, side).to(device)
    found = dehaze(network, small, config)
    fields = coefficients(small, found.channels)
    height, width = part.shape[:2]
    out = pixels.copy()
    made = out[inside.top : inside.bottom, inside.left : inside.right]
    # Sum of the transmission over all pixels.
    clear = float(pixels.shape[0] * pixels.shape[1] - height * width)  # borders have no haze
    for top, bottom in bands(height, width):
        hazy = to_tensor(part[top:bottom]).to(device)
        both = mapped(fields, hazy, top, height)
        made[top:bottom] = quantize(blend(hazy, both[:, :3], strength), pixels.dtype)[0]
        clear += float(both[:, 3:].sum())
    return out, None if found.transmission is None else 1.0 - clear / (pixels.shape[0] * pixels.shape[1])


def _is_gray(pixels: Array) -> bool:
    """All channels are equal; most photographs show in their first rows that they are not."""
    return all((rows == rows[:, :, :1]).all() for rows in (pixels[:1], pixels))


def _shrunk(pixels: Array, side: int) -> Tensor:
    """Shrink as :func:`models.inference.guided.shrunk` does: along the rows first, a band at a time, then along the
    columns.
    """
    height, width = pixels.shape[:2]
    rows, columns = small_size((height, width), side)
    narrow = torch.empty(1, 3, height, columns)
    for top, bottom in bands(height, width):
        narrow[:, :, top:bottom] = _resized(to_tensor(pixels[top:bottom]), (bottom - top, columns))
    return _resized(narrow, (rows, columns))


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
