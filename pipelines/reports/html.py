"""Building blocks of a data card's page: text that is safe to show, figures with thumbnails, histograms as SVG.

Names of files are whatever somebody called them, so every text goes through :func:`text`.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Histogram:
    """Counts per bin by series; bin ``i`` is ``edges[i] <= value < edges[i + 1]``, the last one without an end."""

    edges: tuple[float, ...]
    series: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Picture:
    """A photograph or depth map on the card.

    Attributes:
        uri: its name.
        row: of the catalogue; empty when it has none there.
        jpeg: the thumbnail, or None.
        width, height: of the thumbnail in pixels; 0 when there is none.
        problem: why there is no thumbnail, as a sentence.
    """

    uri: str
    row: Row
    jpeg: bytes | None = None
    width: int = 0
    height: int = 0
    problem: str = ""


_LONGEST = 160  # characters of a text; both ends are kept
_W, _H, _LEFT, _TOP, _BOTTOM = 400, 180, 36, 8, 22  # of a histogram, in its own units
_KEYS = re.compile(r"://[^/\s@]*@")
_NBSP = "\u00a0"
_TICKS = 4
_LABELS = 7

Label = Callable[[float], str]


def text(value: object, longest: int = _LONGEST) -> str:
    """Escaped for HTML text and attributes, and shortened in the middle.

    Invisible characters, bidi controls among them, are named, and keys in a URI (``s3://key:secret@…``) left out.
    """
    shown = _KEYS.sub("://…@", str(value))
    if len(shown) > longest:
        shown = f"{shown[: longest // 2]}…{shown[-(longest // 2) :]}"
    visible = "".join(c if c.isprintable() or c == _NBSP else f"\\u{ord(c):04x}" for c in shown)
    return html.escape(visible)


def name(value: str, longest: int = _LONGEST) -> str:
    """A file's name or uri: isolated, as its letters may run from right to left, and broken after slashes first."""
    return f"<bdi>{text(value, longest).replace('/', '/<wbr>')}</bdi>"


def last_part(uri: str) -> str:
    """The name at the end of a path or uri, without a query such as S3's ``?region=…``."""
    path = uri.partition("?")[0] if "://" in uri else uri
    return path.rstrip("/").rpartition("/")[2]


def percent(part: float, whole: float) -> str:
    """Such as ``14 %``, unbreakable. What is there is never called 0, and a part never all of it."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 1:
        return f"under{_NBSP}1{_NBSP}%"
    return f"over{_NBSP}99{_NBSP}%" if 99 < share < 100 else f"{share:.0f}{_NBSP}%"


def amount(count: float) -> str:
    """Bytes in decimal units: ``0``, ``999 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    digits = f"{count:.1f}" if count < 10 and unit != "B" else f"{count:,.0f}"
    return f"{digits.removesuffix('.0')}{_NBSP}{unit}" if count else "0"


def plural(count: int, one: str, many: str = "") -> str:
    """``1 photograph``, ``2,000 photographs``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def figure(picture: Picture, caption: str, alt: str) -> str:
    """A thumbnail with its caption, or a labelled box in its place.

    Args:
        picture: what to show.
        caption: HTML, or nothing.
        alt: what the picture is, as plain text.
    """
    if picture.jpeg is None:
        shown = f'<div class="none"><b>no picture</b>{text(picture.problem, 90)}</div>'
    else:
        data = base64.b64encode(picture.jpeg).decode()
        shown = (
            f'<img src="data:image/jpeg;base64,{data}" width="{picture.width}" height="{picture.height}" '
            f'alt="{text(alt)}">'
        )
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def photograph(picture: Picture, label: str = "", more: str = "") -> str:
    """A photograph with its name, size in pixels and bytes, and haze density.

    Args:
        picture: of the photograph.
        label: goes before the name, which is then its whole uri.
        more: HTML that goes last.
    """
    row = picture.row
    known = []
    if row.get("width"):
        known.append(f"{row['width']}{_NBSP}×{_NBSP}{row['height']}")
    if row.get("size"):
        known.append(amount(row["size"]))
    lines = [" · ".join(known)]
    if (haze := row.get("haze")) is not None and not math.isnan(haze):
        lines.append(f"haze {haze:.2f}")
    title = last_part(picture.uri)
    shown = f"<b>{label}</b> {name(picture.uri)}" if label else name(title, 60)
    caption = f'<span title="{text(picture.uri)}">{shown}</span>'
    caption += "".join(f'<span class="facts">{line}</span>' for line in lines if line)
    return figure(picture, caption + more, ", ".join(filter(None, [title, *lines])))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells, the first of each row its heading; ``numbers`` are the columns to align right."""
    right = set(numbers)
    align = [' class="n"' if column in right else "" for column in range(len(head))]
    top = "".join(f'<th scope="col"{a}>{cell}</th>' for a, cell in zip(align, head, strict=True))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{a}>{cell}</td>" for a, cell in zip(align[1:], rest, strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def chart(bars: Histogram, title: str, axis: str, label: Label) -> str:
    """A histogram as a figure: bars with a legend when there are several series, and the counts as a table to open.

    Args:
        bars: several series are drawn as shares of their own total, so that their shapes compare.
        title: over the bars.
        axis: what the edges measure.
        label: an edge as text.
    """
    several = len(bars.series) > 1
    legend = "".join(
        f'<li><i class="s{i}"></i>{text(series)} ({sum(counts):,})</li>'
        for i, (series, counts) in enumerate(bars.series.items())
    )
    what = "share of the split" if several else "photographs"
    spans = [f"{label(a)} – {label(b)}" for a, b in zip(bars.edges, bars.edges[1:], strict=False)]
    rows = ([span, *(f"{c:,}" for c in counts)] for span, *counts in zip(spans, *bars.series.values(), strict=True))
    numbers = table([axis, *map(text, bars.series)], rows, range(1, len(bars.series) + 1))
    return (
        f'<figure class="chart"><figcaption><strong>{title}</strong>'
        f"{f'<ul>{legend}</ul>' if several else ''}</figcaption>{_svg(bars, title, label)}"
        f"<p class='axis'>{axis}; height: {what}</p><details><summary>Numbers</summary>{numbers}</details></figure>"
    )


def _svg(bars: Histogram, title: str, label: Label) -> str:
    heights, several = _heights(bars), len(bars.series) > 1
    largest = max(height for column in heights for height in column)
    step = _step(largest) if several else max(1.0, _step(largest))  # there is no half photograph
    top = step * max(1, math.ceil(largest / step - 1e-9))
    unit, count = (_W - _LEFT - 6) / (len(bars.edges) - 1), len(bars.edges) - 1
    plot = _H - _TOP - _BOTTOM
    parts = []
    for tick in range(round(top / step) + 1):
        y = _TOP + plot * (1 - tick * step / top)
        shown = f"{tick * step:.0%}" if several else _thousands(tick * step)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_W - 6}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 4}" y="{y + 3.5:.1f}">{shown}</text>')
    width = 0.84 * unit / len(heights)
    for series, column in enumerate(heights):
        for index, height in enumerate(column):
            x, tall = _LEFT + unit * (index + 0.08) + series * width, plot * height / top
            tall = max(tall, 1.0) if height else 0.0  # a single photograph among millions can be seen
            parts.append(
                f'<rect class="s{series}" x="{x:.1f}" y="{_TOP + plot - tall:.1f}" width="{width:.1f}" '
                f'height="{tall:.1f}"/>'
            )
    for index in range(0, count + 1, _every(count)):
        anchor = "end" if index == count else "middle"
        x = _LEFT + unit * index + (6 if index == count else 0)
        parts.append(f'<text x="{x:.1f}" y="{_H - 7}" text-anchor="{anchor}">{label(bars.edges[index])}</text>')
    return f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{text(title)}, a histogram">{"".join(parts)}</svg>'


def _heights(bars: Histogram) -> list[list[float]]:
    if len(bars.series) == 1:
        return [[float(count) for count in counts] for counts in bars.series.values()]
    return [[count / max(1, sum(counts)) for count in counts] for counts in bars.series.values()]


def _every(count: int) -> int:
    """Edges from one label to the next, so that there are few and, where that goes, both ends have one."""
    least = math.ceil(count / (_LABELS - 1))
    return next((every for every in range(least, 2 * least) if count % every == 0), least)


def _step(largest: float) -> float:
    """Between grid lines: 1, 2 or 5 times a power of ten, a few of them up to ``largest``."""
    if largest <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(largest / _TICKS))
    return next(digit * scale for digit in (1, 2, 5, 10) if digit * scale * _TICKS >= largest * (1 - 1e-9))


def _thousands(count: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
