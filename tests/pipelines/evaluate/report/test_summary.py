"""From rows to a report, without Ray: detection, metrics that are missing, and two runs that say the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from mlflow.utils.validation import _validate_metric_name
from PIL import Image

from models.config import ConfigError
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.evaluator import CLEAR, HAZY, Evaluator
from pipelines.evaluate.parts import Gallery, Parts, by_photograph
from pipelines.evaluate.plan import item_blocks, prepare
from pipelines.evaluate.report.summary import Summary, flat, publish

Folder = Callable[..., Path]
NAME = "ssdlite320_mobilenet_v3_large"


def run(config: EvaluateConfig, *, backwards: bool = False) -> Summary:
    """As the job does it, in this process; the batches in either order."""
    plan, parts = prepare(config), Parts(Path(config.out))
    galleries = {name: Gallery(g.headline, plan.subject, config.cases, config.sheet) for name, g in plan.groups.items()}
    evaluator = Evaluator(plan.settings)
    blocks: list[pa.Table] = item_blocks(plan, config)
    for table in map(evaluator, blocks[::-1] if backwards else blocks):
        parts.write(table)
        for row, photograph in by_photograph(table):
            galleries[row["group"]].add(row["image_id"], photograph)
    return publish(config, plan, parts, galleries, 0.0)


def annotate(folder: Path, names: list[str], kind: str = "car") -> Path:
    folder.mkdir()
    box = "<xmin>11</xmin><ymin>21</ymin><xmax>60</xmax><ymax>80</ymax>"
    for name in names:
        (folder / f"{name}.xml").write_text(
            "<annotation><size><width>128</width><height>96</height></size>"
            f"<object><name>{kind}</name><bndbox>{box}</bndbox></object></annotation>"
        )
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> str:
    """Random weights in a file of the test's own."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(NAME, weights=None, weights_backbone=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    return f"{NAME}={tmp_path / 'own.pth'}"


def config_of(data: Path, tmp_path: Path, **more: Any) -> EvaluateConfig:
    plain: dict[str, Any] = {"data": (str(data),), "models": ("dcp",), "scorer": None, "out": str(tmp_path / "out")}
    return EvaluateConfig(**plain | more)


def test_annotated_photographs_have_an_average_precision(photo_folder: Folder, tmp_path: Path, detector: str) -> None:
    data = photo_folder(count=3, hazy=True)
    annotations = annotate(tmp_path / "xml", ["photo_000", "photo_002"])
    config = config_of(
        data, tmp_path, annotations=str(annotations), detector=detector, classes=("car", "person"), metrics=("fade",)
    )
    found = run(config)
    summary = found.summary["detection"]
    assert (summary["photographs"], summary["classes"], summary["detector"]) == (2, ["car"], NAME)
    assert list(summary["models"]) == [HAZY, "dcp"]
    entry = summary["models"]["dcp"]
    assert 0 <= entry["ap50"] <= 1
    assert entry["interval"] is entry["difference"]["interval"] is None  # two photographs are too few
    assert entry["difference"]["mean"] == entry["ap50"] - summary["models"][HAZY]["ap50"]
    assert flat(found.summary)["detection/dcp/ap50"] == entry["ap50"]
    assert "AP50" in found.html.read_text()
    assert "AP50" in found.markdown.read_text()
    assert json.loads(found.json.read_text())["detection"]["models"].keys() == summary["models"].keys()


def test_average_precision_has_intervals_from_five_photographs_on(
    photo_folder: Folder, tmp_path: Path, detector: str
) -> None:
    annotations = annotate(tmp_path / "xml", [f"photo_{index:03}" for index in range(5)])
    config = config_of(
        photo_folder(count=5, hazy=True), tmp_path, annotations=str(annotations), detector=detector,
        classes=("car", "person"), metrics=("fade",),
    )  # fmt: skip
    entry = run(config).summary["detection"]["models"]["dcp"]
    assert entry["interval"][0] <= entry["ap50"] <= entry["interval"][1] or entry["interval"] == [0, 0]
    assert entry["difference"]["interval"] is not None


def test_what_is_found_in_references_says_of_how_many_photographs_it_is(
    photo_folder: Folder, tmp_path: Path, detector: str
) -> None:
    annotations = annotate(tmp_path / "xml", [f"photo_{index:03}" for index in range(5)])
    config = config_of(
        photo_folder(count=5, hazy=True), tmp_path, annotations=str(annotations), detector=detector,
        classes=("car", "person"), metrics=("psnr", "fade"), reference=str(photo_folder("clear", count=2)),
    )  # fmt: skip
    found = run(config)
    models = found.summary["detection"]["models"]
    assert {model: entry["photographs"] for model, entry in models.items()} == {HAZY: 5, "dcp": 5, CLEAR: 2}
    assert models["dcp"]["interval"] is not None
    assert models[CLEAR]["interval"] is None
    assert "| clear reference (2 of 5 photographs) |" in found.markdown.read_text()


def test_a_detector_that_is_missing_is_an_error_or_not_available(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=1, hazy=True)
    annotations = annotate(tmp_path / "xml", ["photo_000"])
    config = config_of(data, tmp_path, annotations=str(annotations), detector=f"{NAME}=nowhere.pth", metrics=("fade",))
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.pth.*--allow-missing makes it n/a"):
        prepare(config)
    plan = prepare(config.model_copy(update={"allow_missing": True}))
    assert plan.settings.detector is None
    assert "nowhere.pth" in plan.missing["detection"]


