"""What is measured of one photograph."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.config import ConfigError
from pipelines.evaluate import metrics
from pipelines.evaluate.cases import PLAIN_HAZE, Haze, bounded, square, square_depth, synthetic_case
from pipelines.evaluate.evaluator import (
    CLEAR,
    HAZY,
    ITEM_SCHEMA,
    PAIRED,
    REAL,
    ROW_SCHEMA,
    SYNTHETIC,
    UNHARMED,
    Evaluator,
    ModelChoice,
    RowSettings,
)  # fmt: skip
from tests.conftest import encoded

Folder = Callable[..., Path]
Pixels = NDArray[np.uint8]
ID = "0123456789abcdef" * 2
DCP = ModelChoice(label="prior", source="dcp")


def settings(**changes: Any) -> RowSettings:
    own = {"models": (DCP,), "scorer": None, "max_side": 96, "pair_size": 64, "metrics": metrics.chosen(["default"])}
    return RowSettings(**own | changes)


def haze(seed: int = 0) -> Haze:
    return Haze(PLAIN_HAZE, 64, seed)


def item(path: Path, kind: str = REAL, image_id: str = ID, **more: Any) -> dict[str, Any]:
    plain = {"block": 0, "group": kind, "kind": kind, "image_id": image_id, "name": path.name, "path": str(path)}
    return plain | {"row_group": None, "reference": None, "results": [], "detect": False} | more


def by_model(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in rows}


def test_a_real_photograph_gives_the_hazy_row_and_one_per_model(photo_folder: Folder) -> None:
    path = photo_folder(count=1, hazy=True) / "photo_000.jpg"
    rows = by_model(Evaluator(settings()).rows(item(path)))
    assert list(rows) == [HAZY, "prior"]
    assert rows["prior"]["fade"] < rows[HAZY]["fade"]
    assert {(r["width"], r["height"]) for r in rows.values()} == {(96, 72)}
    assert "psnr" not in rows["prior"]
    assert rows["prior"]["seconds"] > 0
    assert rows[HAZY]["seconds"] is None
    with Image.open(io.BytesIO(rows["prior"]["thumbnail"])) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (96, 72))


def test_a_pair_measures_against_its_clear_photograph(photo_folder: Folder) -> None:
    path = photo_folder(count=1) / "photo_000.jpg"
    rows = by_model(Evaluator(settings()).rows(item(path, SYNTHETIC)))
    assert list(rows) == [HAZY, "prior", CLEAR]
    case = synthetic_case(np.asarray(Image.open(path)), None, ID, haze())
    assert case.clear is not None
    assert rows[HAZY]["psnr"] == metrics.psnr(case.hazy, case.clear)
    assert rows[HAZY]["ssim"] == metrics.ssim(case.hazy, case.clear)
    assert rows[CLEAR].get("psnr") is None
    assert rows[CLEAR]["fade"] < rows[HAZY]["fade"]
    assert rows["prior"]["ciede2000"] < rows[HAZY]["ciede2000"]
    assert rows["prior"]["rehaze"] < 5
    assert "rehaze" not in rows[HAZY]
    plain = Evaluator(settings(thumbnail_side=0, metrics=("psnr",))).rows(item(path, SYNTHETIC))
    assert all("thumbnail" not in row and "fade" not in row for row in plain)


def test_a_clear_photograph_is_measured_against_itself(photo_folder: Folder) -> None:
    path = photo_folder(count=1) / "photo_000.jpg"
    rows = by_model(Evaluator(settings()).rows(item(path, UNHARMED)))
    assert list(rows) == [CLEAR, "prior"]  # nobody's haze, so no hazy input
    pixels = bounded(np.asarray(Image.open(path)), 96)
    untouched = rows[CLEAR]
    assert (untouched["psnr"], untouched["level_shift"]) == (metrics.PSNR_CAP, 0.0)
    assert untouched["ssim"] == pytest.approx(1.0)
    assert untouched["fade"] == metrics.fade(pixels)
    dark = rows["prior"]
    assert dark["psnr"] < 40
    assert dark["level_shift"] < 0  # the prior takes light that was the scene's
    assert dark["hue_shift"] > 0
    assert (dark["width"], dark["height"]) == (pixels.shape[1], pixels.shape[0])


def test_a_photograph_without_color_has_haze_without_color(photo: Callable[..., Pixels]) -> None:
    gray = photo(3)[..., :1].repeat(3, axis=2)
    for seed in range(4):
        hazy = synthetic_case(gray, None, ID, haze(seed)).hazy
        assert (hazy == hazy[..., :1]).all()
        assert (hazy != square(gray, 64)).any()
    colored = synthetic_case(photo(3), None, ID, haze()).hazy
    assert (colored != colored[..., :1]).any()


def test_the_haze_of_a_pair_depends_on_the_photograph_and_the_seed_only(photo: Callable[..., Pixels]) -> None:
    first, again = (synthetic_case(photo(3), None, ID, haze()).hazy for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (synthetic_case(photo(3), None, ID, haze(1)).hazy != first).any()
    assert (synthetic_case(photo(3), None, ID[::-1], haze()).hazy != first).any()


def test_depth_steers_the_haze_and_is_cut_like_the_photograph() -> None:
    depth = np.zeros((100, 200), np.uint16)
    depth[:, 100:] = 65535  # the right half is near
    cut = square_depth(encoded(depth), 64)
    assert cut.shape == (1, 1, 64, 64)
    assert cut[..., :30].max() < 0.01
    assert cut[..., 34:].min() > 0.99
    case = synthetic_case(np.full((100, 200, 3), 10, np.uint8), encoded(depth), ID, haze())
    assert case.hazy[:, :30].mean() > case.hazy[:, 34:].mean() + 20


@pytest.mark.parametrize("size", [(100, 200), (200, 100), (33, 500), (64, 64), (20, 20)])
def test_sizes(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    assert square(pixels, 64).shape == (64, 64, 3)
    small = bounded(pixels, 64)
    assert max(small.shape[:2]) == min(64, max(size))


def test_a_reference_adds_full_reference_metrics(photo_folder: Folder) -> None:
    hazy, clear = photo_folder("hazy", count=1, hazy=True), photo_folder("clear", count=1)
    path = hazy / "photo_000.jpg"
    rows = by_model(Evaluator(settings()).rows(item(path, PAIRED, reference=str(clear / path.name))))
    assert list(rows) == [HAZY, "prior", CLEAR]
    assert rows[HAZY]["psnr"] < 30
    itself = by_model(Evaluator(settings()).rows(item(path, PAIRED, reference=str(path))))
    assert itself[HAZY]["psnr"] == metrics.PSNR_CAP


def test_photographs_that_cannot_be_measured_are_rows_with_a_reason(photo_folder: Folder, tmp_path: Path) -> None:
    good = photo_folder(count=1) / "photo_000.jpg"
    broken, tiny, other = tmp_path / "broken.jpg", tmp_path / "tiny.png", tmp_path / "other.png"
    broken.write_bytes(good.read_bytes()[:200])
    Image.new("RGB", (40, 8)).save(tiny)
    Image.new("RGB", (50, 50)).save(other)
    evaluator = Evaluator(settings())
    items = [item(broken), item(tiny), item(good, reference=str(other)), item(tmp_path / "missing.jpg")]
    errors = [evaluator.rows(one) for one in items]
    assert [len(rows) for rows in errors] == [1, 1, 1, 1]
    texts = [rows[0]["error"] for rows in errors]
    assert "ends before" in texts[0]
    assert "40x8" in texts[1]
    assert "128x96" in texts[2]
    assert "50x50" in texts[2]
    assert "missing.jpg" in texts[3]


def test_a_constant_image_has_no_fade_rather_than_nan(tmp_path: Path) -> None:
    path = tmp_path / "flat.png"
    Image.new("RGB", (64, 64), (90, 90, 90)).save(path)
    assert Evaluator(settings(models=())).rows(item(path))[0]["fade"] is None


def test_tables_in_and_out(photo_folder: Folder) -> None:
    folder = photo_folder(count=2)
    items = [item(p, image_id=f"{i:032x}") for i, p in enumerate(sorted(folder.iterdir()))]
    table = Evaluator(settings())(pa.Table.from_pylist(items, ITEM_SCHEMA))
    assert table.schema == ROW_SCHEMA
    assert table["model"].to_pylist() == [HAZY, "prior"] * 2
    assert table["image_id"].to_pylist() == [f"{i:032x}" for i in (0, 0, 1, 1)]


def test_each_image_gets_its_own_scores(photo_folder: Folder) -> None:
    evaluator = Evaluator(settings())
    evaluator.measures.scorer = SimpleNamespace(  # type: ignore[assignment]
        encode=lambda images: images.mean(dim=(1, 2, 3)), judge=lambda features: (features, 1 - features)
    )
    rows = Evaluator.rows(evaluator, item(photo_folder(count=1, hazy=True) / "photo_000.jpg"))
    assert rows[0]["clearness"] > rows[1]["clearness"]  # the veil is bright
    assert all(row["clearness"] + row["quality"] == pytest.approx(1) for row in rows)


def test_a_photograph_that_is_too_small_at_the_size_that_is_measured_is_no_row(tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((900, 20)).save(tmp_path / "strip.png")
    (failed,) = Evaluator(settings(max_side=640)).rows(item(tmp_path / "strip.png"))
    assert failed["error"] == "strip.png is 640x14 at --max-side; the shortest side that can be measured is 16"
    assert len(Evaluator(settings(max_side=0)).rows(item(tmp_path / "strip.png"))) == 2


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="dcq"):
        Evaluator(settings(models=(ModelChoice(label="x", source="dcq"),)))


class Network(torch.nn.Module):
    """Somebody's own, from a function of the image."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (torch.nn.Conv2d(5, 3, 1), "RuntimeError: .*channels"),
        (Network(lambda image: {}["scene"]), "KeyError: 'scene'"),
        (Network(lambda image: image * float("nan")), "ValueError: the scene has values that are no numbers"),
        (Network(lambda image: image[..., :10]), r"ConfigError: .* of \(1, 3, 72, 10\); expected \(1, 3, 72, 96\)"),
    ],
)
def test_a_model_that_fails_is_not_a_bad_photograph(photo_folder: Folder, network: Any, reason: str) -> None:
    evaluator = Evaluator(settings())
    evaluator.networks["prior"] = network
    with pytest.raises(ConfigError, match=rf"model 'prior' fails on photo_000\.jpg \(96x72\): {reason}"):
        evaluator.rows(item(photo_folder(count=1) / "photo_000.jpg"))


