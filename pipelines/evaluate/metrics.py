"""Metrics of one photograph: what each is, and those that are computed here. Plain numpy, no Ray.

Every image metric takes uint8 RGB (H, W, 3): what a person would have saved and looked at, not floats that no file
could hold, and refuses anything else with an ImageError. Scores of the CLIP scorer are metrics of the table too, but
they selected the pseudo labels that Colabator trains on, so they never headline it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.config import ConfigError, nearest
from models.images import ImageError

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]
Need = Literal["image", "reference", "transmission"]
Provider = Literal["own", "scorer", "fade", "lpips", "pyiqa"]
Better = Literal["lower", "higher", "zero"]

MIN_SIDE = 16
"""Shortest side that is measured: FADE works on 8x8 patches, SSIM on an 11x11 window."""

_LEAST_CHROMA = 1.0  # of CIELAB: less is gray to an eye, and rounding to 8 bits gives grays some

PSNR_CAP = 100.0
"""PSNR of identical images, in dB: JSON and CSV readers stumble over infinity."""

SSIM_SETTINGS: dict[str, Any] = {
    "data_range": 255,
    "channel_axis": 2,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}
"""The settings of Wang et al. (2004), recorded with every summary because SSIM differs between programs by them."""


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Attributes:
        name: of the column; for a metric of pyiqa its exact name there, after ``pyiqa-`` where another has that name.
        better: which way is better; ``zero`` is a signed figure that should be none.
        what: what is measured, by whom, with which backbone and weights.
        limits: of its values, as text.
        license: of the program that computes it, and of its weights where they have one of their own.
        needs: what there must be beside the result.
        provider: what computes it.
        selected_labels: it chose the pseudo labels, so a model may have been trained to raise it.
        decimals: in tables.
    """

    name: str
    better: Better
    what: str
    limits: str = ""
    license: str = "Apache-2.0 (this project)"
    needs: Need = "image"
    provider: Provider = "own"
    selected_labels: bool = False
    decimals: int = 3

    def gain(self, value: float | Values, baseline: float | Values) -> Any:
        """Return how much better ``value`` is than ``baseline``: positive is better, for every metric."""
        if self.better == "zero":
            return np.abs(baseline) - np.abs(value)
        return baseline - value if self.better == "lower" else value - baseline


PYIQA = "pyiqa-"
PYIQA_LICENSE = "pyiqa: PolyForm Noncommercial 1.0.0 and NTU S-Lab 1.0, not for commercial use"


