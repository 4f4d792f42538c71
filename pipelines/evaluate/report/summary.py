"""What an evaluation found: the summary, its tables, and the files they go to. No Ray."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contact_sheet import joined
from models.paths import name_of
from pipelines.evaluate.annotations import Boxes
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.detection import Detections, Precision, average_precision
from pipelines.evaluate.evaluator import CLEAR, PAIRED, REAL, SYNTHETIC, UNHARMED, first_row
from pipelines.evaluate.metrics import METRICS, SSIM_SETTINGS
from pipelines.evaluate.parts import SHEETS, SUMMARY, Gallery, Parts, writing
from pipelines.evaluate.plan import EvaluationPlan, Group
from pipelines.evaluate.report import text as report
from pipelines.evaluate.report.page import Section, report_html
from pipelines.evaluate.statistics import FEWEST, RESAMPLES, Paired, Statistics, Table
from pipelines.reports import plural
from pipelines.tracking import Tracker, running, versions

VERSIONS = (
    "ray", "torch", "torchvision", "numpy", "scikit-image", "fade-python", "pillow", "pyarrow", "open_clip_torch",
    "lpips", "pyiqa", "pycocotools",
)  # fmt: skip
EXPERIMENT = "evaluation"
_FAILURES = 200  # listed in the summary; the CSV has them all
_KEY_PART = 100  # letters, the last ones of a path; MLflow takes 250 in all

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """What an evaluation found, and its files; ``summary`` is the content of ``summary.json``."""

    summary: dict[str, Any]
    csv: Path
    json: Path
    markdown: Path
    html: Path
    sheet: Path | None
    pairs_sheet: Path | None

    def mean(self, group: str, model: str, metric: str) -> float:
        """Return the mean of a metric over the photographs of a table, such as ``real`` or ``synthetic``."""
        return float(self.summary["tables"][group][model][metric]["mean"])

    def files(self) -> list[Path]:
        """Return the paths of all files of the report."""
        found = (self.html, self.markdown, self.json, self.csv, self.sheet, self.pairs_sheet)
        return [file for file in found if file is not None]


def publish(
    config: EvaluateConfig, plan: EvaluationPlan, parts: Parts, galleries: Mapping[str, Gallery], seconds: float
) -> Summary:
    """Compute the statistics of the parts, write the report's files, and log the MLflow run.

    Raises:
        ConfigError: the files cannot be written, or MLflow cannot be reached.
    """
    statistics = gather(plan, parts)
    tables = {name: found.table() for name, found in statistics.items() if found.photographs}
    summary = summarize(config, plan, parts, tables) | {"seconds": round(seconds, 1)}
    summary["paired"] = {name: [_plain(p) for p in statistics[name].paired()] for name in tables}
    if plan.settings.detector is not None:
        summary["detection"] = detection(plan, parts)
    found = write(parts.out, summary, tables, statistics, galleries, plan, parts)
    if config.tracking_uri is not None:
        track(found, config)
    return found


def gather(plan: EvaluationPlan, parts: Parts) -> dict[str, Statistics]:
    """Collect statistics in one pass over the parts, in their order, so that two runs add up the same numbers in the
    same order.
    """
    found = {
        name: Statistics(plan.rows(name), plan.settings.metrics, plan.settings.seed) for name in plan.groups
    }  # fmt: skip
    for group, image_id, rows in parts.photographs():
        found[group].add(image_id, rows)
    return found


def summarize(
    config: EvaluateConfig, plan: EvaluationPlan, parts: Parts, tables: Mapping[str, Table]
) -> dict[str, Any]:
    """Return all that the summary says of photographs and figures, ready for JSON."""
    failures = [{key: row[key] for key in ("group", "name", "error")} for row in parts.rows() if row["error"]]
    notes = [{key: row[key] for key in ("group", "name", "model", "note")} for row in parts.rows() if row["note"]]
    counts = {name: _counts(name, group, failures) for name, group in plan.groups.items()}
    return {
        "headline": {name: _headline(plan.groups[name], table) for name, table in tables.items()},
        "in_sample": any(g.selection.in_sample for g in plan.groups.values()),
        "warnings": [*_of_plan(plan), *_of_rows(plan, failures, notes), *_of_tables(plan, tables, counts)],
        "photographs": counts,
        "tables": {
            group: {model: {name: asdict(e) for name, e in entries.items()} for model, entries in table.items()}
            for group, table in tables.items()
        },
        "not_measured": plan.missing,
        "failures": failures[:_FAILURES],
        "metric_failures": notes[:_FAILURES],
        "metrics": {name: _metric(name, plan) for name in (*plan.settings.metrics, *plan.missing) if name in METRICS},
        "bootstrap": {"resamples": RESAMPLES, "seed": config.seed, "kind": "Poisson, over photographs, paired"},
        "config": config.model_dump(mode="json"),
        "models": plan.models,
        "row_settings": plan.settings.model_dump(mode="json"),
        "references": sum(
            len(set(g.references) & {e.image_id for e in g.selection.entries}) for g in plan.groups.values()
        ),
        "versions": versions(VERSIONS),
    }


def _of_plan(plan: EvaluationPlan) -> list[str]:
    """Warnings of the sources, and of FADE where it is not installed."""
    warnings = list(dict.fromkeys(warning for g in plan.groups.values() for warning in g.selection.warnings))
    if "fade" in plan.missing:
        instead = sorted({group.headline for group in plan.groups.values() if group.kind == REAL})
        judged = f"; hazy photographs are judged by {instead[0]}, which does not see haze" if instead else ""
        warnings.append(f"fade is left out: {plan.missing['fade']}{judged}")
    return warnings


def _of_rows(plan: EvaluationPlan, failures: Sequence[Row], notes: Sequence[Row]) -> Iterator[str]:
    """Warnings of photographs that could not be measured, and of metrics that failed."""
    for name, group in plan.groups.items():
        own = [failure for failure in failures if failure["group"] == name]
        if own:
            yield (
                f"{len(own)} of {len(group.selection.entries)} photographs ({name}) could not be measured and are left "
                f"out; the first: {own[0]['name']}, {own[0]['error']}"
            )
    if notes:
        first = notes[0]
        yield (
            f"metrics failed on {plural(len(notes), 'picture')}, left out of their figures; the first: "
            f"{first['name']}, {first['model']}, {first['note']}"
        )


def _of_tables(plan: EvaluationPlan, tables: Mapping[str, Table], counts: Mapping[str, Row]) -> Iterator[str]:
    """Warnings of means over fewer photographs than the others, and of too few for intervals."""
    for name, table in tables.items():
        group, evaluated = plan.groups[name], counts[name]["evaluated"]
        own = (first_row(group.kind), *(choice.label for choice in plan.settings.models), *group.results)
        for metric in plan.settings.metrics:
            have = {model: entries[metric].n for model, entries in table.items() if metric in entries}
            if metric == group.headline:  # every row should have it
                have = dict.fromkeys(own, 0) | have
            lacks = {model: evaluated - n for model, n in have.items()}
            if len(set(lacks.values())) > 1 or (metric == group.headline and any(lacks.values())):
                which = ", ".join(f"{count} of {model}" for model, count in lacks.items() if count)
                yield f"{metric} is no number on some photographs ({name}), which the means leave out: {which}"
        most = max((entry.n for entries in table.values() for entry in entries.values()), default=0)
        if most < FEWEST:
            yield f"too few photographs for intervals ({name}): {most}, and they need {FEWEST}"


def _headline(group: Group, table: Table) -> dict[str, Any]:
    name = group.headline
    means = {model: entries[name].mean for model, entries in table.items() if name in entries}
    return {"metric": name, "better": METRICS[name].better, "means": means}


def _counts(name: str, group: Group, failures: Sequence[Row]) -> dict[str, Any]:
    chosen = group.selection
    return {
        "kind": group.kind,
        "source": chosen.source,
        "found": chosen.found,
        "split": chosen.split,
        "evaluated": len(chosen.entries) - sum(f["group"] == name for f in failures),
        "in_sample": chosen.in_sample,
    }


def _metric(name: str, plan: EvaluationPlan) -> dict[str, Any]:
    about: dict[str, Any] = asdict(METRICS[name]) | {"selected_labels": name in plan.banned}
    if name == "ssim":
        about["settings"] = SSIM_SETTINGS
    if name in ("clearness", "quality"):
        about["scorer"] = plan.settings.scorer
    about |= plan.about.get(name, {})
    return about


def _plain(paired: Paired) -> dict[str, Any]:
    return asdict(paired) | {"decided": paired.decided}


def detection(plan: EvaluationPlan, parts: Parts) -> dict[str, Any]:
    """Return the average precision of every row of the table, model by model."""
    about: dict[str, Any] = plan.about["detector"]
    found: dict[str, Precision] = {}
    counts: dict[str, int] = {}
    for model in plan.order:
        seen = _found(parts, model)
        truth = {image_id: plan.truth[image_id] for image_id in seen.boxes}
        if truth:
            counts[model] = len(truth)
            found[model] = average_precision(truth, seen, about["labels"], plan.classes, plan.settings.seed)
    if not found:  # none of the annotated photographs could be read
        return about | {"photographs": 0, "models": {}}
    baseline = found[plan.order[0]]
    rows = {}
    for model, precision in found.items():
        own = {"ap50": precision.ap50, "ap": precision.ap, "by_class": precision.by_class}
        own |= {"photographs": counts[model], "interval": _percentiles(precision.resampled, counts[model])}
        if model not in (plan.order[0], CLEAR):
            interval = _percentiles(precision.resampled - baseline.resampled, counts[model])
            own["difference"] = {"mean": precision.ap50 - baseline.ap50, "interval": interval}
        rows[model] = _finite(own)
    return about | {"photographs": counts[plan.order[0]], "models": rows}


def _found(parts: Parts, model: str) -> Detections:
    boxes: dict[str, Boxes] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for table in parts.tables(["image_id", "model", "boxes", "width", "height"]):
        for row in table.to_pylist():
            if row["model"] == model and row["boxes"] is not None:
                boxes[row["image_id"]] = np.frombuffer(row["boxes"], "<f4").reshape(-1, 6)
                sizes[row["image_id"]] = (row["width"], row["height"])
    return Detections(boxes, sizes)


def _percentiles(values: Any, photographs: int) -> list[float] | None:
    known = values[np.isfinite(values)]
    return None if known.size == 0 or photographs < FEWEST else [float(v) for v in np.percentile(known, [2.5, 97.5])]


def _finite(value: Any) -> Any:
    """NaN as None, for strict JSON."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(
    out: Path,
    summary: dict[str, Any],
    tables: Mapping[str, Table],
    statistics: Mapping[str, Statistics],
    galleries: Mapping[str, Gallery],
    plan: EvaluationPlan,
    parts: Parts,
) -> Summary:
    """Write CSV, JSON, Markdown, HTML and contact sheets; sheets of an earlier evaluation are replaced or removed.

    Raises:
        ConfigError: the disk takes no more.
    """
    sheets = {
        name: sheet(out / name, [g for g in tables if plan.groups[g].kind in kinds], summary, tables, galleries)
        for name, kinds in zip(SHEETS, ((REAL, PAIRED), (SYNTHETIC, UNHARMED)), strict=True)
    }
    sections = [
        Section(name, plan.groups[name].headline, tables[name], statistics[name], galleries[name]) for name in tables
    ]
    page = report_html(summary, sections, plan.subject)
    return Summary(
        summary=summary,
        csv=parts.write_csv(out / "per_image.csv", plan.settings.metrics),
        json=report.write_json(summary, out / SUMMARY),
        markdown=report.write_text(report.markdown(summary, tables), out / "summary.md"),
        html=report.write_text(page, out / "report.html"),
        sheet=sheets[SHEETS[0]],
        pairs_sheet=sheets[SHEETS[1]],
    )


