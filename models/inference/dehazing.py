"""One function that dehazes images of any size with any network, within a memory budget."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inference.borders import content_of
from models.inference.guided import LUMINANCE, enlarged, is_gray, is_large, shrunk
from models.inference.memory import free_memory, peak_bytes
from models.inference.tiles import Tile, feather, tiles_of
from models.networks import Light, banded, pad_to_multiple, recording, replaying
from models.options import MULTIPLE, InferenceConfig

_BAND = {"cpu": 1_000_000, "cuda": 1 << 26}  # elements: what a CPU's caches hold; enough to keep a GPU busy
_SMALLEST_TILE = 128
_SMALLEST_BAND = 1 << 14
_BAND_COST = 24  # intermediates of a band, in its input's elements
_CERTAIN = 4096  # bytes per pixel that no network of ours comes near: below, memory needs no measuring
_PROBES = (128, 256)
_AROUND = 128  # columns that an end sees of the other; from 64 on, more change nothing with the packaged networks

log = logging.getLogger(__name__)


DEFAULT_CONFIG = InferenceConfig()
EXACT = InferenceConfig(working_side=None)
"""All pixels through the network: for the figures of papers."""


@dataclass(frozen=True)
class Dehazed:
    """``scene`` N3HW in [0, 1]; ``transmission`` N1HW in [0, 1] and ``light``, None where the network gives none."""

    scene: Tensor
    transmission: Tensor | None
    light: Light | None = None

    @property
    def channels(self) -> Tensor:
        """Return scene and transmission, if there is one, as one image: N3HW or N4HW."""
        return self.scene if self.transmission is None else torch.cat([self.scene, self.transmission], dim=1)


def as_dehazed(output: Any) -> Dehazed:
    """Return what a network gave as scene and transmission: a tensor is a scene; anything else has the attributes.

    Raises:
        TypeError: neither a tensor nor an object with a ``scene``.
    """
    if isinstance(output, Tensor):
        return Dehazed(output, None)
    scene = getattr(output, "scene", None)
    if not isinstance(scene, Tensor):
        raise TypeError(f"a network must map an image to an image; it returned {type(output).__name__} without .scene")
    return Dehazed(scene, getattr(output, "transmission", None), getattr(output, "light", None))


def native_precision(device: torch.device) -> torch.dtype:
    """Return the fastest precision of a device: float16 on a GPU, which is 18 dB nearer to float32 than bfloat16 and as
    fast; on a CPU bfloat16 where it has instructions for it, else float32.
    """
    if device.type == "cuda":
        return torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return torch.bfloat16 if device.type == "cpu" and capable else torch.float32


@torch.inference_mode()
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
        image: N3HW float in [0, 1], any size from 1x1, on the network's device.
        config: precision and memory.
        wrap: the image goes on at its right end where it begins at its left, as panoramas of 360 degrees do.

    Returns:
        scene and transmission in float32 of the input's size, clamped to [0, 1]. Where the channels of an image are
        equal, those of the scene are: the luminance of what the network made. Time grows linearly with the pixels.

    Raises:
        MemoryError: not even the least memory can be had.
        OSError: no space for feature maps in temporary files.
        TypeError: the network gives no image, or one of another size.
    """
    if wrap:
        return _around(network, image, config)
    if config.working_side is not None and (insides := _insides(image)) is not None:
        return _batched([_inside(network, one[None], config, tile) for one, tile in zip(image, insides, strict=True)])
    if (side := reduced_side(image.shape[-2:], config)) is not None:
        return _neutral(image, _guided(network, image, config, side))
    runner = _Runner(network, image.device, config)
    budget = (config.memory_mb << 20) if config.memory_mb else free_memory(image.device) // 2
    if len(image) > 1 and runner.needs(image, budget) > budget:
        return _batched([dehaze(network, one, config) for one in torch.split(image, 1)])
    plan = runner.plan(image, budget)
    while True:
        try:
            return _neutral(image, runner.run(image, plan))
        except (MemoryError, RuntimeError) as problem:  # torch's own are RuntimeErrors
            if not _is_out_of_memory(problem):
                raise
            less = runner.less(image, plan)
            if less is None:
                raise MemoryError(f"out of memory for an image of {tuple(image.shape)} with {plan}") from problem
            log.warning("out of memory with %s; trying %s", plan, less)
            plan = less
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
    found = dehaze(network, tile.of(image), config)
    scene = image.clone()
    tile.of(scene).copy_(found.scene)
    if found.transmission is None:
        return Dehazed(scene, None)
    transmission = torch.ones_like(image[:, :1])
    tile.of(transmission).copy_(found.transmission)
    return Dehazed(scene, transmission)


