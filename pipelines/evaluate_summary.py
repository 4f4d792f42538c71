"""What an evaluation found: the summary, its tables, and the files they go to. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines import report
from pipelines.evaluate_rows import HAZY, REAL, SYNTHETIC
from pipelines.evaluate_sources import Selection
from pipelines.metrics import METRICS, SSIM_SETTINGS, Aggregate, aggregate
from pipelines.versions import versions

Row = dict[str, Any]
Tables = dict[str, dict[str, dict[str, Aggregate]]]

HEADLINE = {REAL: "fade", SYNTHETIC: "psnr"}
"""The metric that each kind of photograph is judged by; never one that selected the pseudo labels."""

VERSIONS = ("ray", "torch", "numpy", "scikit-image", "fade-python", "pillow", "open_clip_torch")


@dataclass(frozen=True)
class Summary:
    """What an evaluation found, and its files; ``summary`` is the content of ``summary.json``."""

    summary: dict[str, Any]
    csv: Path
    json: Path
    markdown: Path
    sheet: Path | None
    pairs_sheet: Path | None

    def mean(self, kind: str, model: str, metric: str) -> float:
        """Mean of a metric over the ``real`` or ``synthetic`` photographs."""
        return float(self.summary["tables"][kind][model][metric]["mean"])


def tabulate(rows: Sequence[Row], order: Sequence[str], seed: int) -> Tables:
    """Aggregates by kind, model and metric; a kind none of whose photographs could be read has no table."""
    measured = {kind: [r for r in rows if r["kind"] == kind and not r["error"]] for kind in HEADLINE}
    return {kind: aggregate(found, HAZY, order, seed) for kind, found in measured.items() if found}


def summarise(selections: Mapping[str, Selection], rows: Sequence[Row], tables: Tables) -> dict[str, Any]:
    """Everything that the summary says about photographs and figures, ready for JSON."""
    failures = [{"kind": r["kind"], "name": r["name"], "error": r["error"]} for r in rows if r["error"]]
    warnings = [warning for s in selections.values() for warning in s.warnings]
    if failures:
        warnings.append(f"{len(failures)} photographs could not be measured and are left out")
    return {
        "headline": {
            kind: {
                "metric": HEADLINE[kind],
                "better": METRICS[HEADLINE[kind]].better,
                "means": {model: e[HEADLINE[kind]].mean for model, e in table.items() if HEADLINE[kind] in e},
            }
            for kind, table in tables.items()
        },
        "in_sample": any(s.in_sample for s in selections.values()),
        "warnings": warnings,
        "photographs": {
            kind: {
                "source": s.source,
                "found": s.found,
                "split": s.split,
                "evaluated": len(s.entries) - sum(f["kind"] == kind for f in failures),
                "in_sample": s.in_sample,
            }
            for kind, s in selections.items()
        },
        "tables": {
            kind: {model: {name: asdict(e) for name, e in entries.items()} for model, entries in table.items()}
            for kind, table in tables.items()
        },
        "failures": failures,
        "metrics": {name: asdict(metric) for name, metric in METRICS.items()} | {"ssim_settings": SSIM_SETTINGS},
        "versions": versions(VERSIONS),
    }


def write(out: Path, summary: dict[str, Any], tables: Tables, rows: Sequence[Row]) -> Summary:
    """Write CSV, JSON, Markdown and the contact sheets; sheets of an earlier evaluation are replaced or removed."""
    out.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, Path | None] = {}
    for kind, name in ((REAL, "contact_sheet.png"), (SYNTHETIC, "pairs_sheet.png")):
        (out / name).unlink(missing_ok=True)
        models = list(tables.get(kind, {}))
        title = sheet_title(kind, summary) if models else ""
        picture = report.contact_sheet([r for r in rows if r["kind"] == kind], models, HEADLINE[kind], title)
        sheets[kind] = None if picture is None else report.write_sheet(picture, out / name)
    return Summary(
        summary=summary,
        csv=report.write_csv(rows, out / "per_image.csv"),
        json=report.write_json(summary, out / "summary.json"),
        markdown=report.write_markdown(report.markdown(summary, tables), out / "summary.md"),
        sheet=sheets[REAL],
        pairs_sheet=sheets[SYNTHETIC],
    )


def sheet_title(kind: str, summary: Mapping[str, Any]) -> str:
    """The headline means over all photographs of a kind, which are more than those on the sheet."""
    headline, count = summary["headline"][kind], summary["photographs"][kind]["evaluated"]
    means = ", ".join(f"{model} {mean:.2f}" for model, mean in headline["means"].items())
    return f"{kind}, {count} photographs, mean {headline['metric'].upper()} ({headline['better']} is better): {means}"


def headline_lines(summary: Mapping[str, Any]) -> list[str]:
    """What the command prints: per kind, the headline metric of each model and how many photographs it improved."""
    lines = []
    for kind, headline in summary["headline"].items():
        name, count = headline["metric"], summary["photographs"][kind]["evaluated"]
        lines.append(f"\n{count} {kind} photographs, mean {name.upper()} ({headline['better']} is better)")
        for model, mean in headline["means"].items():
            difference = summary["tables"][kind][model][name]["difference"]
            better = "" if difference is None else f"   better on {difference['improved']:.0%}"
            lines.append(f"  {model:<30}{mean:>8.3f}{better}")
    return lines
