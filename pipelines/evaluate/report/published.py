"""Figures that papers have published, for the reference block of a report. Never a row of a measured table.

They were measured on other photographs, at other sizes and by other programs: they say where the field stands.
"""

from __future__ import annotations

from dataclasses import dataclass

_CORUN = "Fang et al., Real-world Image Dehazing with Coherence-based Pseudo Labeling and Cooperative Unfolding Network"
_CORUN = f"{_CORUN}, NeurIPS 2024, arXiv 2406.07966"


@dataclass(frozen=True)
class Published:
    """A table of a paper: what was measured on what, and where it stands."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remark: str = ""


RTTS = Published(
    "RTTS, no reference",
    f"{_CORUN}, table 1",
    ("method", "FADE ↓", "BRISQUE ↓", "NIMA ↑"),
    (
        ("hazy input", "2.484", "36.642", "4.483"),
        ("PDN", "0.876", "30.811", "4.464"),
        ("MBDN", "1.363", "27.672", "4.529"),
        ("DH", "1.895", "33.862", "4.522"),
        ("DAD", "1.130", "32.241", "4.312"),
        ("PSD", "0.920", "27.713", "4.598"),
        ("D4", "1.358", "33.210", "4.484"),
        ("RIDCP", "0.944", "17.293", "4.965"),
        ("DGUN", "1.111", "27.968", "4.653"),
        ("CORUN + Colabator", "0.824", "11.956", "5.342"),
    ),
)
RTTS_ELSEWHERE = Published(
    "RTTS, no reference, by another paper's program",
    "SGDN (2025), its own table",
    ("method", "FADE ↓"),
    (("RIDCP", "0.480"), ("CDD-GAN", "0.747"), ("SGDN", "0.461")),
    "RIDCP has half the FADE that it has above: the metric is not comparable between papers.",
)
RTTS_DETECTION = Published(
    "RTTS, detection",
    _CORUN,
    ("method", "mAP ↑"),
    (
        ("hazy input", "0.50"),
        ("PDN", "0.54"),
        ("MBDN", "0.52"),
        ("DH", "0.45"),
        ("DAD", "0.52"),
        ("PSD", "0.51"),
        ("D4", "0.53"),
        ("RIDCP", "0.56"),
        ("DGUN", "0.55"),
        ("CORUN + Colabator", "0.57"),
    ),
)
PUBLISHED = (RTTS, RTTS_ELSEWHERE, RTTS_DETECTION)
ABSENT = "O-HAZE: no figures of CDD-GAN or CORUN on it are listed, as none was found at a source that could be checked."
