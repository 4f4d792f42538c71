"""Files of an evaluation."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.report import text as report
from pipelines.evaluate.statistics import Statistics, Table


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG")
    return buffer.getvalue()


def row(image_id: str, model: str, **values: Any) -> dict[str, Any]:
    return {"kind": "real", "image_id": image_id, "name": f"folder/{image_id}.jpg", "model": model, **values}


def test_json_is_strict(tmp_path: Path) -> None:
    assert json.loads(report.write_json({"ü": 1.5}, tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        report.write_json({"a": math.nan}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def table_of(rows: list[dict[str, Any]], *models: str) -> Table:
    found = Statistics(("hazy input", *models), tuple(METRICS), 0, resamples=100)
    by_id: dict[str, dict[str, Any]] = {}
    for one in rows:
        by_id.setdefault(one["image_id"], {})[one["model"]] = one
    for image_id, photograph in by_id.items():
        found.add(image_id, photograph)
    return found.table()


def markdown_of(rows: list[dict[str, Any]], headline: str, **more: Any) -> str:
    summary = {
        "warnings": ["nothing is held out"],
        "headline": {"real": {"metric": headline}},
        "photographs": {"real": {"evaluated": 1, "found": 2, "split": "all"}},
        "paired": {"real": []},
        "not_measured": {"musiq": "its weights are not at hand", "detection": "no detector"},
        "failures": [{"name": "broken\n.jpg", "error": "cut short"}],
        "versions": {"numpy": "9.9"},
        "config": {"seed": 3},
    }
    return report.markdown(summary | more, {"real": table_of(rows, "m")})


def test_table_puts_the_headline_first_with_its_interval() -> None:
    rows = [row(i, "hazy input", fade=2.0, psnr=12.0) for i in "abcdef"]
    rows += [row(i, "m", fade=1.0, psnr=14.5) for i in "abcdef"]
    lines = markdown_of(rows, "psnr").splitlines()
    place = lines.index("| model | **psnr ↑** | fade ↓ | musiq |")
    assert lines[place + 2] == "| hazy input | 12.00 [12.00, 12.00] | 2.000 [2.000, 2.000] | n/a |"
    expected = "14.50 [14.50, 14.50]; +2.50 [+2.50, +2.50], 100% better"
    assert lines[place + 3] == f"| m | {expected} | 1.000 [1.000, 1.000] | n/a |"


def test_markdown_says_warnings_failures_and_versions() -> None:
    pair = {"model": "m", "other": "hazy input", "metric": "fade", "decided": True}
    pair |= {"difference": {"mean": -1.0, "interval": [-2.0, -0.5], "improved": 1.0}}
    rows = [row("a", "hazy input", fade=2.0), row("a", "m", fade=1.0)]
    text = markdown_of(rows, "fade", paired={"real": [pair]})
    for part in (
        "> **Warning:** nothing is held out.\n\n",
        "## Real photographs: 1 of 2 (all)\n\n",
        "- `broken\\n.jpg`: cut short\n",
        "- numpy 9.9\n",
        '"seed": 3',
        "| hazy input |",
        "| m against hazy input | -1.000 [-2.000, -0.500] | 100% | decided |\n\n",
        "- `musiq`: its weights are not at hand\n",
        "published, not measured here",
        "CORUN + Colabator",
    ):
        assert part in text


def test_contact_sheet_has_a_line_per_photograph_and_a_column_per_model() -> None:
    photographs = [
        {
            "m": row("a", "m", fade=0.5, thumbnail=jpeg()),
            "hazy input": row("a", "hazy input", fade=1.0, thumbnail=jpeg()),
        },
        {"hazy input": row("b\n", "hazy input", fade=2.0, thumbnail=jpeg())},
        {"hazy input": row("c", "hazy input", fade=1.0, thumbnail=None)},
    ]
    sheet = report.contact_sheet(photographs, ["hazy input", "m", "unused"], "fade", "a title" * 99)
    assert sheet is not None
    assert 2 * 64 < sheet.width < 3 * 64
    photographs[0]["m"]["fade"] = 7.7
    other = report.contact_sheet(photographs, ["hazy input", "m", "unused"], "fade", "a title" * 99)
    assert other is not None
    assert other.tobytes() != sheet.tobytes()
    assert report.contact_sheet(photographs[2:], ["hazy input"], "fade", "") is None
