"""The report of an evaluation as one HTML page that asks for nothing else; its only script moves the sliders."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipelines.evaluate.evaluator import CLEAR, HAZY
from pipelines.evaluate.metrics import METRICS, Metric
from pipelines.evaluate.parts import Gallery, Photograph
from pipelines.evaluate.report import text as words
from pipelines.evaluate.report.plots import distribution
from pipelines.evaluate.report.published import ABSENT, PUBLISHED
from pipelines.evaluate.report.style import SCRIPT, STYLE
from pipelines.evaluate.statistics import Aggregate, Statistics, Table
from pipelines.reports import name as file_name
from pipelines.reports import plural, text
from pipelines.reports import table as html_table

_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# The script of this page and no other, and nothing from elsewhere, whatever a name holds that slipped through.
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"
_PICTURE_BYTES = 12 << 20  # of all pictures on the page, before base64
_SAID = 40  # warnings, failures and pairs listed, each


@dataclass(frozen=True)
class Section:
    """A table with what stands below it."""

    name: str
    headline: str
    table: Table
    statistics: Statistics
    gallery: Gallery


@dataclass(frozen=True)
class Report:
    """Everything on the page: the summary as written to JSON, its tables, and whose worst photographs are shown."""

    summary: Mapping[str, Any]
    sections: Sequence[Section]
    subject: str


def report_html(page: Report) -> str:
    """The page. Pure: the same report gives the same text."""
    budget = _Budget(_PICTURE_BYTES)
    parts = [(f"t{i}", _title(s, page.summary), _section(s, page, budget)) for i, s in enumerate(page.sections)]
    if "detection" in page.summary:
        parts.append(("detection", "Detection", _detection(page.summary["detection"])))
    parts += [
        ("published", "Published elsewhere", _published()),
        ("metrics", "What is measured", _metrics(page.summary)),
        ("made", "How it was made", _made(page.summary)),
    ]
    links = "".join(f'<a href="#{anchor}">{text(heading)}</a>' for anchor, heading, _ in parts)
    body = "".join(f'<section id="{a}"><h2>{text(heading)}</h2>{content}</section>' for a, heading, content in parts)
    warnings = "".join(f'<p class="warn">{text(w, 400)}</p>' for w in page.summary["warnings"][:_SAID])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Evaluation</title><style>{STYLE}</style></head>\n'
        f'<body><header><p class="kind">Report</p><h1>Evaluation</h1>{_lead(page)}{warnings}'
        f"<nav>{links}</nav></header>\n"
        f"<main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _title(section: Section, summary: Mapping[str, Any]) -> str:
    return f"{section.name.capitalize()} photographs ({summary['photographs'][section.name]['evaluated']})"


def _lead(page: Report) -> str:
    total = sum(counts["evaluated"] for counts in page.summary["photographs"].values())
    rows = list(page.summary["models"])
    return (
        f"<p>{plural(total, 'photograph')}, {plural(len(rows), 'model')}: {text(', '.join(rows), 300)}. Every table "
        "has the hazy input as a row: what the photographs score before anything is done to them.</p>"
    )


class _Budget:
    """Bytes of pictures that the page may still take."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, photograph: Photograph) -> bool:
        need = sum(len(row.get("thumbnail") or b"") for row in photograph.values())
        if need > self.left:
            return False
        self.left -= need
        return True


def _section(section: Section, page: Report, budget: _Budget) -> str:
    counts = page.summary["photographs"][section.name]
    about = (
        f"<p>{counts['evaluated']:,} of {plural(counts['found'], 'photograph')} ({text(counts['split'])}) of "
        f"{file_name(counts['source'])}, judged by <b>{section.headline}</b> ({METRICS[section.headline].better} is "
        "better). In brackets: 95 % bootstrap intervals over photographs.</p>"
    )
    plots = "".join(
        distribution(metric, {model: section.statistics.values(model, metric) for model in section.table})
        for metric in words.columns(section.table, section.headline)
    )
    return (
        about
        + _summary_table(section, page.summary["not_measured"], page.summary["metrics"])
        + _pairs(section, page.summary["paired"][section.name])
        + "<h3>Distributions</h3><p>Dots: photographs. Box: the middle half. Line: median. Filled: mean.</p>"
        + f'<div class="charts">{plots}</div>'
        + _cases(section, page, budget)
    )


