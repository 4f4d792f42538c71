"""The report of an evaluation as one HTML page that asks for nothing else; its only script moves the sliders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.evaluate.evaluator import CLEAR, HAZY
from pipelines.evaluate.metrics import METRICS, Values
from pipelines.evaluate.parts import Gallery, Photograph
from pipelines.evaluate.report.text import ARROWS, bounds, columns, number, words
from pipelines.evaluate.statistics import Statistics, Table
from pipelines.reports import SERIES, draw_chart, render, short
from pipelines.shown import shown

_PICTURE_BYTES = 12 << 20  # of all pictures on the page, before base64
_SAID = 40  # warnings, failures and pairs listed, each
_DOTS = 120  # photographs of a model that a distribution shows


@dataclass(frozen=True)
class Section:
    """A table with what stands below it."""

    name: str
    headline: str
    table: Table
    statistics: Statistics
    gallery: Gallery


def report_html(summary: Mapping[str, Any], sections: Sequence[Section], subject: str) -> str:
    """Return the page as HTML. Pure: the same arguments give the same text.

    Args:
        summary: as written to JSON.
        sections: its tables.
        subject: the model whose worst photographs are shown.
    """
    left = _PICTURE_BYTES
    shown_sections = []
    for section in sections:
        cases = []
        for photograph in section.gallery.worst():
            need = sum(len(row.get("thumbnail") or b"") for row in photograph.values())
            if 0 < need <= left:
                left -= need
                cases.append(_case(photograph, section, subject))
        shown_sections.append(_section(section, summary) | {"cases": cases})
    return render(
        "evaluate/report/report.html.j2",
        script="evaluate/report/slider.js",
        sections=shown_sections,
        subject=subject,
        total=sum(counts["evaluated"] for counts in summary["photographs"].values()),
        said=_SAID,
        **words(summary),
    )


def _section(section: Section, summary: Mapping[str, Any]) -> dict[str, Any]:
    names = columns(section.table, section.headline)
    plots = ((name, _distribution(name, section)) for name in names)
    return {
        "name": section.name,
        "headline": section.headline,
        "input": section.gallery.first,
        "table": section.table,
        "names": names,
        "best": {name: _best(section, name, summary["metrics"][name]["selected_labels"]) for name in names},
        "pairs": list(_pairs(section.headline, summary["paired"][section.name])),
        "plots": [(name, svg) for name, svg in plots if svg],
    }


def _best(section: Section, name: str, selected_labels: bool) -> str | None:
    """Return the model with the best mean; None where the mean says nothing of quality, such as less haze where there
    was none, or means are of different photographs.
    """
    found = {m: e[name] for m, e in section.table.items() if name in e and m not in (HAZY, CLEAR)}
    unlike = len({entry.n for entry in found.values()}) > 1
    empty = METRICS[name].needs == "transmission" or (section.gallery.first == CLEAR and METRICS[name].needs == "image")
    if selected_labels or empty or unlike or len(found) < 2:
        return None
    return max(found, key=lambda model: METRICS[name].gain(found[model].mean, 0.0))


def _pairs(headline: str, pairs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    metric = METRICS[headline]
    for pair in pairs:
        if pair["metric"] == headline and CLEAR not in (pair["model"], pair["other"]):
            found = pair["difference"]
            verdict = "too few photographs" if found["interval"] is None else "yes" if pair["decided"] else "no"
            value = number(found["mean"], metric, "+") + bounds(found["interval"], metric, "+")
            models = f"{short(pair['model'])} − {short(pair['other'])}"
            yield models, value, f"{found['improved']:.0%}", verdict


def _case(photograph: Photograph, section: Section, subject: str) -> dict[str, Any]:
    """A photograph's pictures, and its values by a few metrics."""
    names = columns(section.table, section.headline)[:4]
    first = section.gallery.first
    after = {m: row["thumbnail"] for m, row in photograph.items() if m != first and row.get("thumbnail")}
    values = (
        (short(model, 24), *("" if row.get(n) is None else number(row[n], METRICS[n]) for n in names))
        for model, row in photograph.items()
    )
    return {
        "file": str(photograph[first]["name"]).rsplit("/", 1)[-1],
        "input": first,
        "before": photograph[first]["thumbnail"],
        "after": after,
        "first": subject if subject in after else next(iter(after)),
        "head": ["", *(f"{n} {ARROWS[METRICS[n].better]}" for n in names)],
        "rows": list(values),
    }


def _distribution(metric: str, section: Section) -> Markup:
    """For every model its photographs as dots, the middle half as a box, median and mean; nothing for no values."""
    rows = {model: found for model in section.table if (found := section.statistics.values(model, metric)).size}
    if not rows:
        return Markup()

    def draw(axes: Any) -> None:
        blue, orange = SERIES[:2]
        axes.boxplot(
            list(rows.values()),
            orientation="horizontal",
            whis=(0, 100),
            widths=0.6,
            tick_labels=[shown(short(model, 18)) for model in rows],
            patch_artist=True,
            boxprops={"facecolor": blue, "alpha": 0.25, "linewidth": 0},
            medianprops={"color": blue, "linewidth": 2},
            whiskerprops={"color": blue},
            showcaps=False,
            showmeans=True,
            meanprops={
                "marker": "o",
                "markersize": 4.5,
                "markerfacecolor": orange,
                "markeredgecolor": orange,
                "zorder": 4,
            },
        )
        for place, found in enumerate(rows.values(), 1):
            dots = _some(found)
            axes.plot(dots, place + (np.arange(dots.size) % 5 - 2) * 0.09, ".", color=blue, alpha=0.55, markersize=3)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")

    counts = ", ".join(f"{model}: median {np.median(found):.3g} of {found.size}" for model, found in rows.items())
    return draw_chart(draw, shown(f"{metric}: {short(counts, 400)}"), height=0.4 + 0.28 * len(rows))


def _some(values: Values) -> Values:
    """Return all values in order, or ``_DOTS`` of them."""
    ordered = np.sort(values)
    some: Values = ordered[np.linspace(0, ordered.size - 1, min(_DOTS, ordered.size)).astype(int)]
    return some