def test_average_precision_asks_for_its_package_before_the_work(
    photo_folder: Folder, tmp_path: Path, detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)  # as where the extra is not installed
    data = photo_folder(count=1, hazy=True)
    annotations = str(annotate(tmp_path / "xml", ["photo_000"]))
    config = config_of(data, tmp_path, annotations=annotations, detector=detector, classes=("car", "person"))
    with pytest.raises(ConfigError, match=r"'ray-dehaze\[metrics\]' \(--allow-missing makes it n/a\)"):
        prepare(config)
    assert "pycocotools" in prepare(config.model_copy(update={"allow_missing": True})).missing["detection"]


def test_the_order_in_which_workers_finish_changes_nothing(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=7, hazy=True)
    config = config_of(data, tmp_path, metrics=("fade", "rehaze"), concurrency=1)
    first = run(config)
    kept = {file.name: file.read_bytes() for file in first.files() if file != first.csv}  # it has seconds
    again = run(config, backwards=True)
    assert {file.name: file.read_bytes() for file in again.files() if file != again.csv} == kept
    assert first.summary["tables"]["real"]["dcp"]["rehaze"]["n"] == 7
    assert "rehaze" not in first.summary["tables"]["real"][HAZY]
    assert first.summary["tables"]["real"]["dcp"]["fade"]["interval"] is not None


def test_a_headline_that_is_no_number_for_some_photographs_is_told_of(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=2, hazy=True)
    Image.new("RGB", (64, 48), "gray").save(data / "flat.png")
    warnings = run(config_of(data, tmp_path, metrics=("fade",))).summary["warnings"]
    told = "fade is no number on some photographs (real), which the means leave out: 1 of hazy input, 1 of dcp"
    assert warnings == [told, "too few photographs for intervals (real): 2, and they need 5"]


def test_means_of_different_photographs_are_told_and_none_of_them_is_the_best(
    photo_folder: Folder, tmp_path: Path
) -> None:
    data, theirs = photo_folder(count=2, hazy=True), photo_folder("theirs", count=2)
    Image.new("RGB", (128, 96), "gray").save(data / "flat.png")
    Image.open(theirs / "photo_000.jpg").save(theirs / "flat.png")
    found = run(config_of(data, tmp_path, results=(f"theirs={theirs}",), metrics=("fade", "brisque")))
    for metric in ("fade", "brisque"):
        told = f"{metric} is no number on some photographs (real), which the means leave out: 1 of hazy input, 1 of dcp"
        assert told in found.summary["warnings"]
    assert '"n best"' not in found.html.read_text()
    (data / "flat.png").unlink()
    assert '"n best"' in run(config_of(data, tmp_path, results=(f"theirs={theirs}",))).html.read_text()


def test_photographs_without_any_figure_are_a_report(tmp_path: Path) -> None:
    data = tmp_path / "flat"
    data.mkdir()
    Image.new("RGB", (64, 48), "gray").save(data / "flat.png")
    found = run(config_of(data, tmp_path, metrics=("fade",)))
    assert found.summary["tables"] == {"real": {}}
    assert "is no number" in found.html.read_text()


def test_a_table_of_harm_with_one_model_has_no_pairs(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=2, hazy=True)
    config = config_of(data, tmp_path, reference=str(photo_folder("clear", count=2)), metrics=("psnr",))
    assert run(config).markdown.read_text().count("| paired difference in psnr |") == 1


def test_results_among_the_photographs_are_refused(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=1, hazy=True)
    with pytest.raises(ConfigError, match=r"lies in .*: choose another folder for the results"):
        prepare(config_of(data, tmp_path, out=str(data / "results"), metrics=("fade",)))


def test_without_its_package_fade_is_left_out_of_the_default_with_a_note(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfade", None)  # as where the extra is not installed
    data = photo_folder(count=2, hazy=True)
    found = run(config_of(data, tmp_path, metrics=("default",)))
    (note,) = (warning for warning in found.summary["warnings"] if "fade" in warning)
    assert "pip install 'ray-dehaze[evaluation]'" in note
    assert note.endswith("judged by brisque, which does not see haze")
    assert found.summary["headline"]["real"]["metric"] == "brisque"
    assert "fade" not in found.summary["tables"]["real"]["dcp"]
    assert "brisque" in found.summary["tables"]["real"]["dcp"]
    assert "ray-dehaze[evaluation]" in found.summary["not_measured"]["fade"]
    assert not found.summary["metric_failures"]  # it is not tried on every photograph
    assert "ray-dehaze[evaluation]" in found.markdown.read_text()


@pytest.mark.parametrize("named", [{"metrics": ("fade", "brisque")}, {"headline": "fade"}])
def test_fade_by_name_asks_for_its_package(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "pyfade", None)
    config = config_of(photo_folder(count=1, hazy=True), tmp_path, **named)
    with pytest.raises(ConfigError, match=r"'ray-dehaze\[evaluation\]'.*--allow-missing"):
        prepare(config)


@pytest.mark.parametrize("label", ["/data/runs/today/model", "../model", ".", "hf://me/dehazer", "a" * 300])
def test_figures_of_models_named_by_paths_have_names_that_mlflow_takes(label: str) -> None:
    entry = {"mean": 1.0, "interval": (0.5, 1.5)}
    detected = {"models": {label: {"ap50": 0.5}}}
    found = flat({"tables": {"real, s3://bucket/hazy": {label: {"fade": entry}}}, "detection": detected})
    assert sorted(found.values()) == [0.5, 0.5, 1.0, 1.5]
    for name in found:
        _validate_metric_name(name)
