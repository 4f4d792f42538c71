"""Haze on clear photographs, as networks are trained on."""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from models.config import Settings, parse
from models.haze.depth import between, draw, generators, procedural_depths, smooth_field

_KIND = 0x5EED  # the kind of haze is drawn from another generator than the haze
_WARMTH = 0x3A4D  # so is the warmth of the airlight: haze without any stays what it was


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] <= ends[1]:
        raise ValueError("expected two numbers, the smaller one first")
    return ends


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0.0 <= ends[0] <= ends[1]:
        raise ValueError("expected two numbers, 0 or more, the smaller one first")
    return ends


NOISE_KINDS = (0.4, 0.4, 0.2)  # shares of gray noise, noise that is independent per channel, and correlated noise
BLOCK_PIXELS = 1 << 16  # of a batch at a time: what is computed in between stays in the processor's cache
_NAMES = (
    "span", "start", "beta", "airlight", "red", "green", "blue", "darken", "exponent", "noise", "sigma", "kind",
    "jpeg", "quality", "uneven", "lit", "tint",
)  # fmt: skip

Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class HazeConfig(Settings):
    """Haze synthesis of RIDCP (Wu et al., CVPR 2023), which CORUN trains on. Ranges are uniform, defaults the published
    ones; a fifth of the noise is correlated between the channels.

    Attributes:
        beta: range of the optical density; transmission is ``exp(-2 beta (1 - depth))``.
        airlight: range of the airlight's gray.
        darken_probability: share of the photographs that are darkened before they are hazed.
        darken_exponent: range of the exponent of that darkening.
        noise_probability: share of the photographs that get noise before they are hazed.
        noise_sigma: range of the standard deviation of that noise.
        jpeg_probability: share of the hazy images that pass through a JPEG encoder.
        jpeg_quality: range of that encoder's quality.
        airlight_cast: largest deviation of one channel of the airlight from its gray.
        airlight_warmth: what the red of the airlight has more and the blue has less; below 0 the other way round.
        depth_range_min: least share of the depth axis that one crop may span: below 1, a crop gets a random sub-range,
            because a crop of a photograph seldom sees everything from the lens to the horizon.
        unevenness: strength u of a smooth random field f by which density varies: optical depth times ``exp(u f)``.
        tint_probability: of a scene that is lit in the color of the airlight, more or less; its target is not.
        kinds: kinds of haze by name, each with its ``share`` (1 where it is not given) and what differs from the keys
            above. Every photograph gets one of them by chance; without any, all are as the keys above say.
    """

    beta: Range = (0.2, 2.8)
    airlight: Range = (0.25, 1.0)
    airlight_cast: float = Field(0.025, ge=0.0)
    airlight_warmth: Annotated[tuple[float, float], AfterValidator(_ascending)] = (0.0, 0.0)
    darken_probability: float = Field(0.5, ge=0.0, le=1.0)
    darken_exponent: Range = (1.5, 3.0)
    noise_probability: float = Field(0.5, ge=0.0, le=1.0)
    noise_sigma: Range = (0.008, 0.098)
    jpeg_probability: float = Field(0.5, ge=0.0, le=1.0)
    jpeg_quality: Range = (30, 95)
    depth_range_min: float = Field(1.0, gt=0.0, le=1.0)
    unevenness: Range = (0.0, 0.0)
    tint_probability: float = Field(0.0, ge=0.0, le=1.0)
    kinds: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _kinds_are_haze(self) -> HazeConfig:
        for name, share in self.shares().items():
            if not isinstance(share, (int, float)) or share <= 0:
                raise ValueError(f"kinds.{name}.share is {share!r}; expected a number above 0")
            if "kinds" in self.kinds[name]:
                raise ValueError(f"kinds.{name} has kinds of its own; expected none")
            parse(_Kind, self.model_dump(exclude={"kinds"}) | self.kinds[name], f"kinds.{name}")
        return self

    def shares(self) -> dict[str, float]:
        """Return the share of each kind, not normalized."""
        return {name: keys.get("share", 1.0) for name, keys in self.kinds.items()}

    def of_kind(self, name: str) -> HazeConfig:
        """Return the configuration of one kind alone.

        Raises:
            KeyError: there is no such kind.
        """
        own = {key: value for key, value in self.kinds[name].items() if key != "share"}
        return HazeConfig.model_validate(self.model_dump(exclude={"kinds"}) | own)


class _Kind(HazeConfig):
    """What ``kinds`` says of one of them."""

    share: float = 1.0