def _pyiqa(name: str, better: Better, what: str, limits: str) -> Metric:
    return Metric(name, better, f"{what}; pyiqa `{name.removeprefix(PYIQA)}`", limits, PYIQA_LICENSE, provider="pyiqa")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "fade", "lower", "perceived haze density (Choi et al., 2015) by fade-python", "0 and up",
            "fade-python: free for research and internal use", provider="fade",
        ),
        Metric(
            "brisque", "lower", "natural scene statistics (Mittal et al., 2012), OpenCV's model", "about 0 to 100",
            "Apache-2.0 (this project); the model: Apache-2.0 (OpenCV)", decimals=2,
        ),
        Metric(
            "niqe", "lower", "distance from natural scenes (Mittal et al., 2013), the authors' parameters", "0 and up",
            "Apache-2.0 (this project); the parameters: LIVE's notice, for any purpose", decimals=2,
        ),
        Metric("clearness", "higher", "1 - P(hazy) of the scorer", "0 to 1", provider="scorer", selected_labels=True),
        Metric(
            "quality", "higher", "antonym prompts of the scorer, as in CLIP-IQA (Wang et al., 2023)", "0 to 1",
            provider="scorer", selected_labels=True,
        ),
        Metric(
            "rehaze", "lower", "mean absolute difference of the re-hazed result and the photograph, in 8-bit levels",
            "0 to 255", needs="transmission", decimals=2,
        ),
        Metric("psnr", "higher", "dB over RGB, data range 255", "0 to 100", needs="reference", decimals=2),
        Metric(
            "ssim", "higher", "structural similarity (Wang et al., 2004), gaussian window 11, sigma 1.5", "-1 to 1",
            "BSD-3-Clause (scikit-image)", needs="reference",
        ),
        Metric(
            "ciede2000", "lower", "mean color difference (Sharma et al., 2005) of sRGB under D65", "0 to about 100",
            "BSD-3-Clause (scikit-image)", needs="reference", decimals=2,
        ),
        Metric(
            "level_shift", "zero", "mean level against the reference's, in % of it: negative is darker", "-100 and up",
            needs="reference", decimals=1,
        ),
        Metric(
            "hue_shift", "lower", "mean change of hue against the reference, degrees of CIELAB, by chroma", "0 to 180",
            needs="reference", decimals=1,
        ),
        Metric(
            "lpips", "lower", "learned perceptual distance (Zhang et al., 2018), AlexNet, version 0.1", "0 to about 1",
            "BSD-2-Clause (lpips)", needs="reference", provider="lpips",
        ),
        _pyiqa("pyiqa-brisque", "lower", "BRISQUE with the weights of piq", "about 0 to 100"),
        _pyiqa("brisque_matlab", "lower", "BRISQUE with the authors' MATLAB model", "about 0 to 100"),
        _pyiqa("pyiqa-niqe", "lower", "NIQE of the luma of video", "0 and up"),
        _pyiqa("piqe", "lower", "block-wise distortion (Venkatanath et al., 2015), no weights", "0 to 100"),
        _pyiqa("nima", "higher", "NIMA (Talebi and Milanfar, 2018), Inception-ResNet-v2 on AVA", "1 to 10"),
        _pyiqa("nima-vgg16-ava", "higher", "NIMA (Talebi and Milanfar, 2018), VGG-16 on AVA", "1 to 10"),
        _pyiqa("musiq", "higher", "MUSIQ (Ke et al., 2021), weights for KonIQ-10k", "0 to 100"),
        _pyiqa("musiq-spaq", "higher", "MUSIQ (Ke et al., 2021), weights for SPAQ", "0 to 100"),
        _pyiqa("musiq-ava", "higher", "MUSIQ (Ke et al., 2021), weights for AVA", "1 to 10"),
        _pyiqa("clipiqa", "higher", "CLIP-IQA (Wang et al., 2023), CLIP RN50", "0 to 1"),
        _pyiqa("maniqa", "higher", "MANIQA (Yang et al., 2022), ViT on KonIQ-10k", "0 to 1"),
        _pyiqa("topiq_nr", "higher", "TOPIQ (Chen et al., 2024), ResNet-50 on KonIQ-10k", "0 to 1"),
    )
}  # fmt: skip
"""Every column that a table can have, in the order of the table."""

DEFAULT = (
    "fade", "brisque", "niqe", "clearness", "quality", "rehaze", "psnr", "ssim", "ciede2000", "level_shift", "hue_shift"
)  # fmt: skip
"""What is measured unless the user says otherwise: all that needs no weights but the project's own. Where
fade-python is not installed, an evaluation leaves ``fade`` out of these and says so."""


def chosen(names: Iterable[str], *, scorer: bool = True) -> tuple[str, ...]:
    """Return the chosen metrics in the order of the table; ``default`` among the names stands for :data:`DEFAULT`.

    Args:
        names: as the user gave them.
        scorer: there is one; without it the default leaves its metrics out.

    Raises:
        ConfigError: an unknown name, or a metric of the scorer where there is none.
    """
    wanted: set[str] = set()
    for name in names:
        if name == "default":
            wanted.update(n for n in DEFAULT if scorer or METRICS[n].provider != "scorer")
        elif name not in METRICS:
            raise ConfigError(f"unknown metric '{name}'{nearest(name, [*METRICS, 'default'])}")
        elif METRICS[name].provider == "scorer" and not scorer:
            raise ConfigError(f"metric '{name}' is the scorer's, and scorer is 'none'; name a scorer or leave it out")
        else:
            wanted.add(name)
    return tuple(name for name in METRICS if name in wanted)


def fade_program() -> Any:
    """Return the package that computes FADE.

    Raises:
        ConfigError: it is not installed: an extra brings it, as its license is narrower than this project's.
    """
    try:
        import pyfade
    except ImportError as problem:
        raise ConfigError(
            f"metric 'fade' needs fade-python ({problem}): pip install 'ray-dehaze[evaluation]'; its license allows "
            "research, evaluation and internal use only"
        ) from problem
    return pyfade


def require_pixels(image: Pixels, reference: Pixels | None = None) -> None:
    """Refuse what a metric of pixels would measure in silence, and wrongly: floats, 16 bits, other channels.

    Raises:
        ImageError: not uint8 (H, W, 3), or a reference of another size.
    """
    for pixels in (image,) if reference is None else (image, reference):
        shape, kind = np.shape(pixels), getattr(pixels, "dtype", type(pixels).__name__)
        if len(shape) != 3 or shape[2] != 3 or kind != np.uint8:
            raise ImageError(
                f"pixels are {kind} {shape}; expected uint8 (H, W, 3), as models.images.to_uint8 makes them"
            )
        if shape != np.shape(image):
            raise ImageError(f"one picture is {np.shape(image)}, the other {shape}; expected one size")