def _summary_table(section: Section, missing: Mapping[str, str], about: Mapping[str, Any]) -> str:
    names = words.columns(section.table, section.headline)
    absent = [name for name in missing if name in METRICS]
    head = "".join(
        f'<th scope="col" class="n">{text(n)} {words.ARROWS[METRICS[n].better]}'
        f"<small>{'headline' if n == section.headline else ''}</small></th>"
        for n in [*names, *absent]
    )
    best = {name: None if about[name]["selected_labels"] else _best(section.table, name) for name in names}
    body = ""
    for model, entries in section.table.items():
        cells = "".join(_cell(entries.get(n), METRICS[n], best=best[n] == model) for n in names)
        cells += "".join(f'<td class="n" title="{text(missing[n], 300)}">n/a</td>' for n in absent)
        kind = ' class="input"' if model in (HAZY, CLEAR) else ""
        body += f'<tr{kind}><th scope="row">{text(model)}</th>{cells}</tr>'
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">model</th>{head}</tr></thead><tbody>{body}</tbody>'
        f"</table></div>{_absent(missing)}"
    )


def _best(table: Table, name: str) -> str | None:
    """The model with the best mean, among those that made something; none where that says nothing of quality."""
    if METRICS[name].needs == "transmission":
        return None
    sign = 1.0 if METRICS[name].better == "higher" else -1.0
    means = {m: sign * e[name].mean for m, e in table.items() if name in e and m not in (HAZY, CLEAR)}
    return max(means, key=lambda model: means[model]) if len(means) > 1 else None


def _cell(entry: Aggregate | None, metric: Metric, *, best: bool) -> str:
    if entry is None:
        return '<td class="n"></td>'
    shown = words.number(entry.mean, metric)
    median = "" if entry.median is None else f"median {words.number(entry.median, metric)}"
    return (
        f'<td class="n{" best" if best else ""}" title="{median}, {entry.n} photographs">{shown}'
        f"<small>{words.bounds(entry.interval, metric).strip()}</small></td>"
    )


def _absent(missing: Mapping[str, str]) -> str:
    if not missing:
        return ""
    return "<p>Not available: " + "; ".join(f"<b>{text(n)}</b>, {text(r, 400)}" for n, r in missing.items()) + "</p>"


def _pairs(section: Section, pairs: Sequence[Mapping[str, Any]]) -> str:
    metric = METRICS[section.headline]
    rows = []
    for pair in pairs:
        if pair["metric"] != section.headline or CLEAR in (pair["model"], pair["other"]):
            continue
        found = pair["difference"]
        verdict = "too few photographs" if found["interval"] is None else "yes" if pair["decided"] else "no"
        value = words.number(found["mean"], metric, "+") + words.bounds(found["interval"], metric, "+")
        rows.append((f"{text(pair['model'])} − {text(pair['other'])}", value, f"{found['improved']:.0%}", verdict))
    if not rows:
        return ""
    head = ["models", f"difference in {section.headline}", "better on", "decided"]
    return (
        f"<h3>Paired differences</h3><p>On the same photographs and the same resamples. Decided: the interval leaves "
        f"out zero.</p>{html_table(head, rows[:_SAID], (1, 2))}"
    )


def _cases(section: Section, page: Report, budget: _Budget) -> str:
    cases = section.gallery.worst()
    drawn = [
        _case(c, section, page.subject) for c in cases if any(r.get("thumbnail") for r in c.values()) and budget.take(c)
    ]
    if not drawn:
        return ""
    total = page.summary["photographs"][section.name]["evaluated"]
    left = total - len(drawn)
    rest = f" {plural(left, 'photograph')} left out; the CSV has them all." if left else ""
    return (
        f"<h3>Photographs, the worst first</h3><p>Where <b>{text(page.subject)}</b> gained least in {section.headline} "
        f"over the hazy input.{rest} The slider moves with the arrow keys too.</p>"
        f'<div class="cases">{"".join(drawn)}</div>'
    )


