"""Looks while a network trains: what it makes of synthetic pairs of held-out photographs, the same ones every time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.contact_sheet import Line, contact_sheet
from models.images import to_uint8
from pipelines.train.methods.optimization import Batch
from pipelines.train.methods.supervised import predicted

_LEAST_SIDE = 192  # pixels of a picture; smaller crops are drawn larger
_PERFECT = 1e-10  # mean squared error of 100 dB


@torch.no_grad()
def validate(network: nn.Module, pairs: Batch) -> tuple[Tensor, Tensor]:
    """Dehaze pairs one by one, as nobody's batch tells how large one may be here.

    Args:
        network: in evaluation mode.
        pairs: ``hazy`` and ``clear``, N3HW in [0, 1].

    Returns:
        scenes N3HW in [0, 1], and the PSNR of each to the clear photograph, N in dB: higher is better.
    """
    scenes = torch.cat([predicted(network, one[None]).scene.clamp(0.0, 1.0) for one in pairs["hazy"]])
    errors = (scenes - pairs["clear"]).square().mean(dim=(1, 2, 3)).clamp_min(_PERFECT)
    return scenes, -10.0 * errors.log10()


def validation_sheet(pairs: Batch, scenes: Tensor, psnr: Tensor, title: str) -> Image.Image:
    """Draw hazy, dehazed and clear photographs side by side, with the PSNR of each."""
    columns = [to_uint8(images.cpu()) for images in (pairs["hazy"], scenes, pairs["clear"])]
    lines = [
        Line([_picture(image) for image in images], f"PSNR {value:.2f} dB")
        for *images, value in zip(*columns, psnr.tolist(), strict=True)
    ]
    return contact_sheet(lines, ["hazy", "dehazed", "clear"], title)


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(pixels)
    larger = -(-_LEAST_SIDE // picture.width)
    return picture.resize((picture.width * larger, picture.height * larger), Image.Resampling.NEAREST)