def fade(image: Pixels) -> float:
    """Return the fog aware density of uint8 RGB (H, W, 3): no reference needed, lower is clearer; NaN for a constant
    image.

    The value depends on the size of the image, so compare only within one run.

    Raises:
        ConfigError: fade-python is not installed.
    """
    require_pixels(image)
    program = fade_program()
    with np.errstate(all="ignore"):
        return float(program.fade_array(np.ascontiguousarray(image)))


def psnr(image: Pixels, reference: Pixels) -> float:
    """Return ``10 log10(255^2 / MSE)`` in dB over all pixels and channels of two uint8 (H, W, 3); at most
    ``PSNR_CAP``.
    """
    require_pixels(image, reference)
    difference = image.astype(np.float64) - reference.astype(np.float64)
    error = float(np.mean(difference * difference))
    return PSNR_CAP if error == 0.0 else min(PSNR_CAP, 10.0 * math.log10(255.0**2 / error))


def ssim(image: Pixels, reference: Pixels) -> float:
    """Return the structural similarity of two uint8 (H, W, 3), mean over channels, with ``SSIM_SETTINGS``."""
    require_pixels(image, reference)
    from skimage.metrics import structural_similarity

    return float(structural_similarity(image, reference, **SSIM_SETTINGS))  # type: ignore[no-untyped-call]


def ciede2000(image: Pixels, reference: Pixels) -> float:
    """Return the mean CIEDE2000 color difference of two uint8 sRGB (H, W, 3); an eye just notices about 1."""
    require_pixels(image, reference)
    from skimage.color import deltaE_ciede2000, rgb2lab

    first, second = rgb2lab(image), rgb2lab(reference)
    return float(np.mean(deltaE_ciede2000(first, second)))  # type: ignore[no-untyped-call]


def level_shift(image: Pixels, reference: Pixels) -> float:
    """Return how much brighter one uint8 (H, W, 3) is than the other on average, in % of its mean level.

    Negative is darker; NaN for a black reference.
    """
    require_pixels(image, reference)
    level = float(np.mean(reference))
    return 100.0 * (float(np.mean(image)) / level - 1.0) if level else math.nan


def hue_shift(image: Pixels, reference: Pixels) -> float:
    """Return the mean absolute change of hue of two uint8 sRGB (H, W, 3), in degrees of CIELAB from 0 to 180.

    Pixels weigh as much as the geometric mean of their chromas: grays have no hue, and of near grays it is noise.
    NaN where nothing is colored in both.
    """
    require_pixels(image, reference)
    from skimage.color import rgb2lab

    first, second = (lab[..., 1] + 1j * lab[..., 2] for lab in (rgb2lab(image), rgb2lab(reference)))
    product = first * second.conj()
    weights = np.sqrt(np.abs(product))
    weights[weights < _LEAST_CHROMA] = 0.0
    total = float(weights.sum())
    return float(np.degrees(np.sum(weights * np.abs(np.angle(product))) / total)) if total else math.nan


def rehazing_error(scene: Pixels, transmission: NDArray[np.float32], hazy: Pixels) -> float:
    """Return the mean absolute difference of ``J T + A (1 - T)`` and the photograph, in 8-bit levels.

    The airlight of each channel is the least-squares one, ``A = sum (P - J T)(1 - T) / sum (1 - T)^2``, within [0, 1]:
    the models differ in how they estimate it, and few of them tell.

    Args:
        scene: J, uint8 RGB (H, W, 3).
        transmission: T, (H, W) in [0, 1].
        hazy: P, uint8 RGB (H, W, 3).
    """
    through = transmission[..., None].astype(np.float64)
    veil = 1.0 - through
    direct, seen = scene / 255.0 * through, hazy / 255.0
    weight = float(np.sum(veil * veil))
    airlight = np.sum((seen - direct) * veil, axis=(0, 1)) / weight if weight > 1e-9 else np.zeros(3)
    again = direct + np.clip(airlight, 0.0, 1.0) * veil
    return float(255.0 * np.mean(np.abs(again - seen)))


def shown_metrics(names: Sequence[str], headline: str) -> list[str]:
    """Return the columns in the order of the table, the headline first."""
    return sorted((name for name in METRICS if name in names), key=lambda name: name != headline)
