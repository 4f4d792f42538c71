"""One function that dehazes images of any size with any network, within a memory budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.images import floats
from models.inference.borders import content_of
from models.inference.guided import LUMINANCE, enlarged, is_gray, is_large, shrunk
from models.inference.memory import free_memory
from models.inference.runner import Dehazed, Runner, as_memory_errors, is_out_of_memory
from models.inference.tiles import Tile
from models.options import InferenceConfig

_AROUND = 128  # columns that an end sees of the other; from 64 on, more change nothing with the packaged networks

log = logging.getLogger(__name__)


DEFAULT_CONFIG = InferenceConfig()
EXACT = InferenceConfig(working_side=None)
"""All pixels through the network: for the figures of papers."""


@torch.inference_mode()
@as_memory_errors()
def dehaze(
    network: nn.Module, image: Tensor, config: InferenceConfig = DEFAULT_CONFIG, *, wrap: bool = False
) -> Dehazed:
    """Dehaze a batch of images of one size.

    Images of more than a quarter of a megapixel are dehazed from a smaller version of them where
    ``config.working_side`` is set, all others from all of their pixels. Black or white borders are no part of the
    picture and are kept, unless all pixels are to be shown.

    Networks of this project run over bands of rows (:mod:`models.networks.bands`): exact, and only their feature maps
    are as large as the image. Feature maps that do not fit the memory budget are spilled; that is exact as well. Other
    networks get tiles with feathered overlaps when the image does not fit; what they take from the image as a whole
    they take from a smaller version of it, if they ask for it by :func:`models.networks.bands.shared`. When memory runs
    out all the same, it is tried again with less, down to tiles of 128 pixels.

    Args:
        network: maps N3HW in [0, 1] to a scene, or to an object with ``.scene`` and perhaps ``.transmission``.
        image: N3HW in [0, 1], any size from 1x1, on the network's device; of whatever float, it is taken as float32.
        config: precision and memory, whatever ``torch.autocast`` says around.
        wrap: the image goes on at its right end where it begins at its left, as panoramas of 360 degrees do.

    Returns:
        scene and transmission in float32 of the input's size, clamped to [0, 1]. Where the channels of an image are
        equal, those of the scene are: the luminance of what the network made. Time grows linearly with the pixels. They
        are inference tensors, without gradients: ``clone()`` one to change it in place, or to train with it.

    Raises:
        ImageError: the image is no such tensor.
        MemoryError: not even the least memory can be had.
        OSError: no space for feature maps in temporary files.
        ConfigError: the network gives no image, or one of another size.
    """
    image = floats(image)
    with torch.autocast(image.device.type, enabled=False):
        return (_around if wrap else _any)(network, image, config)


def _any(network: nn.Module, image: Tensor, config: InferenceConfig) -> Dehazed:
    """Dehaze images whose ends do not meet."""
    if config.working_side is not None and (insides := _insides(image)) is not None:
        return _batched([_inside(network, one[None], config, tile) for one, tile in zip(image, insides, strict=True)])
    # The smaller version comes back here, and is then too small for this.
    if (side := reduced_side(image.shape[-2:], config)) is not None:
        return _neutral(image, _guided(network, image, config, side))
    runner = Runner(network, image.device, config)
    budget = (config.memory_mb << 20) if config.memory_mb else free_memory(image.device) // 2
    if len(image) > 1 and runner.needs(image, budget) > budget:
        return _batched([_any(network, one, config) for one in torch.split(image, 1)])
    plan = runner.plan(image, budget)
    while True:
        try:
            return _neutral(image, runner.run(image, plan))
        except (MemoryError, RuntimeError) as problem:  # torch's own are RuntimeErrors
            if not is_out_of_memory(problem):
                raise
            less = runner.less(image, plan)
            if less is None:
                raise MemoryError(f"out of memory for an image of {tuple(image.shape)} with {plan}") from problem
            log.warning("out of memory with %s; trying %s", plan, less)
            plan = less
        # Gives back what the failed run held, which the next one may need in one piece.
        if image.is_cuda:
            torch.cuda.empty_cache()


def reduced_side(size: Sequence[int], config: InferenceConfig) -> int | None:
    """Return the long side of the smaller version from which an image of height and width ``size`` is dehazed; None
    where all of its pixels are used.
    """
    side = config.working_side
    return side if side is not None and config.tile is None and is_large(size, side) else None


def _insides(image: Tensor) -> list[Tile] | None:
    """Find the picture in each image, without black or white borders; None where no image has any."""
    whole = Tile(0, image.shape[-2], 0, image.shape[-1])
    found = [content_of(one) for one in torch.split(image, 1)]
    return None if all(tile == whole for tile in found) else found


def _inside(network: nn.Module, image: Tensor, config: InferenceConfig, tile: Tile) -> Dehazed:
    """Dehaze the picture within its borders, which are kept as they are."""
    found = _any(network, tile.of(image), config)
    scene = image.clone()
    tile.of(scene).copy_(found.scene)
    if found.transmission is None:
        return Dehazed(scene, None)
    # A border has no haze.
    transmission = torch.ones_like(image[:, :1])
    tile.of(transmission).copy_(found.transmission)
    return Dehazed(scene, transmission)


def _guided(network: nn.Module, image: Tensor, config: InferenceConfig, side: int) -> Dehazed:
    """Dehaze a smaller version, and do the same to all pixels."""
    small = shrunk(image, side)
    found = _any(network, small, config)
    both = enlarged(image, small, found.channels)
    return Dehazed(both[:, :3], None if found.transmission is None else both[:, 3:])


def _neutral(image: Tensor, found: Dehazed) -> Dehazed:
    """Keep gray pictures gray: of an image with equal channels the scene becomes its own luminance, in place."""
    for picture, scene in zip(image, found.scene, strict=True):
        if is_gray(picture):
            luminance = torch.einsum("chw,c->hw", scene, scene.new_tensor(LUMINANCE))
            scene.copy_(luminance.clamp_(0.0, 1.0))
    return found


def _around(network: nn.Module, image: Tensor, config: InferenceConfig) -> Dehazed:
    """Dehaze with the columns of each end repeated at the other; they are cut off again, whatever way the wider image
    is run.

    The columns that are there twice count twice in means over the image, which are the same for all of its pixels.
    """
    width = image.shape[-1]
    side = min(_AROUND, width)
    found = _any(network, torch.cat([image[..., -side:], image, image[..., :side]], dim=-1), config)
    middle = slice(side, side + width)
    return Dehazed(found.scene[..., middle], None if found.transmission is None else found.transmission[..., middle])


def _batched(parts: list[Dehazed]) -> Dehazed:
    transmissions = [part.transmission for part in parts if part.transmission is not None]
    scene = torch.cat([part.scene for part in parts])
    return Dehazed(scene, torch.cat(transmissions) if len(transmissions) == len(parts) else None)
