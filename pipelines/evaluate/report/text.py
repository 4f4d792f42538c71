"""Files of an evaluation: summary as JSON and Markdown, before/after contact sheets. No Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.contact_sheet import Line
from models.contact_sheet import contact_sheet as contact_sheet_of
from pipelines.evaluate.evaluator import CLEAR, HAZY
from pipelines.evaluate.metrics import METRICS, Metric, shown_metrics
from pipelines.evaluate.parts import Photograph, writing
from pipelines.evaluate.report.published import ABSENT, PUBLISHED
from pipelines.evaluate.statistics import Aggregate, Interval, Table
from pipelines.reports import render

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0"}


def write_text(text: str, path: Path) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Raises:
        ConfigError: the disk takes no more.
    """
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(summary: Mapping[str, Any], path: Path) -> Path:
    """Write the summary as strict JSON: a NaN that slipped in raises ValueError instead of making an unreadable
    file.
    """
    return write_text(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def number(value: float, metric: Metric, sign: str = "") -> str:
    """Format a value with the decimals of its metric."""
    return f"{value:{sign}.{metric.decimals}f}"


def bounds(interval: Interval | Sequence[float], metric: Metric, sign: str = "") -> str:
    """Return `` [low, high]``, or no text where there is no interval."""
    return "" if interval is None else f" [{number(interval[0], metric, sign)}, {number(interval[1], metric, sign)}]"


def cell(entry: Aggregate | None, metric: Metric, *, headline: bool) -> str:
    """Return `mean [interval]`, and for the headline the paired difference with its interval and the share that
    improved.
    """
    if entry is None:
        return ""
    text = number(entry.mean, metric) + bounds(entry.interval, metric)
    if headline and entry.difference is not None:
        difference = entry.difference
        text += f"; {number(difference.mean, metric, '+')}{bounds(difference.interval, metric, '+')}"
        text += f", {difference.improved:.0%} better"
    return text


def columns(table: Table, headline: str) -> list[str]:
    """Return the metrics that some model has, the headline first."""
    return shown_metrics([name for entries in table.values() for name in entries], headline)


def detection_rows(detection: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return rows of model, AP50 with its interval, AP, and the difference to the hazy input."""
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
        count, most = entry["photographs"], detection["photographs"]
        rows.append((model if count == most else f"{model} ({count} of {most} photographs)", *values, change))
    return rows


HARM = (
    "These photographs are clear and were given to the models as they are. A dehazer that knows haze leaves them: "
    "every difference from the clear reference is harm, a lower FADE as well."
)


def words(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates of a summary share."""
    return {
        "inputs": (HAZY, CLEAR),
        "harm": HARM,
        "summary": summary,
        "absent": [name for name in summary["not_measured"] if name in METRICS],
        "metrics": METRICS,
        "arrows": ARROWS,
        "number": number,
        "bounds": bounds,
        "detection_rows": detection_rows,
        "published": PUBLISHED,
        "not_published": ABSENT,
        "config": json.dumps(summary["config"], indent=2, ensure_ascii=False),
    }


def markdown(summary: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """Return the summary for people: warnings first, one table per kind of photograph, failures, and what made the
    numbers.

    Args:
        summary: as written to JSON.
        tables: aggregates by table, model and metric.
    """
    return render("evaluate/report/summary.md.j2", tables=tables, columns=columns, cell=cell, **words(summary))


def contact_sheet(
    photographs: Iterable[Photograph], models: Sequence[str], headline: str, title: str
) -> Image.Image | None:
    """Draw a sheet of before and after: one line per photograph, one column per model, the headline metric under each
    picture.

    Args:
        photographs: those with a JPEG ``thumbnail`` are drawn.
        models: columns from left to right, the hazy input first.
        headline: name of the metric in the captions.
        title: text over the columns.

    Returns:
        The picture, or None without a photograph that has a thumbnail, or without columns.
    """
    seen = [p for p in photographs if any(row.get("thumbnail") for row in p.values())]
    columns = [m for m in models if any(p.get(m, {}).get("thumbnail") for p in seen)]
    lines = []
    for photograph in seen:
        rows = [photograph.get(model, {}) for model in columns]
        pictures = [Image.open(io.BytesIO(row["thumbnail"])) if row.get("thumbnail") else None for row in rows]
        values = [row.get(headline) for row in rows]
        captions = ["" if value is None else f"{headline.upper()} {value:.2f}" for value in values]
        name = str(next(iter(photograph.values()))["name"]).rsplit("/", 1)[-1]
        lines.append(Line(pictures, name, captions))
    return contact_sheet_of(lines, columns, title) if lines and columns else None
