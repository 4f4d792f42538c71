"""The run on a GPU: what is packed, what comes back in parts, and all of it on a CPU, without Ray and pyarrow."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu import speed
from benchmarks.gpu.join import join, split
from benchmarks.gpu.join import main as join_main
from benchmarks.gpu.pack import Packed, balanced, kind_of
from benchmarks.gpu.pack import main as pack_main
from benchmarks.gpu.photographs import read_rows
from benchmarks.gpu.stage import Stage
from models import zoo
from models.config import ConfigError
from tests.conftest import encoded
from tests.corpora import write_rows

ROOT = Path(__file__).parents[2]
BLOCKED = ("ray", "pyarrow", "mlflow", "imagecodecs")


def corpus_of(folder: Path, out: Path, domain: str) -> Path:
    """A corpus of the JPEGs of a folder, every third held out, clear ones with depth maps."""
    rows, depth = [], encoded(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
    for index, path in enumerate(sorted(folder.glob("*.jpg"))):
        row = {"image_id": f"{index:032x}", "uri": str(path), "image": path.read_bytes(), "width": 640, "height": 448}
        rows.append(row | {"depth": depth if domain == "clear" else None, "split": "train" if index % 3 else "test"})
    return write_rows(out, domain, rows, group=64)


@pytest.fixture
def data(tmp_path: Path, photo_folder: Callable[..., Path]) -> Path:
    """What is carried along."""
    corpora = {
        domain: corpus_of(
            photo_folder(name=domain, count=4, height=448, width=640, hazy=domain == "hazy"),
            tmp_path / f"c-{domain}",
            domain,
        )
        for domain in ("clear", "hazy")
    }
    args = ["--clear", str(corpora["clear"]), "--hazy", str(corpora["hazy"]), "--out", str(tmp_path / "data")]
    assert pack_main(args) == 0
    return tmp_path / "data"


def test_a_pack_keeps_splits_and_depth_and_makes_photographs_small(data: Path) -> None:
    rows = {(d, s): read_rows(data, d, s) for d in ("clear", "hazy") for s in ("train", "test")}
    assert {key: len(some) for key, some in rows.items()} == {
        ("clear", "train"): 2, ("clear", "test"): 2, ("hazy", "train"): 2, ("hazy", "test"): 2,
    }  # fmt: skip
    assert [row["image_id"] for row in rows["clear", "test"]] == [f"{0:032x}", f"{3:032x}"]
    for row in rows["clear", "train"]:
        assert min(Image.open(io.BytesIO(row["image"])).size) == 384
        depth = np.asarray(Image.open(io.BytesIO(row["depth"])))
        assert depth[0, 0] < 10
        assert depth[-1, -1] > 245
    assert all(row["depth"] is None for row in rows["hazy", "train"])


def test_kinds_keep_equally_many_where_there_is_no_room() -> None:
    def one(kind: str, index: int) -> Packed:
        return Packed(f"{kind}{index}", kind, "train", b"x" * 500)

    found = [one("many", index) for index in range(50)] + [one("few", index) for index in range(3)]
    chosen = balanced(found, 10 * 1000)
    assert Counter(item.kind for item in chosen) == {"many": 7, "few": 3}
    assert sum(item.size for item in chosen) <= 10_000
    assert [kind_of(uri) for uri in ("/a/dawn_001.jpg", "b.zip#x/weaml-3.png", "/c/0001.jpg")] == [
        "dawn", "weaml", "other",
    ]  # fmt: skip


def test_a_pack_stays_below_its_megabytes_with_what_lies_beside_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "wheels").mkdir()
    (data / "wheels" / "a.whl").write_bytes(bytes(100_000))
    args = ["--clear", str(tmp_path / "c-clear"), "--hazy", str(tmp_path / "c-hazy"), "--out", str(data)]
    assert pack_main([*args, "--megabytes", "0.25"]) == 0
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) <= 250_000
    assert pack_main([*args, "--megabytes", "0.05"]) == 2
    assert "--megabytes is 0.05" in capsys.readouterr().err


def test_parts_are_small_and_join_to_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.join.PART_BYTES", 40_000)
    config = {"name": "corun", "stages": 1, "dim": 4}
    network = zoo.build(config)
    parts = split(tmp_path, "teacher", network, {"network": config}, parts=99)
    assert len(parts) > 2
    assert all(path.stat().st_size <= 40_000 for path in parts)
    assert join_main([str(tmp_path), str(tmp_path / "joined")]) == 0
    again = zoo.load(str(tmp_path / "joined" / "teacher")).network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    half = split(tmp_path, "teacher", network, {"network": config}, parts=len(parts) - 1)
    assert len(half) < len(parts)
    parts_left = sorted(tmp_path.glob("teacher.safetensors.*"))
    assert parts_left == half, "no part of the last time is left"
    half[-1].unlink()
    with pytest.raises(ConfigError, match="make no whole"):
        join(tmp_path, "teacher", tmp_path / "joined")
    with pytest.raises(ConfigError, match="2 parts hold"):
        split(tmp_path, "teacher", network, {"network": config}, parts=2)


def test_wheels_are_the_versions_that_are_tested() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    pins = [line for line in (ROOT / "benchmarks/gpu/wheels.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(pins) > 10
    assert [pin for pin in pins if not re.search(rf"^{re.escape(pin)}[ \\]", locked, re.MULTILINE)] == []


def stage_at(out: Path, *, seconds: float = 60, began: float | None = None) -> Stage:
    return Stage("speed", argparse.Namespace(out=out, seconds=seconds, device="cpu", began=began))


def test_a_variant_that_fails_is_a_row_with_its_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(_case: speed.Case, variant: str) -> dict[str, float]:
        if variant == "bfloat16":
            raise OSError("no compiler\nhere")
        return {"db": 60.0, "images_per_second": {"float32": 2.0, "product": 8.0}[variant]}

    monkeypatch.setattr(speed.Case, "row", row)
    monkeypatch.setattr(speed, "TINY_MODELS", ("cddgan-compact",))
    monkeypatch.setattr(speed, "limits", lambda _device, *, small: {"bytes": 1.0 + small})
    stage = stage_at(tmp_path)
    speed.measure(stage, tiny=True)
    rows = json.loads((tmp_path / "results.json").read_text())["speed"]["rows"]
    assert [(r["variant"], r.get("speedup"), r.get("error")) for r in rows] == [
        ("float32", 1.0, None), ("bfloat16", None, "OSError: no compiler here"), ("product", 4.0, None),
    ]  # fmt: skip
    assert stage.found["aims"]["cddgan-compact 32x32"] == {
        "met": True,
        "variant": "product",
        "speedup": 4.0,
        "db": 60.0,
    }
    log = capsys.readouterr().out
    assert "on CPU" in log
    assert "float16, compiled: left out on a CPU with --steps" in log
    assert "cddgan-compact, 32x32, bfloat16: failed: OSError: no compiler here" in log


def test_a_case_is_gone_before_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[speed.Case]] = []

    def before(case: speed.Case, _stage: Stage, _model: str, size: str, _shape: tuple[int, int, int]) -> None:
        assert [one for one in alive if one() is not None] == []
        alive.append(weakref.ref(case))

    monkeypatch.setattr(speed, "limits", lambda _device, *, small: {"bytes": 1.0 + small})
    monkeypatch.setattr(speed.Case, "__init__", before)
    monkeypatch.setattr(speed.Case, "row", lambda _case, _variant: {"db": 60.0, "images_per_second": 1.0})
    speed.measure(stage_at(tmp_path), tiny=True)
    assert len(alive) == 2


def test_a_scene_with_numbers_that_are_none_is_not_close() -> None:
    scene = torch.rand(1, 3, 8, 8)
    assert speed.decibels(scene, scene) == 150
    assert speed.decibels(scene * torch.tensor([float("nan")]), scene) == 0


def test_nothing_can_hold_the_end_of_the_time(tmp_path: Path) -> None:
    stage = stage_at(tmp_path, seconds=30.2, began=time.time() - 30)  # importing took 30 s
    with stage.in_time():
        while True:
            with contextlib.suppress(Exception):  # as compilers do
                time.sleep(1)
    assert stage.found["out_of_time"]


def run(data: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The script in a child whose Python has neither Ray nor pyarrow."""
    blocked = out.parent / "blocked"
    for name in BLOCKED:
        (blocked / name).mkdir(parents=True, exist_ok=True)
        (blocked / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name} here')\n")
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(blocked)}
    command = ["bash", str(ROOT / "benchmarks/gpu/run.sh"), str(data), str(out), "--work", str(out.parent / "work")]
    return subprocess.run(
        [*command, "--device", "cpu", "--steps", "2", *flags],
        env=environment, cwd=out.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_all_stages_run_on_a_cpu_without_ray(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(data, out, "--seconds", "1200")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "results.json").read_text())
    assert set(found) == {"parity", "speed", "teacher", "colabator"}
    assert all(stage["finished"] and stage["ran_on"]["device"] == "cpu" for stage in found.values())
    assert found["parity"]["good"]
    assert all(row["difference"] == 0 for row in found["parity"]["networks"].values()), "the same device"
    assert len(found["parity"]["resumed"]) == 4
    assert found["speed"]["measured_limits"]["bytes"] > 0
    assert {row["variant"] for row in found["speed"]["rows"]} == {"float32", "bfloat16", "product"}
    assert all(row["images_per_second"] > 0 for row in found["speed"]["rows"])
    assert found["teacher"]["steps"] == found["colabator"]["steps"] == 2
    assert found["colabator"]["labels"]["size"] >= 1
    names = {path.name for path in out.iterdir()}
    weights = {f"{stage}.safetensors.00" for stage in ("teacher", "colabator")}
    assert names == {"results.json", "log.txt", "sheet.jpg"} | weights
    assert Image.open(out / "sheet.jpg").width > 3 * 256
    assert join_main([str(out), str(tmp_path / "joined")]) == 0
    assert zoo.config_of(str(tmp_path / "joined" / "colabator"))["network"]["stages"] == 1

    again = run(data, out, "--stages", "teacher", "--seconds", "300")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((out / "results.json").read_text())["teacher"]["resumed_at"] == 2


@pytest.mark.slow
def test_a_stage_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run(tmp_path / "data", tmp_path / "out", "--stages", "colabator unknown", "--seconds", "60")
    assert done.returncode == 2, done.stdout + done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "there is no stage unknown" in log
    assert "2 of 2 stages failed" in log
    assert "error" in json.loads((tmp_path / "out" / "results.json").read_text())["colabator"]
