"""The page of a data card: choose, read thumbnails, fill the template. One HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from models.config import parse
from models.paths import child, replacing
from pipelines.corpus import CARD, REJECTS, Manifest
from pipelines.ingest.card.data import CardChoice, CardSettings, Histogram, choose, facts
from pipelines.ingest.card.thumbnails import Made, PictureRequest, Read, pictures
from pipelines.reports import SERIES, Picture, Row, amount, draw_chart, render
from pipelines.tracking import versions

REASONS = {
    "unsupported_format": "not a picture of an accepted format, whatever its suffix says; or an animation",
    "truncated": "the file ends before the picture does",
    "corrupt": "the file's data contradict its format",
    "too_large": "more bytes or pixels than the limits allow, or a far longer shape",
    "too_small": "a side is shorter than the smallest one allowed",
    "too_long": "many times as long as wide",
    "unreadable": "the file could not be opened or read",
    "changed": "the file changed while the corpus was being made",
    "bad_depth": "its depth map cannot belong to it: unreadable, constant, not finite or of another shape",
    "held_out": "it is on the list of photographs to keep out of this corpus",
}
"""What a reject's reason code means, in plain words."""
KINDS = {
    "near": "looks like another photograph: few bits of their perceptual hashes differ",
    "other_corpus": "is already in another corpus",
    "exact": "has the same bytes as another file",
}
"""What the kinds of duplicates mean."""
_PACKAGES = ("numpy", "pillow", "pyarrow", "imagehash", "ray")
_LABELS = 7  # of a histogram's edges, at most


def write_card(
    out: str,
    catalogue: Iterable[pa.Table],
    manifest: Manifest,
    read: Read,
    suspicious: list[dict[str, Any]],
    **settings: int,
) -> None:
    """Write ``card.html`` into a corpus.

    The settings alone bound how many photographs are read, whatever the size of the corpus; with the default ones the
    page stays under 2 MB.

    Args:
        out: folder of the corpus, as a path or URI.
        catalogue: tables that are read again and again, together a row per file found, with
            :data:`~pipelines.ingest.card.data.COLUMNS`.
        manifest: of the same corpus.
        read: the bytes of a row's photograph; raises OSError. One that cannot be read gets a box that says why.
        suspicious: depth maps with ``uri`` (of the photograph), ``depth``, ``suspicions`` and ``message``.
        settings: of :class:`~pipelines.ingest.card.data.CardSettings`.

    Raises:
        ConfigError: an unknown setting, or one out of range.
    """
    chosen = parse(CardSettings, settings, "card")
    choice, counted = choose(catalogue, suspicious, chosen), facts(catalogue)
    made = pictures(out, _wishes(choice), read)

    def of(rows: Iterable[Row]) -> list[Picture]:
        return [made[row["uri"], "image"] for row in rows]

    page = render(
        "ingest/card/card.html.j2",
        uri=out,
        manifest=manifest,
        facts=counted,
        samples=of(choice.samples),
        bands={band: of(rows) for band, rows in choice.bands.items()},
        pairs=[(_kept(kept, dropped, made), made[dropped["uri"], "image"]) for kept, dropped in choice.pairs],
        rejects={reason: of(rows) for reason, rows in choice.rejects.items()},
        rejects_file=REJECTS,
        suspects=[(*_suspect(said, row, made), said) for said, row in choice.suspects],
        suspicious=len(suspicious),
        sizes=[_histogram("Long sides", "pixels", counted.sides), _histogram("Files", "bytes", counted.sizes, amount)],
        haze=_histogram("Haze density by split", "haze density", counted.haze),
        seed=chosen.seed,
        versions=versions(_PACKAGES),
        reasons=REASONS,
        kinds=KINDS,
    )
    with replacing(child(out, CARD)) as stream:
        stream.write(page.encode())


def _wishes(choice: CardChoice) -> Iterable[PictureRequest]:
    for rows in (choice.samples, *choice.bands.values(), *choice.rejects.values()):
        yield from map(PictureRequest, rows)
    for kept, dropped in choice.pairs:
        yield from (PictureRequest(dropped), _wish_kept(kept, dropped))
    for _, row in choice.suspects:
        if row is not None:
            yield from (PictureRequest(row), PictureRequest(row, "depth"))


def _wish_kept(kept: Row | None, dropped: Row) -> PictureRequest:
    """Ask for the photograph that a duplicate is a copy of; one that this corpus does not have belongs to another."""
    return PictureRequest({"uri": dropped["same_as"] or ""}, "elsewhere") if kept is None else PictureRequest(kept)


def _kept(kept: Row | None, dropped: Row, made: Made) -> Picture:
    wish = _wish_kept(kept, dropped)
    return made[wish.row["uri"], wish.what]


def _suspect(said: Mapping[str, Any], row: Row | None, made: Made) -> tuple[Picture, Picture]:
    """The photograph of a suspicious depth map, and the map."""
    if row is None:
        missing = Picture(str(said["uri"]), {}, problem="the catalogue does not have it")
        return missing, missing
    return made[row["uri"], "image"], made[row["uri"], "depth"]


def _histogram(title: str, axis: str, bars: Histogram, label: Callable[[float], str] = "{:g}".format) -> dict[str, Any]:
    """A chart and its numbers; several series are drawn as shares of their own totals, so that their shapes compare."""
    several, edges = len(bars.series) > 1, [label(edge) for edge in bars.edges]

    def draw(axes: Any) -> None:
        width = 0.84 / len(bars.series)
        for place, (name, counts) in enumerate(bars.series.items()):
            heights = np.array(counts) / max(1, sum(counts) if several else 1)
            left = np.arange(len(counts)) + 0.08 + place * width
            # The edge is there to be seen, however low a bar: a single photograph among millions.
            heights[heights == 0] = np.nan
            legend = f"{name} ({sum(counts):,})"
            axes.bar(left, heights, width, align="edge", color=SERIES[place], ec=SERIES[place], lw=0.8, label=legend)
        every = -(-(len(edges) - 1) // (_LABELS - 1))
        axes.set_xticks(range(0, len(edges), every), edges[::every])
        axes.set_xlim(0, len(edges) - 1)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=not several)
        axes.yaxis.set_major_formatter("{x:.0%}" if several else "{x:,.0f}")
        axes.set_xlabel(f"{axis}; height: {'share of the split' if several else 'photographs'}")
        if several:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(bars.series))

    spans = [f"{low} – {high}" for low, high in pairwise(edges)]
    rows = [(span, *(f"{c:,}" for c in counts)) for span, *counts in zip(spans, *bars.series.values(), strict=True)]
    svg = draw_chart(draw, f"{title}, a histogram")
    return {"title": title, "svg": svg, "head": [axis, *bars.series], "rows": rows}
