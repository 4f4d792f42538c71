"""How published datasets lay out their files: which are hazy, which clear, which are depth maps, which belong
together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from models.config import ConfigError
from pipelines.corpus import Domain

LayoutName = Literal["plain", "reside", "ridcp500", "o-haze", "rtts"]


@dataclass(frozen=True)
class DatasetLayout:
    """Regular expressions over paths below a source, searched ignoring case; None where a dataset has no such files.

    Attributes:
        hazy, clear: photographs of the domain.
        depth: depth maps.
        depth_order: what larger values mean: ``near`` or ``far``.
        pair: group 1, of the file's name, is the scene that a hazy and a clear photograph share.
    """

    hazy: str | None = None
    clear: str | None = None
    depth: str | None = None
    depth_order: Literal["near", "far"] | None = None
    pair: str | None = None

    def photographs(self, domain: Domain, name: LayoutName) -> re.Pattern[str]:
        """Return what the paths of the domain's photographs look like.

        Raises:
            ConfigError: the dataset has none.
        """
        pattern = self.hazy if domain == "hazy" else self.clear
        if pattern is None:
            other = "clear" if domain == "hazy" else "hazy"
            raise ConfigError(f"layout '{name}' has no {domain} photographs; use --domain {other}")
        return re.compile(pattern, re.IGNORECASE)


LAYOUTS: dict[LayoutName, DatasetLayout] = {
    "plain": DatasetLayout(hazy="", clear=""),
    # RESIDE's ITS, OTS and SOTS, and datasets made like them (Haze4K): 0001_0.8_0.04.jpg belongs to 0001.jpg, 0001.mat.
    "reside": DatasetLayout(
        hazy=r"(^|/)(hazy|haze)/",
        clear=r"(^|/)(clear|gt)/",
        depth=r"(^|/)depth/",
        depth_order="far",
        pair=r"^(\d+)(?=_|$)",
    ),
    "ridcp500": DatasetLayout(clear=r"(^|/)rgb(_500)?/", depth=r"(^|/)depth(_500)?/", depth_order="near"),
    # O-HAZE, I-HAZE, Dense-Haze, NH-HAZE: 01_outdoor_hazy.jpg belongs to 01_outdoor_GT.jpg, in two folders or in one.
    "o-haze": DatasetLayout(hazy=r"_hazy\.[a-z]+$", clear=r"_gt\.[a-z]+$", pair=r"^(\d+)_"),
    "rtts": DatasetLayout(hazy=r"(^|/)JPEGImages/"),
}