def _case(photograph: Photograph, section: Section, subject: str) -> str:
    hazy = photograph[HAZY]
    after = [m for m in photograph if m != HAZY and photograph[m].get("thumbnail")]
    first = subject if subject in after else after[0]
    title = str(hazy["name"]).rsplit("/", 1)[-1]
    pictures = f'<img src="{_data(hazy)}" {_size(hazy)} alt="{text(title)}, hazy input">' + "".join(
        f'<img class="after" data-model="{text(m)}" src="{_data(photograph[m])}" alt="{text(title)}, {text(m)}"'
        f"{'' if m == first else ' hidden'}>"
        for m in after
    )
    options = "".join(f"<option{' selected' if m == first else ''}>{text(m)}</option>" for m in after)
    choice = f"<label>after: <select>{options}</select></label>"
    return (
        f'<article class="case"><div class="view">{pictures}<span class="edge"></span><span class="tag l">{HAZY}</span>'
        f'<span class="tag r">{text(first)}</span></div><input type="range" min="0" max="100" value="50" '
        f'aria-label="before and after of {text(title)}">{choice}<p>{file_name(title, 60)}</p>'
        f"{_values(photograph, section)}</article>"
    )


def _values(photograph: Photograph, section: Section) -> str:
    names = words.columns(section.table, section.headline)[:4]
    rows = []
    for model, row in photograph.items():
        values = ["" if row.get(n) is None else words.number(row[n], METRICS[n]) for n in names]
        rows.append((text(model, 24), *values))
    return html_table(["", *(f"{n} {words.ARROWS[METRICS[n].better]}" for n in names)], rows, range(1, len(names) + 1))


def _data(row: Mapping[str, Any]) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(row['thumbnail']).decode()}"


def _size(row: Mapping[str, Any]) -> str:
    with Image.open(io.BytesIO(row["thumbnail"])) as picture:
        return f'width="{picture.width}" height="{picture.height}"'


def _detection(found: Mapping[str, Any]) -> str:
    unknown = found["unknown_classes"]
    left = f" Annotated but unknown to it: {text(', '.join(unknown), 200)}." if unknown else ""
    rows = [tuple(text(value) for value in row) for row in words.detection_rows(found)]
    return (
        f"<p>{text(found['detector'])} on {plural(found['photographs'], 'annotated photograph')}; classes "
        f"{text(', '.join(found['classes']), 300)}.{left}</p>"
        + html_table(["model", "AP50 ↑", "AP ↑", "AP50 against the hazy input"], rows, (1, 2, 3))
    )


def _published() -> str:
    blocks = "".join(
        f"<h3>{text(block.title)}</h3><p>{text(block.source, 300)}. {text(block.remark, 200)}</p>"
        + html_table(block.columns, block.rows, range(1, len(block.columns)))
        for block in PUBLISHED
    )
    return (
        "<p>Figures from papers, for orientation. They were measured on other photographs, at other sizes and with "
        "other programs than the tables above, and cannot be compared with them.</p>"
        f'<div class="published"><p class="kind">Published, not measured here</p>{blocks}'
        f"<p>{text(ABSENT, 300)}</p></div>"
    )


def _metrics(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            text(name),
            f"{about['better']} is better",
            text(about["limits"]),
            text(about["what"], 300)
            + (" <b>Selected labels: never the headline.</b>" if about["selected_labels"] else ""),
            text(about["licence"], 200),
        )
        for name, about in summary["metrics"].items()
    ]
    return html_table(["metric", "", "range", "what", "licence"], rows)


def _made(summary: Mapping[str, Any]) -> str:
    rows = [(text(package), text(version)) for package, version in summary["versions"].items()]
    models = [
        (text(label), f"<code>{text(about.get('weights_sha256', about.get('results', '')), 80)}</code>")
        for label, about in summary["models"].items()
    ]
    failures = [(file_name(f["name"], 80), text(f["error"], 300)) for f in summary["failures"][:_SAID]]
    failed = "<h3>Not measured</h3>" + html_table(["photograph", "reason"], failures) if failures else ""
    config = json.dumps(summary["config"], indent=2, ensure_ascii=False)
    settings = "\n".join(text(line, 400) for line in config.split("\n"))
    return (
        f"<p>Made by <code>python -m pipelines.evaluate</code>; bootstrap of {summary['bootstrap']['resamples']:,} "
        f"resamples with seed {summary['bootstrap']['seed']}.</p>{html_table(['model', 'weights'], models)}{failed}"
        f"{html_table(['package', 'version'], rows)}<details><summary>Configuration</summary>"
        f"<pre>{settings}</pre></details>"
    )