@dataclass(frozen=True)
class Synthesized:
    """Pairs: ``hazy``, ``clear`` N3HW, ``transmission``, ``depth`` N1HW in [0, 1]; ``beta`` N; N3 ``airlight`` and
    ``tint``, the color that the scene was lit in.
    """

    hazy: Tensor
    clear: Tensor
    transmission: Tensor
    depth: Tensor
    beta: Tensor
    airlight: Tensor
    tint: Tensor


@functools.cache
def _jpeg_codec() -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
    """Pixels (H, W, 3) through JPEG and back: libjpeg by imagecodecs, where it is missing by Pillow. Both give the
    same; imagecodecs takes half the time.
    """
    try:
        import imagecodecs
    except ImportError:
        return _jpeg_by_pillow
    encode, back = imagecodecs.jpeg8_encode, imagecodecs.jpeg8_decode
    return lambda pixels, quality: np.asarray(back(encode(pixels, level=quality, subsampling="420")))


def _jpeg_by_pillow(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Pass 3HW in [0, 1] through a JPEG encoder and back."""
    levels = (image.clamp(0, 1) * 255 + 0.5).numpy().astype(np.uint8)
    back = np.ascontiguousarray(_jpeg_codec()(np.stack(list(levels), axis=-1), quality).transpose(2, 0, 1))
    return torch.from_numpy(np.divide(back, 255, dtype=np.float32))


def _add_noise(scene: Tensor, sigma: float, kind: int, generator: torch.Generator) -> None:
    """Gaussian noise on a 3HW scene, in place: white gray, independent per channel, or correlated between channels."""
    noise = torch.randn(1 if kind == 0 else 3, *scene.shape[1:], generator=generator)
    if kind == 2:
        # Rows of length 1 keep the deviation of each channel.
        mix = torch.eye(3) + 0.5 * torch.rand(3, 3, generator=generator)
        noise = ((mix / mix.norm(dim=1, keepdim=True)) @ noise.flatten(1)).view_as(noise)
    scene.add_(noise.mul_(sigma)).clamp_(0, 1)


def _spoil(scene: Tensor, drawn: dict[str, Tensor], own: Sequence[torch.Generator], config: HazeConfig) -> None:
    """Darken some of the N3HW scenes and add noise to some, in place."""
    exponents = between(drawn["exponent"], *config.darken_exponent).tolist()
    for index in (drawn["darken"] < config.darken_probability).nonzero().flatten().tolist():
        # A power, several times as fast; the logarithm of 0 would be slow.
        scene[index].clamp_(min=1e-9).log_().mul_(exponents[index]).exp_()
    sigmas = between(drawn["sigma"], *config.noise_sigma).tolist()
    # In which of the shares, laid end to end, a number falls.
    kinds = torch.bucketize(drawn["kind"].contiguous(), torch.tensor(NOISE_KINDS).cumsum(0)[:-1], right=True).tolist()
    for index in (drawn["noise"] < config.noise_probability).nonzero().flatten().tolist():
        _add_noise(scene[index], sigmas[index], kinds[index], own[index])


def _densities(strengths: Tensor, own: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Draw the density of the haze in each place, 1 on the whole: N strengths to the shape N1HW of ``like``."""
    fields = torch.stack([smooth_field(generator) for generator in own])
    fields = F.interpolate(fields[:, None], size=like.shape[2:], mode="bilinear", align_corners=False)
    # Beyond two deviations haze would stand like a wall, or be missing.
    return fields.clamp_(-2.0, 2.0).mul_(strengths[:, None, None, None]).exp_()


def _fill(made: Synthesized, depth: Tensor | None, seeds: Sequence[int], config: HazeConfig) -> None:
    """Haze the clear photographs of ``made``: everything else in it is written. ``hazy`` is worked on in place."""
    own = generators(seeds)
    drawn = draw(own, _NAMES)
    made.beta.copy_(between(drawn["beta"], *config.beta))
    cast = between(torch.stack([drawn["red"], drawn["green"], drawn["blue"]], dim=1), -1, 1) * config.airlight_cast
    made.airlight.copy_(between(drawn["airlight"], *config.airlight)[:, None] + cast)
    if any(config.airlight_warmth):
        drawn |= draw(generators([seed ^ _WARMTH for seed in seeds]), ("warmth",))
        warmth = between(drawn["warmth"], *config.airlight_warmth)
        made.airlight.add_(torch.stack([warmth, torch.zeros_like(warmth), -warmth], dim=1))
    made.airlight.clamp_(0, 1)
    made.depth.copy_(procedural_depths(made.clear, seeds) if depth is None else depth)
    if config.depth_range_min < 1.0:
        span = between(drawn["span"], config.depth_range_min, 1.0)[:, None, None, None]
        made.depth.mul_(span).add_((1.0 - span) * drawn["start"][:, None, None, None])
    # log T first, -2 beta (1 - depth): unevenness multiplies it, and exp_() makes it T.
    for depth_of, beta, transmission in zip(made.depth, made.beta.tolist(), made.transmission, strict=True):
        torch.sub(depth_of, 1.0, out=transmission).mul_(2.0 * beta)
    if config.unevenness[1] > 0.0:
        made.transmission.mul_(_densities(between(drawn["uneven"], *config.unevenness), own, made.depth))
    made.transmission.exp_()
    _spoil(made.hazy.copy_(made.clear), drawn, own, config)
    airlight = made.airlight[:, :, None, None]
    for index in (drawn["lit"] < config.tint_probability).nonzero().flatten().tolist():
        color = made.airlight[index] / made.airlight[index].max().clamp(min=1e-6)
        # A power of 0 is white light, 1 that of the haze.
        made.tint[index] = color ** drawn["tint"][index]
        made.hazy[index].mul_(made.tint[index][:, None, None])
    made.hazy.sub_(airlight).mul_(made.transmission).add_(airlight).clamp_(0, 1)  # scatter() in place
    lowest, highest = config.jpeg_quality
    # Whole numbers, the highest as likely as the others.
    qualities = between(drawn["quality"], lowest, highest + 1).int().clamp(max=int(highest)).tolist()
    for index in (drawn["jpeg"] < config.jpeg_probability).nonzero().flatten().tolist():
        made.hazy[index] = jpeg(made.hazy[index], qualities[index])


def synthesize(
    clear: Tensor, depth: Tensor | None, seeds: Sequence[int], config: HazeConfig | None = None
) -> Synthesized:
    """Haze clear photographs on the fly.

    Args:
        clear: N3HW in [0, 1], on the CPU.
        depth: N1HW in [0, 1] with 1 = near, or None for a procedural map.
        seeds: one per photograph; the same seed gives the same haze.
        config: ranges and probabilities; the defaults are those of the RIDCP pipeline.

    Raises:
        ValueError: shapes of ``clear``, ``depth`` and ``seeds`` disagree.
    """
    if clear.dim() != 4 or clear.shape[1] != 3 or clear.shape[0] != len(seeds):
        raise ValueError(f"clear is {tuple(clear.shape)} with {len(seeds)} seeds; expected (N, 3, H, W) and N seeds")
    if depth is not None and depth.shape != (clear.shape[0], 1, *clear.shape[2:]):
        raise ValueError(f"depth is {tuple(depth.shape)}; expected {(clear.shape[0], 1, *clear.shape[2:])}")
    count, _channels, *size = clear.shape
    made = Synthesized(
        torch.empty(count, 3, *size), clear, torch.empty(count, 1, *size), torch.empty(count, 1, *size),
        torch.empty(count), torch.empty(count, 3), torch.ones(count, 3),
    )  # fmt: skip
    step = max(1, BLOCK_PIXELS // max(1, math.prod(size)))
    for kind, block in _blocks(seeds, config or HazeConfig(), step):
        # Slices are views: what is written to them is in `made`.
        parts = Synthesized(*(getattr(made, field.name)[block] for field in fields(made)))
        _fill(parts, None if depth is None else depth[block], seeds[block], kind)
    return made


def kinds_of(seeds: Sequence[int], config: HazeConfig) -> list[str]:
    """Return the name of the kind of haze that each seed gets; empty names where there are no kinds."""
    if not config.kinds:
        return [""] * len(seeds)
    shares = config.shares()
    names, ends = list(shares), np.cumsum(list(shares.values()))
    drawn = [float(torch.rand((), generator=generator)) for generator in generators([seed ^ _KIND for seed in seeds])]
    return [names[int(np.searchsorted(ends, number * ends[-1], side="right"))] for number in drawn]


def _blocks(seeds: Sequence[int], config: HazeConfig, most: int) -> Iterator[tuple[HazeConfig, slice]]:
    """Yield slices of neighboring images with one kind of haze, at most ``most`` at a time."""
    configs = {name: config.of_kind(name) for name in config.kinds} or {"": config}
    start = 0
    for name, run in itertools.groupby(kinds_of(seeds, config)):
        end = start + len(list(run))
        yield from ((configs[name], slice(first, min(first + most, end))) for first in range(start, end, most))
        start = end
