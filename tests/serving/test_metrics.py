"""The metrics that Prometheus gets from a real service, and a dashboard that shows no other."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import CODES

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
STAGES = {"decode", "queue", "model", "score", "encode"}
Samples = dict[str, list[tuple[dict[str, str], float]]]


def scraped() -> Samples:
    """Every sample that this node exports, by name: labels and value."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10).text
    found: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        found.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    return sum(
        value for found, value in samples.get(name, []) if all(found.get(key) == told for key, told in labels.items())
    )


@pytest.fixture(scope="module")
def exported(ray_service: Any, jpeg: Callable[..., bytes]) -> Samples:
    """What is exported after some traffic: three photographs, and one that is none."""
    for seed in range(3):
        assert ray_service.client.post("/v1/dehaze", content=jpeg(seed)).status_code == 200
    assert ray_service.client.post("/v1/dehaze", content=b"nothing").status_code == 415
    deadline = time.monotonic() + 90
    while not arrived(samples := scraped()):  # Ray hands metrics on every few seconds, each process by itself
        assert time.monotonic() < deadline, sorted(name for name in samples if "dehaze" in name)
        time.sleep(1)
    return samples


def arrived(samples: Samples) -> bool:
    """What the traffic must have counted is there."""
    return (
        total(samples, "ray_dehaze_rejected_total", code="unsupported_format") >= 1
        and total(samples, "ray_dehaze_requests_total", route="/v1/dehaze", status="200") >= 3
        and total(samples, "ray_dehaze_requests_total", route="/v1/dehaze", status="415") >= 1
        and total(samples, "ray_dehaze_request_seconds_count", route="/v1/dehaze") >= 4
        and all(total(samples, "ray_dehaze_stage_seconds_count", stage=stage) >= 3 for stage in STAGES)
        and total(samples, "ray_dehaze_batch_size_count") >= 3
        and total(samples, "ray_dehaze_input_haze_count") >= 3
    )


def test_labels_and_values(exported: Samples) -> None:
    labels = {frozenset(labels) & {"route", "status"} for labels, _ in exported["ray_dehaze_requests_total"]}
    assert labels == {frozenset({"route", "status"})}
    assert {labels["stage"] for labels, _ in exported["ray_dehaze_stage_seconds_count"]} == STAGES
    assert {labels["code"] for labels, _ in exported["ray_dehaze_rejected_total"]} <= set(CODES)
    for name in ("ray_dehaze_request_seconds_sum", "ray_dehaze_stage_seconds_sum"):
        assert total(exported, name) > 0
    assert total(exported, "ray_dehaze_batch_size_sum") >= total(exported, "ray_dehaze_batch_size_count")
    assert exported["ray_dehaze_pending"]
    haze = total(exported, "ray_dehaze_input_haze_sum") / total(exported, "ray_dehaze_input_haze_count")
    assert 0 < haze < 1
    bounds = {labels["le"] for labels, _ in exported["ray_dehaze_input_haze_bucket"]}
    assert {"0.1", "0.5", "0.9", "+Inf"} <= bounds


def test_the_dashboard_shows_what_there_is(exported: Samples) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    used = {name for expression in expressions for name in re.findall(r"\bray_\w+", expression)}
    assert len(used) >= 8
    # Not exported before it happens, as in another test of this service; tests/deploy knows of them.
    later = {"ray_dehaze_retries_total", "ray_dehaze_job_photographs_total", "ray_dehaze_jobs_ended_total"}
    assert used - later <= set(exported)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
