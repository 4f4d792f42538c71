"""Files of an evaluation: per-image CSV, summary as JSON and Markdown, before/after contact sheets. No Ray."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipelines.metrics import METRICS, Aggregate, Metric

COLUMNS = ("kind", "image_id", "name", "model", "width", "height", *METRICS, "seconds", "error")
ARROWS = {"lower": "↓", "higher": "↑"}

_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_GAP, _LINE = 8, 20

Row = Mapping[str, Any]


def _replace(path: Path, text: str) -> Path:
    """Write text so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """One line per photograph and model, in full precision; an empty cell means not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _replace(path, text.getvalue())


def write_json(summary: Mapping[str, Any], path: Path) -> Path:
    """The summary as strict JSON: a NaN that slipped in raises ValueError instead of making an unreadable file."""
    return _replace(path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _number(value: float, metric: Metric, sign: str = "") -> str:
    return f"{value:{sign}.{metric.decimals}f}"


def _cell(entry: Aggregate | None, metric: Metric, *, headline: bool) -> str:
    """`mean (median)`, and for the headline the paired difference with its interval and the share that improved."""
    if entry is None:
        return ""
    text = f"{_number(entry.mean, metric)} ({_number(entry.median, metric)})"
    if headline and entry.difference is not None:
        difference = entry.difference
        text += f"; {_number(difference.mean, metric, '+')}"
        if difference.interval is not None:
            low, high = difference.interval
            text += f" [{_number(low, metric, '+')}, {_number(high, metric, '+')}]"
        text += f", {difference.improved:.0%} better"
    return text


def markdown_table(table: Mapping[str, Mapping[str, Aggregate]], headline: str) -> str:
    """Rows are models, columns metrics with the headline first; only metrics that some model has."""
    names = [n for n in METRICS if any(n in entries for entries in table.values())]
    names.sort(key=lambda n: n != headline)
    titles = [
        f"{'**' if n == headline else ''}{n} {ARROWS[METRICS[n].better]}{'**' if n == headline else ''}" for n in names
    ]
    lines = ["| " + " | ".join(["model", *titles]) + " |", "| --- " * (len(names) + 1) + "|"]
    for model, entries in table.items():
        cells = [_cell(entries.get(n), METRICS[n], headline=n == headline) for n in names]
        lines.append("| " + " | ".join([model, *cells]) + " |")
    return "\n".join(lines)


def markdown(summary: Mapping[str, Any], tables: Mapping[str, Mapping[str, Mapping[str, Aggregate]]]) -> str:
    """The summary for people: warnings first, one table per kind of photograph, failures, and what made the numbers.

    Args:
        summary: as written to JSON (keys ``warnings``, ``headline``, ``photographs``, ``failures``, ``versions``,
            ``seconds``, ``config``).
        tables: aggregates by kind, model and metric.
    """
    parts = ["# Evaluation", *(f"> **Warning:** {warning}." for warning in summary["warnings"])]
    for kind, table in tables.items():
        counts = summary["photographs"][kind]
        parts += [
            f"## {kind.capitalize()} photographs: {counts['evaluated']} of {counts['found']} ({counts['split']})",
            markdown_table(table, summary["headline"][kind]["metric"]),
        ]
    parts.append(
        "Mean (median); the headline metric also shows the mean paired difference against the hazy input with its "
        "95 % bootstrap interval, and the share of photographs that got better. The scorer's clearness and quality "
        "selected the pseudo labels, so they are never the headline. FADE is comparable within this table only."
    )
    if summary["failures"]:
        parts.append("## Not measured")
        parts.append("\n".join(f"- `{f['name']}`: {f['error']}" for f in summary["failures"]))
    parts.append("## Made with")
    parts.append("\n".join(f"- {name} {version}" for name, version in summary["versions"].items()))
    parts.append(f"```json\n{json.dumps(summary['config'], indent=2, ensure_ascii=False)}\n```")
    return "\n\n".join(parts) + "\n"


def write_markdown(text: str, path: Path) -> Path:
    """Write the Markdown summary."""
    return _replace(path, text)


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


def write_sheet(sheet: Image.Image, path: Path) -> Path:
    """Save a contact sheet as PNG, replacing an old one at once."""
    partial = path.with_name(path.name + ".partial")
    sheet.save(partial, "PNG", optimize=True)
    partial.replace(path)
    return path
