"""A network, as it is run on one device: its precision, its memory, and whether in bands, spilled or in tiles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ConfigError
from models.inference.memory import peak_bytes
from models.inference.tiles import feather, tiles_of
from models.networks import Light, banded, pad_to_multiple, recording, replaying
from models.options import MULTIPLE, InferenceConfig

_BAND = {"cpu": 1_000_000, "cuda": 1 << 26}  # elements: what a CPU's caches hold; enough to keep a GPU busy
_SMALLEST_TILE = 128
_SMALLEST_BAND = 1 << 14
_BAND_COST = 24  # intermediates of a band, in its input's elements
_CERTAIN = 4096  # bytes per pixel that no network of ours comes near: below, memory needs no measuring
_PROBES = (128, 256)


@dataclass(frozen=True)
class Dehazed:
    """``scene`` N3HW in [0, 1]; ``transmission`` N1HW in [0, 1], None where the network gives none; and ``light``, of a
    network's own output only.
    """

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
        ConfigError: neither a tensor nor an object with a ``scene``.
    """
    if isinstance(output, Tensor):
        return Dehazed(output, None)
    scene = getattr(output, "scene", None)
    if not isinstance(scene, Tensor):
        raise ConfigError(
            f"a network must map an image to an image; it returned {type(output).__name__} without .scene"
        )
    return Dehazed(scene, getattr(output, "transmission", None), getattr(output, "light", None))


def require_size(found: Dehazed, images: Tensor) -> None:
    """Check that scene and transmission are those of N3HW images.

    Raises:
        ConfigError: they have other sizes.
    """
    number, _, *size = images.shape
    for what, given, shape in (
        ("an image", found.scene, (number, 3, *size)), ("a transmission", found.transmission, (number, 1, *size)),
    ):  # fmt: skip
        if given is not None and tuple(given.shape) != shape:
            raise ConfigError(
                f"the network gave {what} of {tuple(given.shape)}; expected {shape}, the size of its input"
            )


def native_precision(device: torch.device) -> torch.dtype:
    """Return the fastest precision of a device: float16 on a GPU, which is 18 dB nearer to float32 than bfloat16 and as
    fast; else float32, which on CPUs is faster even where they have instructions for bfloat16.
    """
    return torch.float16 if device.type == "cuda" else torch.float32


def is_out_of_memory(problem: Exception) -> bool:
    """Return whether torch, or Python, found no memory."""
    signs = ("allocate memory", "ALLOC_FAILED")  # of torch's allocator for CPUs; of cuBLAS and cuDNN
    told = isinstance(problem, torch.OutOfMemoryError | MemoryError)
    return told or any(sign in str(problem) for sign in signs)


@contextlib.contextmanager
def as_memory_errors() -> Iterator[None]:
    """Make a MemoryError of what torch raises where it finds no memory.

    Raises:
        MemoryError: so it is.
    """
    try:
        yield
    except RuntimeError as problem:
        if is_out_of_memory(problem):
            raise MemoryError("not enough memory to dehaze the image; reduce its size") from problem
        raise


# Of networks as long as they live.
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


class Runner:
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
        require_size(found, padded)
        rounded = self.dtype != torch.float32 and found.scene.dtype.itemsize < torch.float32.itemsize
        if rounded or (self.dtype == torch.float16 and not found.scene.isfinite().all()):
            self.dtype = torch.float32
            exact = self.whole(image, plan)
            if rounded or exact.scene.isfinite().all():  # else it is the image, or the weights
                _FLOAT32.add(self.network)
            return exact

        def cropped(part: Tensor) -> Tensor:
            part = part[..., :height, :width].to(self.device, torch.float32)
            return part.clamp(0.0, 1.0).masked_fill_(part.isinf(), math.nan)  # infinity is no white

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
            # A straight line through two sizes: bytes per pixel, and bytes that are always there.
            small, large = (self._measure(side) for side in _PROBES)
            per_pixel = (large - small) / (_PROBES[1] ** 2 - _PROBES[0] ** 2)
            band = _BAND_COST * self.band * self.dtype.itemsize if self.in_bands else 0.0
            known[self.dtype] = max(1.0, per_pixel), max(0.0, large - per_pixel * _PROBES[1] ** 2) + band
        return known[self.dtype]

    def _measure(self, side: int) -> int:
        probe = torch.linspace(0.0, 1.0, 3 * side * side, device=self.device).view(1, 3, side, side)
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
        # Where tiles overlap, their weights need not add up to 1.
        means = {name: total.div_(weights).clamp_(0.0, 1.0) for name, total in sums.items()}
        return Dehazed(means["scene"], means.get("transmission"))

    def _statistics(self, image: Tensor, plan: ExecutionPlan) -> list[Tensor]:
        """Record the statistics of the whole image, at the resolution at which it is no larger than a tile."""
        # As many pixels as a tile, in the image's own shape.
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