def _guided(network: nn.Module, image: Tensor, config: InferenceConfig, side: int) -> Dehazed:
    """Dehaze a smaller version, and do the same to all pixels."""
    small = shrunk(image, side)
    found = dehaze(network, small, config)
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
    found = dehaze(network, torch.cat([image[..., -side:], image, image[..., :side]], dim=-1), config)
    middle = slice(side, side + width)
    return Dehazed(found.scene[..., middle], None if found.transmission is None else found.transmission[..., middle])


def _is_out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(problem)


_COSTS: WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[float, float]]] = WeakKeyDictionary()
_FLOAT32: WeakSet[nn.Module] = WeakSet()  # networks that end in half precision, or whose numbers do not fit into it
_COMPILED: WeakKeyDictionary[nn.Module, Callable[[Tensor], Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class ExecutionPlan:
    """How an image is run: elements of a band, feature maps spilled or not, side of the tiles (0: none), compiled."""

    band: int
    spill: bool = False
    tile: int = 0
    compile: bool = False


class _Runner:
    """A network, as it is run on one device."""

    def __init__(self, network: nn.Module, device: torch.device, config: InferenceConfig) -> None:
        self.network, self.device, self.config = network, device, config
        chosen = config.precision
        self.dtype = native_precision(device) if chosen == "auto" else getattr(torch, chosen)
        if network in _FLOAT32:
            self.dtype = torch.float32
        self.in_bands = bool(getattr(network, "BANDED", False))
        self.band = _BAND.get(device.type, _BAND["cuda"])

    def plan(self, image: Tensor, budget: int) -> ExecutionPlan:
        """Plan what fits ``budget`` bytes, as fast as may be."""
        if self.config.tile is not None and max(image.shape[-2:]) > self.config.tile:
            return ExecutionPlan(self.band, tile=self.config.tile)
        if self.needs(image, budget) <= budget:
            return ExecutionPlan(self.band, compile=self.config.compile)
        if self.in_bands:
            return ExecutionPlan(self.band, spill=True)
        per_pixel, fixed = self._cost()
        return ExecutionPlan(self.band, tile=_tile_side(max(0.0, budget - fixed) / per_pixel))

    def less(self, image: Tensor, plan: ExecutionPlan) -> ExecutionPlan | None:
        """Return the next plan, which needs less memory; None when there is none."""
        if plan.compile and self.in_bands:
            return replace(plan, compile=False)
        if plan.tile:
            return None if plan.tile == _SMALLEST_TILE else replace(plan, tile=_tile_side(plan.tile**2 / 4))
        if not self.in_bands:
            side = _tile_side(image.shape[-2] * image.shape[-1] / 4)
            return ExecutionPlan(self.band, tile=side) if side < max(image.shape[-2:]) else None
        if not plan.spill:
            return replace(plan, spill=True)
        return None if plan.band <= _SMALLEST_BAND else replace(plan, band=plan.band // 4)

    def run(self, image: Tensor, plan: ExecutionPlan) -> Dehazed:
        """Dehaze as planned."""
        return self._tiled(image, plan) if plan.tile else self.whole(image, plan)

    def whole(self, image: Tensor, plan: ExecutionPlan) -> Dehazed:
        """Dehaze all of an image at once: padded, in bands, clamped."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, MULTIPLE).contiguous(memory_format=torch.channels_last)
        with self._execution(plan):
            found = as_dehazed((self._compiled() if plan.compile else self.network)(padded))
        if found.scene.shape != padded.shape:
            raise TypeError(
                f"a network must map an image to an image of its size; of {tuple(padded.shape)} it made "
                f"{tuple(found.scene.shape)}"
            )
        rounded = self.dtype != torch.float32 and found.scene.dtype.itemsize < torch.float32.itemsize
        if rounded or (self.dtype == torch.float16 and not found.scene.isfinite().all()):
            _FLOAT32.add(self.network)
            self.dtype = torch.float32
            return self.whole(image, plan)

        def cropped(part: Tensor) -> Tensor:
            return part[..., :height, :width].to(self.device, torch.float32).clamp(0.0, 1.0)

        return Dehazed(cropped(found.scene), None if found.transmission is None else cropped(found.transmission))

    def needs(self, image: Tensor, enough: int) -> int:
        """Bytes of working memory for all of an image; no more than a bound where that is ``enough``."""
        pixels = len(image) * image.shape[-2] * image.shape[-1]
        if pixels * _CERTAIN <= enough:
            return pixels * _CERTAIN
        per_pixel, fixed = self._cost()
        return int(per_pixel * pixels + fixed)

    def _cost(self) -> tuple[float, float]:
        """Bytes per pixel and bytes however small the image, measured once per network on two small images."""
        known = _COSTS.setdefault(self.network, {})
        if self.dtype not in known:
            small, large = (self._measure(side) for side in _PROBES)
            per_pixel = (large - small) / (_PROBES[1] ** 2 - _PROBES[0] ** 2)
            band = _BAND_COST * self.band * self.dtype.itemsize if self.in_bands else 0.0
            known[self.dtype] = max(1.0, per_pixel), max(0.0, large - per_pixel * _PROBES[1] ** 2) + band
        return known[self.dtype]

    def _measure(self, side: int) -> int:
        probe = torch.rand(1, 3, side, side, device=self.device)
        return peak_bytes(lambda: self.whole(probe, ExecutionPlan(1)))

    def _tiled(self, image: Tensor, plan: ExecutionPlan) -> Dehazed:
        height, width = image.shape[-2:]
        overlap = min(self.config.overlap, plan.tile // 4)
        statistics = self._statistics(image, plan)
        sums: dict[str, Tensor] = {}
        weights = torch.zeros(height, width, device=self.device)
        for tile in tiles_of(height, width, plan.tile, overlap):
            with replaying(statistics):
                found = self.whole(tile.of(image), plan)
            weight = feather(tile, height, width, overlap, self.device)
            tile.of(weights).add_(weight)
            for name, part in (("scene", found.scene), ("transmission", found.transmission)):
                if part is None:
                    continue
                if name not in sums:
                    sums[name] = torch.zeros(*part.shape[:2], height, width, device=self.device)
                tile.of(sums[name]).add_(part * weight)
        means = {name: total.div_(weights).clamp_(0.0, 1.0) for name, total in sums.items()}
        return Dehazed(means["scene"], means.get("transmission"))

    def _statistics(self, image: Tensor, plan: ExecutionPlan) -> list[Tensor]:
        """Record the statistics of the whole image, at the resolution at which it is no larger than a tile."""
        scale = min(1.0, plan.tile / math.sqrt(image.shape[-2] * image.shape[-1]))
        size = tuple(max(1, int(length * scale)) for length in image.shape[-2:])
        small = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        with recording() as kept:
            self.whole(small, plan)
        return kept

    @contextlib.contextmanager
    def _execution(self, plan: ExecutionPlan) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.in_bands and not plan.compile:
                stack.enter_context(banded(plan.band, spill=plan.spill, device=self.device))
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            yield

    def _compiled(self) -> Callable[[Tensor], Any]:
        if self.network not in _COMPILED:
            _COMPILED[self.network] = torch.compile(self.network)
        return _COMPILED[self.network]


def _tile_side(pixels: float) -> int:
    """Side of a square tile of at most ``pixels``, a whole number of multiples, not below the smallest."""
    return max(_SMALLEST_TILE, math.isqrt(int(pixels)) // MULTIPLE * MULTIPLE)


def _batched(parts: list[Dehazed]) -> Dehazed:
    transmissions = [part.transmission for part in parts if part.transmission is not None]
    scene = torch.cat([part.scene for part in parts])
    return Dehazed(scene, torch.cat(transmissions) if len(transmissions) == len(parts) else None)
