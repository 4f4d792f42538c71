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

from models.settings import ConfigError
from pipelines import metrics
from pipelines.evaluate_rows import (
    CLEAR,
    HAZY,
    ITEM_SCHEMA,
    REAL,
    ROW_SCHEMA,
    SYNTHETIC,
    Evaluator,
    ModelChoice,
    RowSettings,
    bounded,
    square,
    square_depth,
    synthetic_case,
)  # fmt: skip

Folder = Callable[..., Path]
Pixels = NDArray[np.uint8]
ID = "0123456789abcdef" * 2
DCP = ModelChoice(label="prior", source="dcp")


def settings(**changes: Any) -> RowSettings:
    return RowSettings(**{"models": (DCP,), "scorer": None, "max_side": 96, "pair_size": 64} | changes)


def item(path: Path, kind: str = REAL, image_id: str = ID) -> dict[str, Any]:
    return {"kind": kind, "image_id": image_id, "name": path.name, "path": str(path), "row_group": None}


def by_model(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in rows}


def test_a_real_photograph_gives_the_hazy_row_and_one_per_model(photo_folder: Folder) -> None:
    path = photo_folder(count=1, hazy=True) / "photo_000.jpg"
    rows = by_model(Evaluator(settings(), sheet=[f"{REAL}/{ID}"]).rows(item(path)))
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
    case = synthetic_case(np.asarray(Image.open(path)), None, ID, settings())
    assert case.clear is not None
    assert rows[HAZY]["psnr"] == metrics.psnr(case.hazy, case.clear)
    assert rows[HAZY]["ssim"] == metrics.ssim(case.hazy, case.clear)
    assert rows[CLEAR].get("psnr") is None
    assert rows[CLEAR]["fade"] < rows[HAZY]["fade"]
    assert all("thumbnail" not in row for row in rows.values())


def test_the_haze_of_a_pair_depends_on_the_photograph_and_the_seed_only(photo: Callable[..., Pixels]) -> None:
    first, again = (synthetic_case(photo(3), None, ID, settings()).hazy for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (synthetic_case(photo(3), None, ID, settings(seed=1)).hazy != first).any()
    assert (synthetic_case(photo(3), None, ID[::-1], settings()).hazy != first).any()


def test_depth_steers_the_haze_and_is_cut_like_the_photograph() -> None:
    depth = np.zeros((100, 200), np.uint16)
    depth[:, 100:] = 65535  # the right half is near
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, "PNG")
    cut = square_depth(buffer.getvalue(), 64)
    assert cut.shape == (1, 1, 64, 64)
    assert cut[..., :30].max() < 0.01
    assert cut[..., 34:].min() > 0.99
    case = synthetic_case(np.full((100, 200, 3), 10, np.uint8), buffer.getvalue(), ID, settings())
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
    rows = by_model(Evaluator(settings(), {path.name: str(clear / path.name)}).rows(item(path)))
    assert list(rows) == [HAZY, "prior", CLEAR]
    assert rows[HAZY]["psnr"] < 30
    itself = by_model(Evaluator(settings(), {path.name: str(path)}).rows(item(path)))
    assert itself[HAZY]["psnr"] == metrics.PSNR_CAP


def test_photographs_that_cannot_be_measured_are_rows_with_a_reason(photo_folder: Folder, tmp_path: Path) -> None:
    good = photo_folder(count=1) / "photo_000.jpg"
    broken, tiny, other = tmp_path / "broken.jpg", tmp_path / "tiny.png", tmp_path / "other.png"
    broken.write_bytes(good.read_bytes()[:200])
    Image.new("RGB", (40, 8)).save(tiny)
    Image.new("RGB", (50, 50)).save(other)
    evaluator = Evaluator(settings(), {good.name: str(other)})
    errors = [evaluator.rows(item(path)) for path in (broken, tiny, good, tmp_path / "missing.jpg")]
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
    evaluator.scorer = SimpleNamespace(  # type: ignore[assignment]
        encode=lambda images: images.mean(dim=(1, 2, 3)), judge=lambda features: (features, 1 - features)
    )
    rows = Evaluator.rows(evaluator, item(photo_folder(count=1, hazy=True) / "photo_000.jpg"))
    assert rows[0]["clearness"] > rows[1]["clearness"]  # the veil is bright
    assert all(row["clearness"] + row["quality"] == pytest.approx(1) for row in rows)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="dcq"):
        Evaluator(settings(models=(ModelChoice(label="x", source="dcq"),)))


def test_a_model_that_fails_is_not_a_bad_photograph(photo_folder: Folder) -> None:
    evaluator = Evaluator(settings())
    evaluator.networks["prior"] = torch.nn.Conv2d(5, 3, 1)
    with pytest.raises(RuntimeError, match="channels"):
        evaluator.rows(item(photo_folder(count=1) / "photo_000.jpg"))