def test_a_metric_that_fails_on_a_picture_does_not_lose_the_others(
    photo_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(pixels: Any) -> float:
        raise ValueError("no\nfog")

    evaluator = Evaluator(settings(metrics=("fade", "rehaze")))
    monkeypatch.setattr(metrics, "fade", failing)
    rows = by_model(evaluator.rows(item(photo_folder(count=1, hazy=True) / "photo_000.jpg")))
    assert all(row["note"] == "fade: ValueError: no fog" for row in rows.values())
    assert all("fade" not in row for row in rows.values())
    assert rows["prior"]["rehaze"] > 0
    table = pa.Table.from_pylist(list(rows.values()), ROW_SCHEMA)
    assert table["fade"].null_count == table.num_rows == 2


def test_results_of_other_programs_are_rows_of_their_own(photo_folder: Folder, tmp_path: Path) -> None:
    path, other = photo_folder(count=1, hazy=True) / "photo_000.jpg", photo_folder("other", count=1) / "photo_000.jpg"
    evaluator = Evaluator(settings(results=("theirs",), models=()))
    rows = by_model(evaluator.rows(item(path, results=[str(other)])))
    assert list(rows) == [HAZY, "theirs"]
    assert rows["theirs"]["fade"] < rows[HAZY]["fade"]
    assert rows["theirs"]["seconds"] is None
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (failed,) = evaluator.rows(item(path, results=[str(tmp_path / "small.png")]))
    assert "result of 'theirs' 20x20" in failed["error"]
    (tmp_path / "cut.jpg").write_bytes(other.read_bytes()[:200])
    (cut,) = evaluator.rows(item(path, results=[str(tmp_path / "cut.jpg")]))
    assert cut["error"].startswith("its result of 'theirs', cut.jpg: the file ends before")


def test_only_annotated_photographs_are_searched_for_objects(photo_folder: Folder) -> None:
    path = photo_folder(count=1) / "photo_000.jpg"
    evaluator = Evaluator(settings())
    evaluator.detector = lambda pixels: np.ones((2, 6), np.float32)  # type: ignore[assignment]
    assert all("boxes" not in row for row in evaluator.rows(item(path)))
    for row in evaluator.rows(item(path, detect=True)):
        assert np.frombuffer(row["boxes"], "<f4").reshape(-1, 6).sum() == 12