def sheet(
    path: Path,
    groups: Sequence[str],
    summary: Mapping[str, Any],
    tables: Mapping[str, Table],
    galleries: Mapping[str, Gallery],
) -> Path | None:
    """Draw before and after of some photographs at random, one table under the other; None without photographs."""
    pictures = []
    for name in groups:
        chosen, headline = galleries[name].random(), summary["headline"][name]["metric"]
        drawn = report.contact_sheet(chosen, list(tables[name]), headline, sheet_title(name, summary))
        pictures += [] if drawn is None else [drawn]
    path.unlink(missing_ok=True)
    if not pictures:
        return None
    with writing(path) as partial:
        joined(pictures, down=True).save(partial, "PNG", optimize=True)
    return path


def sheet_title(group: str, summary: Mapping[str, Any]) -> str:
    """Return the headline means over all photographs of a table, which are more than those on the sheet, as a title."""
    headline, count = summary["headline"][group], summary["photographs"][group]["evaluated"]
    means = ", ".join(f"{model} {mean:.2f}" for model, mean in headline["means"].items())
    counted = plural(count, "photograph")
    return f"{group}, {counted}, mean {headline['metric'].upper()} ({headline['better']} is better): {means}"


def headline_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what the command prints: per table, the headline of each model and how many photographs it improved."""
    lines = []
    for group, headline in summary["headline"].items():
        name, count = headline["metric"], summary["photographs"][group]["evaluated"]
        counted = plural(count, f"{group} photograph")
        lines.append(f"\n{counted}, mean {name.upper()} ({headline['better']} is better)")
        for model, mean in headline["means"].items():
            entry = summary["tables"][group][model][name]
            bounds = "" if entry["interval"] is None else "   [{:.3f}, {:.3f}]".format(*entry["interval"])
            difference = entry["difference"] if summary["photographs"][group]["kind"] != UNHARMED else None
            better = "" if difference is None else f"   better on {difference['improved']:.0%}"
            lines.append(f"  {model:<30}{mean:>8.3f}{bounds}{better}")
    return lines


def track(found: Summary, config: EvaluateConfig) -> None:
    """Log the evaluation as a run of MLflow: configuration, means of every model, all files."""
    tracker = Tracker.start(EXPERIMENT, name_of(config.out), str(config.tracking_uri))
    with running(tracker):
        tracker.log_params(config.model_dump(mode="json", exclude={"tracking_uri"}))
        tracker.log_metrics(flat(found.summary))
        for file in found.files():
            tracker.log_artifact(file)


def flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return ``table/model/metric`` and the ends of its interval, in names that MLflow takes, with their values."""
    values: dict[str, float] = {}
    for group, table in summary["tables"].items():
        for model, entries in table.items():
            for name, entry in entries.items():
                key = _key(group, model, name)
                values[key] = entry["mean"]
                if entry["interval"] is not None:
                    values[f"{key}/low"], values[f"{key}/high"] = entry["interval"]
    for model, entry in summary.get("detection", {}).get("models", {}).items():
        if entry["ap50"] is not None:
            values[_key("detection", model, "ap50")] = entry["ap50"]
    return values


def _key(*parts: str) -> str:
    """Return a name that MLflow takes: one of files, so that no part of it may be empty, ``..``, or have a slash."""
    plain = ("".join(c if c.isalnum() or c in "_-." else "_" for c in part)[-_KEY_PART:] for part in parts)
    return "/".join(part if part.strip(".") else "_" for part in plain)
