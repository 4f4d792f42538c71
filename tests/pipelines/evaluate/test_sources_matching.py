"""Which file belongs to which photograph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from models.config import ConfigError
from pipelines.evaluate.sources import SourceEntry, folder_entries, match_references, match_results

Folder = Callable[..., Path]


def picture(path: Path, size: tuple[int, int] = (128, 96), level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def entries_of(names: list[str], root: Path) -> list[SourceEntry]:
    for level, name in enumerate(names):
        picture(root / name, level=level)
    return folder_entries(str(root))[0]


def names_of(found: dict[str, str], entries: list[SourceEntry], root: Path) -> dict[str, str]:
    return {e.name: Path(found[e.image_id]).relative_to(root).as_posix() for e in entries if e.image_id in found}


@pytest.mark.parametrize(
    ("names", "results"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["a.jpg", "b.jpg"], ["a.png", "b.png"]),
        (["a.jpg", "b.jpg"], ["a_dehazed.png", "b_dehazed.png"]),
        (["a.jpg", "b.jpg"], ["a-RIDCP.png", "b-RIDCP.png"]),
        (["1.jpg", "11.jpg", "1_1.jpg"], ["1_out.png", "11_out.png", "1_1_out.png"]),
        (["x_hazy.png", "y_hazy.png"], ["x_dehazed.png", "y_dehazed.png"]),
        (["a.jpg", "b.jpg"], ["a.png", "a_T.png", "b.png", "b_T.png"]),  # transmissions beside the results
        (["one/a.jpg", "two/a.jpg"], ["one/a.png", "two/a.png"]),
    ],
)
def test_names_and_the_ending_that_all_share(names: list[str], results: list[str], tmp_path: Path) -> None:
    entries = entries_of(names, tmp_path / "data")
    for result in results:
        picture(tmp_path / "theirs" / result)
    found = names_of(match_results("theirs", str(tmp_path / "theirs"), entries), entries, tmp_path / "theirs")
    plain = [r for r in results if "_T" not in r]
    assert found == dict(zip(names, plain, strict=True))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    entries = entries_of(["a.jpg", "b.jpg", "c.jpg"], tmp_path / "data")
    picture(tmp_path / "theirs" / "b_out.png")
    with pytest.raises(ConfigError, match=r"lacks 2 of 3 photographs: [ac]\.jpg, [ac]\.jpg"):
        match_results("theirs", str(tmp_path / "theirs"), entries)
    with pytest.raises(ConfigError, match="there is no folder"):
        match_results("theirs", str(tmp_path / "nowhere"), entries)


def test_what_has_another_size_is_named(tmp_path: Path) -> None:
    entries = entries_of(["a.jpg", "b.jpg"], tmp_path / "data")
    picture(tmp_path / "theirs" / "a.png")
    picture(tmp_path / "theirs" / "b.png", (64, 48))
    with pytest.raises(ConfigError, match=r"1 files do not fit .* b\.png is 64x48, the photograph 128x96"):
        match_results("theirs", str(tmp_path / "theirs"), entries)
    (tmp_path / "theirs" / "b.png").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"b\.png \(no picture"):
        match_results("theirs", str(tmp_path / "theirs"), entries)


def test_two_kinds_of_results_in_a_folder_are_not_guessed_between(tmp_path: Path) -> None:
    entries = entries_of(["a.jpg", "b.jpg"], tmp_path / "data")
    for name in ("a_1.png", "b_1.png", "a_2.png", "b_2.png"):
        picture(tmp_path / "theirs" / name)
    with pytest.raises(ConfigError, match="several results for each photograph"):
        match_results("theirs", str(tmp_path / "theirs"), entries)


def test_one_result_for_two_photographs_is_refused(tmp_path: Path) -> None:
    entries = entries_of(["one/a.jpg", "two/a.jpg"], tmp_path / "data")
    picture(tmp_path / "theirs" / "a.png")
    with pytest.raises(ConfigError, match="would have the same result"):
        match_results("theirs", str(tmp_path / "theirs"), entries)


def test_references_match_by_path_name_or_stem(photo_folder: Folder, tmp_path: Path) -> None:
    folder = photo_folder("hazy", count=3)
    clear = tmp_path / "clear"
    clear.mkdir()
    shutil.copy(folder / "photo_000.jpg", clear / "photo_000.jpg")
    shutil.copy(folder / "photo_001.jpg", clear / "photo_001.png")
    entries, _ = folder_entries(str(folder))
    found = names_of(match_references(entries, str(clear)), entries, clear)
    assert found == {"photo_000.jpg": "photo_000.jpg", "photo_001.jpg": "photo_001.png"}


@pytest.mark.parametrize(
    ("names", "clear", "expected"),
    [
        (["01_outdoor_hazy.jpg"], ["01_outdoor_GT.jpg"], ["01_outdoor_GT.jpg"]),  # O-HAZE
        (["0001_0.8_0.2.jpg", "0001_1_0.1.jpg"], ["0001.png"], ["0001.png", "0001.png"]),  # RESIDE
    ],
)
def test_references_of_the_usual_data_sets(
    names: list[str], clear: list[str], expected: list[str], tmp_path: Path
) -> None:
    entries = entries_of(names, tmp_path / "data")
    for name in clear:
        picture(tmp_path / "clear" / name)
    found = names_of(match_references(entries, str(tmp_path / "clear")), entries, tmp_path / "clear")
    assert [found[name] for name in sorted(names)] == expected


def test_a_reference_that_has_its_photograph_is_nobody_elses(tmp_path: Path) -> None:
    names = ["street.jpg", "street_2.jpg"]
    entries = entries_of(names, tmp_path / "hazy")
    picture(tmp_path / "clear" / "street_2.jpg")
    found = names_of(match_references(entries, str(tmp_path / "clear")), entries, tmp_path / "clear")
    assert found == {"street_2.jpg": "street_2.jpg"}


def test_a_reference_in_a_folder_of_its_own_scene_is_not_one_of_another_scene(tmp_path: Path) -> None:
    entries = entries_of(["alps/1.jpg", "city/1.jpg", "sea/2.jpg"], tmp_path / "hazy")
    for name in ("alps/1.png", "2.png"):
        picture(tmp_path / "clear" / name)
    found = names_of(match_references(entries, str(tmp_path / "clear")), entries, tmp_path / "clear")
    assert found == {"alps/1.jpg": "alps/1.png", "sea/2.jpg": "2.png"}
