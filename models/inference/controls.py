"""What photographers ask for beyond "dehaze it": how strong, how far away, at which exposure.

All of it works on what came out of *any* network: the hazy photograph P, its scene J, and the transmission T where the
network gives one. What a photograph says as a whole (the airlight, how far it reaches, the exposure) is taken from a
small version of it, once; the rest is done pixel by pixel, in bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ConfigError
from models.inference.borders import content_of
from models.inference.guided import LUMINANCE, bands, box_mean, color_coefficients, mapped, shrunk
from models.inference.runner import as_memory_errors
from models.options import Controls

VERDICTS = ((0.15, "hardly any haze"), (0.35, "light haze"), (0.55, "haze"), (float("inf"), "dense haze"))
"""What haze, 1 - mean transmission, below each number is called."""

_AUTO = (0.05, 0.2)  # haze at which "auto" begins, and is all there
_SIDE = 256  # of the small version
_RADIUS, _EPSILON = 4, 1e-4  # of the fit of masks to the photograph, as of `color_coefficients`
_SOFT = 0.15  # half the width of the border of "distance", in shares of the scene's
_FARTHEST = 0.98  # quantile of the optical distance that counts as the end of the scene
_LEAST = 0.5  # transmission that strengths beyond 1 count with: far away all would be black, and noise grows
_NEARNESS = 16  # power of the transmission that weighs pixels for the exposure: those nearest decide
_GAIN = 2.5  # of the exposure, at most
_HIGHLIGHTS = (0.92, 0.99)  # luminance from which a pixel is one, and is one altogether
_SKY_NOISE = 0.02  # standard deviation of the luminance of sky, at most about


class NoTransmissionError(ConfigError):
    """What was asked for needs a transmission, and the model gives none."""


def haze_of(transmission: Tensor | None) -> float | None:
    """Return how much haze there is in a photograph: 1 - mean transmission, in [0, 1]; None where there is none."""
    return None if transmission is None else 1.0 - float(transmission.mean())


def verdict(haze: float) -> str:
    """Return an amount of haze in words."""
    return next(words for below, words in VERDICTS if haze < below)


def blend(hazy: Tensor, scene: Tensor, strength: float) -> Tensor:
    """Blend N3HW images: ``strength`` 0 gives the hazy image, 1 the dehazed one."""
    return scene if strength == 1.0 else torch.lerp(hazy, scene, strength)


def estimate_airlight(hazy: Tensor, scene: Tensor, transmission: Tensor) -> Tensor:
    """Estimate the airlight A that a result implies, by weighted least squares of ``P - J T = A (1 - T)``, weights ``1
    - T``.

    Where there is next to no haze, it is the color of what is farthest.

    Returns:
        1311 in [0, 1].
    """
    absent = 1.0 - transmission
    far = absent**4 + 1e-12
    prior = (far * hazy).mean((2, 3), keepdim=True) / far.mean((2, 3), keepdim=True)
    numerator = (absent**2 * (hazy - scene * transmission)).mean((2, 3), keepdim=True)
    denominator = (absent**3).mean((2, 3), keepdim=True)
    return ((numerator + 1e-4 * prior) / (denominator + 1e-4)).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Look:
    """What the controls mean for one photograph.

    Attributes:
        strength: a number, whatever "auto" came to.
        airlight: 1311, where it is needed.
        gain: of the exposure; 1 keeps that of the scene.
        share: coefficients (1, 1, 4, h, w), as of :func:`color_coefficients`, of how much is changed where; None: all.
        highlights: they are kept.
    """

    strength: float
    airlight: Tensor | None = None
    gain: float = 1.0
    share: Tensor | None = None
    highlights: bool = False


def look_at(hazy: Tensor, scene: Tensor, transmission: Tensor | None, controls: Controls) -> Look:
    """Return what the controls mean for a photograph.

    Args:
        hazy: 13HW in [0, 1], of any size: a small one will do.
        scene: what a network made of it, likewise.
        transmission: 11HW in [0, 1], or None where the network gives none.
        controls: what is wanted.

    Raises:
        NoTransmissionError: a control needs a transmission that there is not.
    """
    needs = _needs(controls)
    if transmission is None and needs:
        raise NoTransmissionError(
            f"{needs} needs a transmission, and this model gives none; leave it out, or take another model"
        )
    if max(hazy.shape[-2:]) > _SIDE:
        hazy, scene = shrunk(hazy, _SIDE), shrunk(scene, _SIDE)
        transmission = None if transmission is None else shrunk(transmission, _SIDE)
    look = Look(_strength(controls, transmission))
    if transmission is not None and not 0.0 <= look.strength <= 1.0:
        look = replace(look, airlight=estimate_airlight(hazy, scene, transmission))
    if controls.keep_exposure:
        made = _strong(hazy, scene, transmission, look)
        look = replace(look, gain=_gain(_luminance(hazy), made, _nearness(hazy, transmission)))
    share = None
    if transmission is not None and controls.distance > 0.0:
        share = _farther(transmission, controls.distance)
    if controls.protect:
        share = (1.0 - _sky(hazy)) * (1.0 if share is None else share)
    if share is not None:
        look = replace(look, share=color_coefficients(hazy, share, _RADIUS, _EPSILON))
    return replace(look, highlights=controls.protect)


def steadied(before: Look, now: Look, kept: float) -> Look:
    """Return the look of a frame of a video, drawn toward that of the frame before: ``kept`` 0 is ``now``, 1
    ``before``.
    """
    look = replace(now, strength=now.strength + kept * (before.strength - now.strength))
    if before.airlight is not None and now.airlight is not None:
        look = replace(look, airlight=torch.lerp(now.airlight, before.airlight, kept))
    # Gains multiply: the mean of their logarithms.
    return replace(look, gain=now.gain ** (1.0 - kept) * before.gain**kept)


def _needs(controls: Controls) -> str:
    """The control that cannot do without a transmission, or nothing."""
    if controls.strength == "auto" or controls.strength < 0.0:
        return f"strength {controls.strength}"
    return f"distance {controls.distance}" if controls.distance > 0.0 else ""


def _strength(controls: Controls, transmission: Tensor | None) -> float:
    if controls.strength != "auto":
        return controls.strength
    haze = haze_of(transmission)
    return 1.0 if haze is None else float(_step(torch.tensor(haze), *_AUTO))


def _step(values: Tensor, start: float, end: float) -> Tensor:
    """Rise smoothly from 0 at ``start`` to 1 at ``end``."""
    share = ((values - start) / (end - start)).clamp_(0.0, 1.0)
    # 3 s^2 - 2 s^3
    return share.mul(share).mul_(share.mul_(-2.0).add_(3.0))


def _farther(transmission: Tensor, distance: float) -> Tensor:
    """Mark, softly, where a small 11HW lies beyond that share of its optical distance, ``-ln T``."""
    optical = transmission.clamp(min=1e-3).log_().neg_()
    farthest = max(float(torch.quantile(optical.flatten(), _FARTHEST)), 1e-3)
    return _step(optical / farthest, distance - _SOFT, distance + _SOFT)


def _nearness(hazy: Tensor, transmission: Tensor | None) -> Tensor:
    """Weigh pixels for the exposure: the nearest count most, or all alike where there is no transmission."""
    if transmission is None:
        return torch.ones_like(hazy[:, :1])
    return (transmission / transmission.amax().clamp(min=1e-3)) ** _NEARNESS


def _luminance(image: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", image, image.new_tensor(LUMINANCE))[:, None]


def _gain(before: Tensor, made: Tensor, weight: Tensor) -> float:
    """Find the gain that restores the weighted mean of the luminance; bisection works, as the mean grows with the
    gain.
    """
    wanted, total = float((weight * before).sum()), float(weight.sum())
    if total <= 0.0:
        return 1.0
    # 20 halvings, in logarithms, of a range of 6 leave an error of two millionths.
    low, high = 1.0 / _GAIN, _GAIN
    for _ in range(20):
        gain = math.sqrt(low * high)
        found = float((weight * _luminance(_exposed(made.clone(), gain))).sum())
        low, high = (gain, high) if found < wanted else (low, gain)
    return math.sqrt(low * high)


def _exposed(image: Tensor, gain: float) -> Tensor:
    """Brighten or darken in place, and keep hue, saturation, black and white: ``g / (1 + (g - 1) max(R, G, B))``."""
    return image.mul_(gain / (1.0 + (gain - 1.0) * image.amax(dim=1, keepdim=True)))


def _sky(hazy: Tensor) -> Tensor:
    """Find the sky in a small 13HW, roughly: 11HW. It is smooth, bright, and begins at the upper end."""
    luminance = _luminance(hazy)
    radius = min(2, min(hazy.shape[-2:]) - 1)
    mean = box_mean(luminance, radius)
    variance = (box_mean(luminance * luminance, radius) - mean * mean).clamp_(min=0.0)
    smooth = torch.exp(-variance / _SKY_NOISE**2)
    # 0 a little below the median luminance, 1 a little above.
    bright = ((mean - mean.median()) / 0.1 + 0.5).clamp_(0.0, 1.0)
    # Downward: where a column has left the sky it does not come back to it.
    found = torch.cummin(smooth * bright, dim=-2).values
    return F.max_pool2d(found, 2 * radius + 1, 1, radius)  # up to its border again, where nothing is smooth


def adjusted(
    hazy: Tensor, scene: Tensor, transmission: Tensor | None, look: Look, top: int = 0, height: int = 0
) -> Tensor:
    """Adjust some rows of a photograph, or all, to a look.

    Args:
        hazy: 13RW in [0, 1], and what a network made of it, likewise.
        scene: likewise.
        transmission: 11RW in [0, 1], or None.
        look: of the whole photograph.
        top: the first of the rows.
        height: of the whole photograph; 0: these rows are all.

    Returns:
        13RW in [0, 1]; with a plain strength, ``hazy`` or ``scene`` themselves.
    """
    made = _strong(hazy, scene, transmission, look)
    if look.gain != 1.0:
        made = _exposed(made.clone(), look.gain)
    share = None if look.share is None else mapped(look.share, hazy, top, height or hazy.shape[-2])
    if look.highlights:
        plain = 1.0 - _step(_luminance(hazy), *_HIGHLIGHTS)
        share = plain if share is None else share * plain
    return made if share is None else torch.lerp(hazy, made, share)


def _strong(hazy: Tensor, scene: Tensor, transmission: Tensor | None, look: Look) -> Tensor:
    """Apply the strength alone. Below 0 the optical distance grows, ``A + (P - A) T^-s``; beyond 1 the scene is dehazed
    again, ``A + (J - A) T^(1-s)``, or it goes on in a straight line where there is no transmission.
    """
    strength, airlight = look.strength, look.airlight
    if 0.0 <= strength <= 1.0:
        return blend(hazy, scene, strength)
    if transmission is None or airlight is None:
        return blend(hazy, scene, strength).clamp_(0.0, 1.0)
    if strength < 0.0:
        return torch.lerp(airlight, hazy, transmission**-strength).clamp_(0.0, 1.0)
    return torch.lerp(airlight, scene, transmission.clamp(min=_LEAST) ** (1.0 - strength)).clamp_(0.0, 1.0)


def as_wanted(hazy: Tensor, scene: Tensor, transmission: Tensor | None, look: Look) -> Tensor:
    """Adjust a whole photograph to a look, with only a band of rows in memory beside the result.

    Args:
        hazy: 13HW in [0, 1].
        scene: what a network made of it, likewise.
        transmission: 11HW in [0, 1], or None.
        look: of it; a strength between 0 and 1 alone is :func:`blend`.
    """
    plain = look.gain == 1.0 and look.share is None and not look.highlights
    if plain and 0.0 <= look.strength <= 1.0:
        return blend(hazy, scene, look.strength)
    out = torch.empty_like(hazy)
    height, width = hazy.shape[-2:]
    for top, bottom in bands(height, width):
        rows = slice(top, bottom)
        haze = None if transmission is None else transmission[:, :, rows]
        out[:, :, rows] = adjusted(hazy[:, :, rows], scene[:, :, rows], haze, look, top, height)
    return out


def is_plain(controls: Controls) -> bool:
    """Say whether the controls ask for a strength from 0 to 1 and nothing else."""
    others = controls.distance or controls.keep_exposure or controls.protect
    return not others and controls.strength != "auto" and 0.0 <= controls.strength <= 1.0


@as_memory_errors()
def controlled(hazy: Tensor, scene: Tensor, transmission: Tensor | None, controls: Controls) -> Tensor:
    """Apply the controls to a photograph: :func:`as_wanted` with its :func:`look_at`, within its borders.

    Raises:
        NoTransmissionError: as :func:`look_at`.
        MemoryError: there is not enough.
    """
    if is_plain(controls) and controls.strength != "auto":
        return blend(hazy, scene, controls.strength)
    inside = content_of(hazy)
    before, clear = inside.of(hazy), inside.of(scene)
    haze = None if transmission is None else inside.of(transmission)
    found = as_wanted(before, clear, haze, look_at(before, clear, haze, controls))
    if found.shape == hazy.shape:
        return found
    out = hazy.clone()
    inside.of(out).copy_(found)
    return out
