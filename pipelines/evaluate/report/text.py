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
from pipelines.evaluate.metrics import METRICS, Metric, shown
from pipelines.evaluate.parts import Photograph, writing
from pipelines.evaluate.report.published import ABSENT, PUBLISHED, Published
from pipelines.evaluate.statistics import Aggregate, Interval, Table

ARROWS = {"lower": "↓", "higher": "↑"}


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


def contact_sheet(
    photographs: Iterable[Photograph], models: Sequence[str], headline: str, title: str
) -> Image.Image | None:
    """Before/after sheet: one line per photograph, one column per model, the headline metric under each picture.

    Args:
        photographs: those with a JPEG ``thumbnail`` are drawn.
        models: columns from left to right, the hazy input first.
        headline: name of the metric in the captions.
        title: text over the columns.

    Returns:
        The picture, or None when no photograph has a thumbnail.
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
    return contact_sheet_of(lines, columns, title) if lines else None
