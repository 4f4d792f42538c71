"""The Grafana dashboard shows metrics that the service makes; :mod:`tests.serving.test_metrics` asks a real one."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in expressions for name in re.findall(r"\bray_dehaze_\w+", expression)}
    made = {f"ray_{name}" for name in re.findall(r'"(dehaze_\w+)"', (ROOT / "serving" / "metrics.py").read_text())}
    assert made
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown} == made


def test_panels_do_not_overlap() -> None:
    panels = json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
