"""Files of an evaluation: summary as JSON and Markdown, before/after contact sheets. No Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipelines.evaluate.metrics import METRICS, Metric, shown
from pipelines.evaluate.parts import writing
from pipelines.evaluate.report.published import ABSENT, PUBLISHED, Published
from pipelines.evaluate.statistics import Aggregate, Interval, Table

ARROWS = {"lower": "↓", "higher": "↑"}

_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_GAP, _LINE = 8, 20

Row = Mapping[str, Any]


def write_text(text: str, path: Path) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Raises:
        ConfigError: the disk takes no more.
    """
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(summary: Mapping[str, Any], path: Path) -> Path:
    """The summary as strict JSON: a NaN that slipped in raises ValueError instead of making an unreadable file."""
    return write_text(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def number(value: float, metric: Metric, sign: str = "") -> str:
    """With the decimals of its metric."""
    return f"{value:{sign}.{metric.decimals}f}"


def bounds(interval: Interval | Sequence[float], metric: Metric, sign: str = "") -> str:
    """`` [low, high]``, or nothing where there is no interval."""
    return "" if interval is None else f" [{number(interval[0], metric, sign)}, {number(interval[1], metric, sign)}]"


def cell(entry: Aggregate | None, metric: Metric, *, headline: bool) -> str:
    """`mean [interval]`, and for the headline the paired difference with its interval and the share that improved."""
    if entry is None:
        return ""
    text = number(entry.mean, metric) + bounds(entry.interval, metric)
    if headline and entry.difference is not None:
        difference = entry.difference
        text += f"; {number(difference.mean, metric, '+')}{bounds(difference.interval, metric, '+')}"
        text += f", {difference.improved:.0%} better"
    return text


def columns(table: Table, headline: str) -> list[str]:
    """Metrics that some model has, the headline first."""
    return shown([name for entries in table.values() for name in entries], headline)


def markdown_table(table: Table, headline: str, missing: Iterable[str] = ()) -> str:
    """Rows are models, columns metrics with the headline first; those that could not run are ``n/a``."""
    names = columns(table, headline)
    absent = [name for name in missing if name in METRICS]
    titles = [
        f"**{n} {ARROWS[METRICS[n].better]}**" if n == headline else f"{n} {ARROWS[METRICS[n].better]}" for n in names
    ]
    lines = ["| " + " | ".join(["model", *titles, *absent]) + " |", "| --- " * (len(names) + len(absent) + 1) + "|"]
    for model, entries in table.items():
        cells = [cell(entries.get(n), METRICS[n], headline=n == headline) for n in names]
        lines.append("| " + " | ".join([model, *cells, *("n/a" for _ in absent)]) + " |")
    return "\n".join(lines)


def _paired(pairs: Sequence[Mapping[str, Any]], headline: str) -> str:
    """Every two models compared by the headline metric."""
    metric = METRICS[headline]
    lines = [f"| paired difference in {headline} | mean | better on | |", "| --- | --- | --- | --- |"]
    for pair in pairs:
        if pair["metric"] == headline:
            found = pair["difference"]
            value = number(found["mean"], metric, "+") + bounds(found["interval"], metric, "+")
            verdict = "" if found["interval"] is None else "decided" if pair["decided"] else "not decided"
            lines.append(f"| {pair['model']} against {pair['other']} | {value} | {found['improved']:.0%} | {verdict} |")
    return "\n".join(lines)


def detection_rows(detection: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Model, AP50 with its interval, AP, and the difference to the hazy input."""
    rows = []
    for model, entry in detection["models"].items():
        values = ["" if entry[key] is None else f"{entry[key]:.3f}" for key in ("ap50", "ap")]
        if entry["interval"] is not None:
            values[0] += " [{:.3f}, {:.3f}]".format(*entry["interval"])
        against = entry.get("difference")
        change = ""
        if against is not None and against["mean"] is not None:
            change = f"{against['mean']:+.3f}"
            change += "" if against["interval"] is None else " [{:+.3f}, {:+.3f}]".format(*against["interval"])
        rows.append((model, *values, change))
    return rows


def _published(block: Published) -> str:
    lines = [f"*{block.title}* — published, not measured here: {block.source}. {block.remark}".rstrip(), ""]
    lines += ["| " + " | ".join(block.columns) + " |", "| --- " * len(block.columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in block.rows])


def markdown(summary: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """The summary for people: warnings first, one table per kind of photograph, failures, and what made the numbers.

    Args:
        summary: as written to JSON.
        tables: aggregates by table, model and metric.
    """
    parts = ["# Evaluation", *(f"> **Warning:** {warning}." for warning in summary["warnings"])]
    missing = summary["not_measured"]
    for group, table in tables.items():
        counts, headline = summary["photographs"][group], summary["headline"][group]["metric"]
        parts.append(
            f"## {group.capitalize()} photographs: {counts['evaluated']} of {counts['found']} ({counts['split']})"
        )
        parts.append(markdown_table(table, headline, missing))
        if len(table) > 1:
            parts.append(_paired(summary["paired"][group], headline))
    parts.append(
        "Means with 95 % bootstrap intervals; the headline metric also shows the mean paired difference against the "
        "hazy input, and the share of photographs that got better. Metrics that selected the pseudo labels are never "
        "the headline. FADE is comparable within this table only."
    )
    if "detection" in summary:
        found = summary["detection"]
        parts.append(f"## Detection: {found['photographs']} annotated photographs, {found['detector']}")
        rows = ["| " + " | ".join(row) + " |" for row in detection_rows(found)]
        head = ["| model | AP50 ↑ | AP ↑ | AP50 against the hazy input |", "| --- | --- | --- | --- |"]
        parts.append("\n".join(head + rows))
    if missing:
        parts += ["## Not available", "\n".join(f"- `{name}`: {reason}" for name, reason in missing.items())]
    if summary["failures"]:
        parts.append("## Not measured")
        parts.append("\n".join(f"- `{f['name']}`: {f['error']}" for f in summary["failures"]))
    parts += ["## Published elsewhere", *map(_published, PUBLISHED), ABSENT, "## Made with"]
    parts.append("\n".join(f"- {name} {version}" for name, version in summary["versions"].items()))
    parts.append(f"```json\n{json.dumps(summary['config'], indent=2, ensure_ascii=False)}\n```")
    return "\n\n".join(parts) + "\n"


def _caption(row: Row, metric: Metric) -> str:
    value = row.get(metric.name)
    return "" if value is None else f"{metric.name.upper()} {value:.2f}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """Shorten in the middle until it fits: both ends of a file name tell it apart."""
    if draw.textlength(text, font=font) <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and draw.textlength(f"{text[: keep // 2]}…{text[-(keep // 2) :]}", font=font) > width:
        keep -= 1
    return f"{text[: keep // 2]}…{text[-(keep // 2) :]}"


def _grid(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Rows that have a thumbnail, by photograph and model, photographs in the order of their ids."""
    grid: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda r: str(r["image_id"])):
        if row.get("thumbnail") is not None:
            grid.setdefault(row["image_id"], {})[row["model"]] = row
    return grid


def contact_sheet(rows: Iterable[Row], models: Sequence[str], headline: str, title: str = "") -> Image.Image | None:
    """Before/after sheet: one line per photograph, one column per model, the headline metric under each picture.

    Args:
        rows: per-photograph rows; those with a JPEG ``thumbnail`` are drawn.
        models: columns from left to right, the hazy input first.
        headline: name of the metric in the captions.
        title: text over the columns.

    Returns:
        The picture, or None when no row has a thumbnail.
    """
    grid = _grid(rows)
    columns = [m for m in models if any(m in cells for cells in grid.values())]
    if not columns:
        return None
    pictures = {
        (photo, model): Image.open(io.BytesIO(row["thumbnail"])).convert("RGB")
        for photo, cells in grid.items()
        for model, row in cells.items()
    }
    width = max(p.width for p in pictures.values())
    heights = {photo: max(pictures[photo, m].height for m in cells) for photo, cells in grid.items()}
    top = _GAP + (_LINE if title else 0) + _LINE
    total = top + sum(height + 2 * _LINE + _GAP for height in heights.values())
    sheet = Image.new("RGB", (len(columns) * (width + _GAP) + _GAP, total), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, _GAP // 2), _fit(draw, title, _font(14), sheet.width - 2 * _GAP), _INK, font=_font(14))
    for index, model in enumerate(columns):
        left = _GAP + index * (width + _GAP)
        draw.text((left, top - _LINE), _fit(draw, model, _font(15), width), _INK, font=_font(15))
    for photo, cells in grid.items():
        name = str(next(iter(cells.values()))["name"]).rsplit("/", 1)[-1]
        draw.text((_GAP, top + 3), _fit(draw, name, _font(12), sheet.width - 2 * _GAP), _FAINT, font=_font(12))
        for index, model in enumerate(columns):
            if model in cells:
                left = _GAP + index * (width + _GAP)
                sheet.paste(pictures[photo, model], (left, top + _LINE))
                below = top + _LINE + pictures[photo, model].height + 2
                draw.text((left, below), _caption(cells[model], METRICS[headline]), _INK, font=_font(13))
        top += heights[photo] + 2 * _LINE + _GAP
    return sheet


def stacked(pictures: Sequence[Image.Image]) -> Image.Image | None:
    """Pictures under each other; None for none."""
    if not pictures:
        return None
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), _BACKGROUND)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole
