"""Files of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.report import text as report
from pipelines.evaluate.statistics import Statistics, Table
from tests.conftest import encoded


def jpeg() -> bytes:
    return encoded(np.zeros((48, 64, 3), np.uint8), "JPEG")


def row(image_id: str, model: str, **values: Any) -> dict[str, Any]:
    return {"kind": "real", "image_id": image_id, "name": f"folder/{image_id}.jpg", "model": model, **values}


def test_json_is_strict(tmp_path: Path) -> None:
    assert json.loads(report.write_json({"ü": 1.5}, tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        report.write_json({"a": math.nan}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def table_of(rows: list[dict[str, Any]], *models: str) -> Table:
    found = Statistics(("hazy input", *models), tuple(METRICS), 0)
    by_id: dict[str, dict[str, Any]] = {}
    for one in rows:
        by_id.setdefault(one["image_id"], {})[one["model"]] = one
    for image_id, photograph in by_id.items():
        found.add(image_id, photograph)
    return found.table()


def test_markdown_puts_the_headline_first_and_says_warnings_failures_and_versions() -> None:
    rows = [row(i, "hazy input", fade=2.0, psnr=12.0) for i in "abcdef"]
    rows += [row(i, "m|n", fade=1.0, psnr=14.5) for i in "abcdef"]
    pair = {"model": "m|n", "other": "hazy input", "metric": "psnr", "decided": True}
    summary = {
        "warnings": ["nothing is held out"],
        "headline": {"real": {"metric": "psnr"}},
        "photographs": {"real": {"kind": "real", "evaluated": 1, "found": 2, "split": "all"}},
        "paired": {"real": [pair | {"difference": {"mean": 2.5, "interval": [2.0, 3.0], "improved": 1.0}}]},
        "detection": {
            "photographs": 5,
            "detector": "yolo",
            "models": {"m|n": {"photographs": 5, "ap50": 0.5, "ap": 0.25, "interval": None}},
        },
        "not_measured": {"musiq": "its weights are not at hand", "detection": "no detector"},
        "failures": [{"name": "broken\n.jpg", "error": "cut short"}],
        "versions": {"numpy": "9.9"},
        "config": {"seed": 3},
    }
    text = report.markdown(summary, {"real": table_of(rows, "m|n")})
    for part in (
        "> **Warning:** nothing is held out.\n\n",
        "## Real photographs: 1 of 2 (all)\n\n| model | **psnr ↑** | fade ↓ | musiq |\n| --- | --- | --- | --- |\n",
        "| hazy input | 12.00 [12.00, 12.00] | 2.000 [2.000, 2.000] | n/a |\n",
        "| m\\|n | 14.50 [14.50, 14.50]; +2.50 [+2.50, +2.50], 100% better | 1.000 [1.000, 1.000] | n/a |\n\n",
        "| m\\|n against hazy input | +2.50 [+2.00, +3.00] | 100% | decided |\n\n",
        "| m\\|n | 0.500 | 0.250 |  |\n",
        "- `musiq`: its weights are not at hand\n",
        "- `broken\\n.jpg`: cut short\n",
        "published, not measured here",
        "CORUN + Colabator",
        '- numpy 9.9\n\n```json\n{\n  "seed": 3\n}\n```\n',
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
