"""Charts by matplotlib, as SVG that stands in a page and takes its colors from it, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

SERIES = ("#2b6cb0", "#d9770b", "#8c96a1", "#b4423c")
_INK, _LINE = "#59646f", "#d8dee4"
_VARIABLES = {_INK: "--faint", _LINE: "--line"} | {color: f"--s{i}" for i, color in enumerate(SERIES)}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _LINE, "axes.axisbelow": True, "axes.grid": True, "axes.spines.right": False,
    "axes.spines.top": False, "axes.labelcolor": _INK, "font.size": 10, "grid.color": _LINE, "legend.frameon": False,
    "text.color": _INK, "text.parse_math": False, "xtick.color": _INK, "xtick.major.size": 0, "xtick.major.pad": 7,
    "ytick.color": _INK, "ytick.major.size": 0, "svg.fonttype": "none", "svg.hashsalt": "",
}  # fmt: skip
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# What only a file of its own needs, and identifiers that nothing refers to, which would be another chart's too.
_NEEDLESS = re.compile(r'<style[^<]*</style>|(?<=<g) id="[^"]*"|\s(?:width|height)="[\d.]+pt"')

Drawn = Callable[[Any], object]


def draw_chart(draw: Drawn, title: str, height: float = 2.1) -> Markup:
    """Draw an ``<svg>`` element. The same drawing gives the same text.

    Args:
        draw: gets matplotlib's Axes; takes its colors from :data:`SERIES`.
        title: what it is, for those who cannot see it.
        height: in inches; the width is 4.8.
    """
    from matplotlib import rc_context  # slow, and most of what imports this package draws nothing
    from matplotlib.figure import Figure

    with rc_context(_STYLE), io.StringIO() as stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts of its own
        figure = Figure(figsize=(4.8, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(stream, format="svg", transparent=True, metadata=_NO_METADATA)
        svg = _NEEDLESS.sub("", stream.getvalue().partition("<svg")[2])
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return Markup('<svg role="img" aria-label="{}"').format(title) + Markup(svg)  # noqa: S704 - texts are escaped in it
