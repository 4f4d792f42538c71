"""Annotations, detectors, and average precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.config import ConfigError
from pipelines.evaluate import detection
from pipelines.evaluate.annotations import Annotated, match_annotations, read_annotations, shared_classes
from pipelines.evaluate.detection import Detections, Detector, average_precision
from pipelines.evaluate.sources import SourceEntry

LABELS = ("__background__", "person", "car", "motorcycle")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "RESAMPLES", 40)


def voc(path: Path, objects: str, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"
    )


def thing(name: str, box: tuple[int, int, int, int], difficult: int = 0) -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def test_voc_files_are_read_at_any_depth(tmp_path: Path) -> None:
    voc(tmp_path / "Annotations" / "a.xml", thing("car", (1, 1, 50, 40)) + thing("person", (2, 3, 4, 5), 1))
    voc(tmp_path / "b.xml", "")
    found = read_annotations(tmp_path)
    assert sorted(found) == ["a", "b"]
    assert found["a"].size == (100, 80)
    np.testing.assert_array_equal(found["a"].boxes, [[0, 0, 50, 40], [1, 2, 4, 5]])  # VOC counts from 1
    assert (found["a"].names, found["a"].ignored) == (("car", "person"), (False, True))
    assert found["b"].boxes.shape == (0, 4)


def test_coco_files_say_the_same(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "hazy/a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40], "iscrowd": 1}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = read_annotations(tmp_path / "x.json")["a"]
    np.testing.assert_array_equal(found.boxes, [[10, 20, 40, 60]])
    assert (found.size, found.names, found.ignored) == ((100, 80), ("car",), (True,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{}", "no COCO annotation file"),
        ("x.json", "[1", "no COCO annotation file"),
        ("a/x.xml", "<annotation>", "no VOC annotation"),
        ("a/x.xml", "<annotation/>", "<size/width> is missing"),
        ("a/x.xml", "<a><size><width>0</width><height>0</height></size></a>", "a photograph of 0x0 pixels"),
        (
            "x.json",
            '{"images": [{"id": 1, "file_name": "a", "width": 0, "height": 9}], "categories": [], "annotations": []}',
            "a photograph of 0x9 pixels",
        ),
        ("a/x.txt", "", "holds no .xml file"),
    ],
)
def test_what_is_no_annotation_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_annotations(path if path.suffix == ".json" else path.parent)
    with pytest.raises(ConfigError, match="there is no"):
        read_annotations(tmp_path / "nowhere")


def test_annotations_belong_to_photographs_by_stem() -> None:
    entries = [SourceEntry("1", "sub/a.jpg", "test", ""), SourceEntry("2", "c_hazy.png", "test", "")]
    one = Annotated((1, 1), np.zeros((0, 4), np.float32), (), ())
    assert set(match_annotations(entries, {"a": one, "b": one, "c": one})) == {"1", "2"}
    with pytest.raises(ConfigError, match="none of 1 annotations"):
        match_annotations(entries, {"z": one})


def test_classes_match_by_name_and_by_the_other_name_that_coco_has() -> None:
    def holding(*names: str) -> Annotated:
        return Annotated((1, 1), np.zeros((len(names), 4), np.float32), names, (False,) * len(names))

    shared, unknown = shared_classes([holding("Person", "motorbike"), holding("rickshaw")], LABELS)
    assert (shared, unknown) == (["motorcycle", "person"], ["rickshaw"])
    with pytest.raises(ConfigError, match="knows none"):
        shared_classes([holding("rickshaw")], LABELS)


def truth(boxes: list[list[float]], names: list[str], ignored: list[bool] | None = None) -> Annotated:
    flags = tuple(ignored or [False] * len(names))
    return Annotated((100, 100), np.array(boxes, np.float32).reshape(-1, 4), tuple(names), flags)


def found(boxes: dict[str, list[list[float]]], size: tuple[int, int] = (100, 100)) -> Detections:
    own = {key: np.array(rows, np.float32).reshape(-1, 6) for key, rows in boxes.items()}
    return Detections(own, dict.fromkeys(boxes, size))


CAR, OTHER = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([[*CAR, 0.9, 2]], 1.0),  # found
        ([[*OTHER, 0.9, 2]], 0.0),  # elsewhere
        ([[*CAR, 0.9, 1]], 0.0),  # as something else
        ([], 0.0),
        ([[*OTHER, 0.9, 2], [*CAR, 0.8, 2]], 0.5),  # after a false alarm: precision 1/2 at every recall
        ([[*CAR, 0.9, 2], [*OTHER, 0.8, 2]], 1.0),  # before it
    ],
)
def test_average_precision_of_one_object(detections: list[list[float]], expected: float) -> None:
    value = average_precision({"a": truth([CAR], ["car"])}, found({"a": detections}), LABELS, ["car"], 0)
    assert value.ap50 == pytest.approx(expected)
    assert value.by_class == {"car": pytest.approx(expected)}


def test_half_of_the_objects_found_is_half_of_the_recalls() -> None:
    annotated = {"a": truth([CAR, OTHER], ["car", "car"])}
    value = average_precision(annotated, found({"a": [[*CAR, 0.9, 2]]}), LABELS, ["car"], 0)
    assert value.ap50 == pytest.approx(51 / 101)  # of COCO's 101 recalls, 0 to 0.5


def test_overlap_decides_the_stricter_average() -> None:
    shifted = [10.0, 10.0, 50.0, 42.0]  # an overlap of 0.8
    value = average_precision({"a": truth([CAR], ["car"])}, found({"a": [[*shifted, 0.9, 2]]}), LABELS, ["car"], 0)
    assert value.ap50 == pytest.approx(1.0)
    assert value.ap == pytest.approx(0.7)  # 0.5, 0.55, ..., 0.8 of ten thresholds


def test_boxes_are_scaled_to_the_picture_that_the_detector_saw() -> None:
    small = [value / 2 for value in CAR]
    value = average_precision(
        {"a": truth([CAR], ["car"])}, found({"a": [[*small, 0.9, 2]]}, (50, 50)), LABELS, ["car"], 0
    )
    assert value.ap50 == pytest.approx(1.0)


def test_difficult_objects_count_neither_way() -> None:
    annotated = {"a": truth([CAR, OTHER], ["car", "car"], [False, True])}
    both = average_precision(annotated, found({"a": [[*OTHER, 0.95, 2], [*CAR, 0.9, 2]]}), LABELS, ["car"], 0)
    one = average_precision(annotated, found({"a": [[*CAR, 0.9, 2]]}), LABELS, ["car"], 0)
    assert both.ap50 == one.ap50 == pytest.approx(1.0)


def test_the_mean_is_over_classes_by_either_name() -> None:
    annotated = {"a": truth([CAR, OTHER], ["car", "motorbike"])}
    value = average_precision(annotated, found({"a": [[*OTHER, 0.9, 3]]}), LABELS, ["car", "motorcycle"], 0)
    assert value.by_class == {"car": 0.0, "motorcycle": pytest.approx(1.0)}
    assert value.ap50 == pytest.approx(0.5)


def test_resamples_are_of_photographs_and_the_same_for_every_model() -> None:
    annotated = {str(i): truth([CAR], ["car"]) for i in range(8)}
    half = {str(i): [[*CAR, 0.9, 2]] if i % 2 else [] for i in range(8)}
    first, again = (average_precision(annotated, found(half), LABELS, ["car"], 3).resampled for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert 0.2 < first.mean() < 0.8
    assert first.std() > 0.05
    best = average_precision(annotated, found({key: [[*CAR, 0.9, 2]] for key in annotated}), LABELS, ["car"], 3)
    np.testing.assert_allclose(best.resampled, 1.0)


NAME = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small detector with three classes and the background; random, as what it finds does not matter here."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(NAME, weights=None, weights_backbone=None, num_classes=4)
    path = tmp_path_factory.mktemp("detector") / "own.pth"
    torch.save(network.state_dict(), path)
    return path


def test_a_detector_comes_from_a_file_and_gives_rows(weights: Path) -> None:
    detector = Detector(f"{NAME}={weights}", ("person", "car", "bus"))
    assert detector.classes == ("__background__", "person", "car", "bus")
    assert detector.about["detector"] == NAME
    assert len(detector.about["weights_sha256"]) == 64
    picture: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    rows = detector(picture)
    assert rows.shape[1] == 6
    assert len(rows) <= 100
    assert (np.diff(rows[:, 4]) <= 0).all()
    assert set(rows[:, 5].astype(int)) <= {1, 2, 3}
    np.testing.assert_array_equal(rows, detector(picture))


def test_a_detector_without_its_weights_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"has no weights: there is no file .* nothing is downloaded"):
        Detector(NAME)
    with pytest.raises(ConfigError, match="does not fit"):
        Detector(f"{NAME}={weights}", ("one", "two"))
    with pytest.raises(ConfigError, match=f"did you mean '{NAME}'"):
        Detector("ssdlite320_mobilenet_v3_larg")
    with pytest.raises(ConfigError, match="which detector is it"):
        Detector(str(weights))
