"""The page of a report."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.evaluate.evaluator import HAZY
from pipelines.evaluate.parts import Gallery
from pipelines.evaluate.report import page as page_module
from pipelines.evaluate.report.page import Section, report_html
from pipelines.evaluate.statistics import Statistics
from tests.conftest import encoded

NASTY = 'a"><script>alert(1)</script>.jpg'


def jpeg(level: int) -> bytes:
    return encoded(np.full((48, 64, 3), level, np.uint8), "JPEG")


def report(count: int = 6, cases: int = 4) -> tuple[dict[str, Any], list[Section], str]:
    statistics = Statistics((HAZY, "dcp", "ours"), ("fade", "clearness"), 0)
    gallery = Gallery("fade", "ours", cases, 2)
    for place in range(count):
        rows: dict[str, dict[str, Any]] = {
            model: {"model": model, "name": NASTY, "image_id": f"{place:032x}", "fade": fade, "clearness": 0.5,
                    "thumbnail": jpeg(place)}
            for model, fade in ((HAZY, 3.0 + place), ("dcp", 1.0), ("ours", 0.5 + place / 2))
        }  # fmt: skip
        statistics.add(f"{place:032x}", rows)
        gallery.add(f"{place:032x}", rows)
    pairs = [
        {"model": p.model, "other": p.other, "metric": p.metric, "decided": p.decided,
         "difference": {"n": 1, "mean": p.difference.mean, "interval": p.difference.interval, "improved": 1.0}}
        for p in statistics.paired()
    ]  # fmt: skip
    about = {"better": "lower", "limits": "0 and up", "what": "haze", "license": "free", "selected_labels": False}
    summary = {
        "warnings": [], "failures": [{"name": NASTY, "error": "<b>"}],
        "photographs": {
            "real": {"kind": "real", "evaluated": count, "found": count, "split": "all", "source": "photos"}
        },
        "paired": {"real": pairs}, "not_measured": {"musiq": "no weights"},
        "metrics": {"fade": about, "clearness": about | {"selected_labels": True}}, "config": {"seed": 0},
        "models": {"dcp": {"weights_sha256": "0" * 64}, "ours": {"weights_sha256": "1" * 64}},
        "versions": {"torch": "9.9"}, "bootstrap": {"resamples": 100, "seed": 0},
    }  # fmt: skip
    return summary, [Section("real", "fade", statistics.table(), statistics, gallery)], "ours"


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(parse_page: Any) -> None:
    page = report_html(*report())
    elements = parse_page(page)
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in elements.tags["img"])
    assert "link" not in elements.tags
    assert len(elements.tags["script"]) == 1
    assert "<script>alert" not in page
    policy = next(m["content"] for m in elements.tags["meta"] if m.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "'.case'" in script


def test_every_case_has_a_slider_and_a_choice_and_the_worst_comes_first(parse_page: Any) -> None:
    elements = parse_page(report_html(*report()))
    ranges = elements.tags["input"]
    assert len(ranges) == 4
    assert all(r["type"] == "range" and r["aria-label"] for r in ranges)
    assert len(elements.tags["select"]) == 4
    after = [image for image in elements.tags["img"] if image.get("class") == "after"]
    assert [image["data-model"] for image in after[:2]] == ["dcp", "ours"]
    assert ["hidden" in image for image in after[:2]] == [True, False]
    assert all(image["alt"] for image in elements.tags["img"])


def test_tables_say_intervals_best_missing_and_what_is_left_out() -> None:
    page = report_html(*report())
    assert re.search(r'<td class="n best"[^>]*>1\.000', page)
    assert page.count('class="n best"') == 1  # of two metrics one selected labels
    assert "n/a" in page
    assert "no weights" in page
    assert "2 photographs left out" in page
    assert "ours − dcp" in page
    assert page.count("Published, not measured here") == 1
    assert "0.824" in page
    measured, _, published = page.partition("Published, not measured here")
    assert "0.824" not in measured
    assert "CORUN + Colabator" in published
    assert "never the headline" in page


def test_pictures_stay_within_their_budget(monkeypatch: pytest.MonkeyPatch, parse_page: Any) -> None:
    monkeypatch.setattr(page_module, "_PICTURE_BYTES", 3 * len(jpeg(0)) + 10)
    elements = parse_page(report_html(*report()))
    assert len(elements.tags["input"]) == 1
    assert "5 photographs left out" in report_html(*report())
    assert "the worst first" not in report_html(*report(cases=0))


def test_distributions_have_a_row_per_model() -> None:
    summary, (section,), _ = report()
    page = report_html(summary, [section], "ours")
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", page)
    assert labels.count("dcp") == labels.count("ours") == labels.count(HAZY) == 2  # of two metrics
    assert "ours: median 1.75 of 6" in page
    nothing = replace(section, statistics=Statistics((HAZY, "dcp", "ours"), ("fade", "clearness"), 0))
    assert "<svg" not in report_html(summary, [nothing], "ours")
