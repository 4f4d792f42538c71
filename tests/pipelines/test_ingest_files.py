"""What an ingest starts from: listing folders, globs and containers, layouts of datasets, depth maps by name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from models.settings import ConfigError
from pipelines.corpus import Domain
from pipelines.ingest_files import Sorter, expand, list_source, match_depth, pair_ids
from pipelines.layouts import LayoutName
from pipelines.sources import Place, read_place

PLAIN = Sorter("plain", "hazy")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(source: Path | str, sorter: Sorter = PLAIN) -> list[str]:
    return [Path(uri).name for uri in list_source(str(source), sorter)[0]["uri"].to_pylist()]


def test_listing_is_recursive_sorted_and_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "deep/er/c.jpg", "notes.txt", "d", ".hidden.jpg", ".trash/e.jpg")
    table, containers = list_source(str(tmp_path), PLAIN)
    assert table["uri"].to_pylist() == [str(tmp_path / n) for n in ("a.PNG", "b.jpg", "deep/er/c.jpg")]
    assert table["key"].to_pylist() == ["a", "b", "deep/er/c"]
    assert table["size"].to_pylist() == [5, 5, 13]
    assert [read_place(Place.of(p)) for p in table["place"].to_pylist()] == [b"a.PNG", b"b.jpg", b"deep/er/c.jpg"]
    assert containers == []


def test_a_hidden_root_is_no_obstacle(tmp_path: Path) -> None:
    assert names(touch(tmp_path / ".data", "a.jpg")) == ["a.jpg"]


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    assert names(touch(tmp_path, "a.jpg", "b.jpg") / "b.jpg") == ["b.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*/*.jpg", ["c.jpg", "d.jpg"]),
        ("**/*.jpg", ["a.jpg", "c.jpg", "d.jpg", "e.jpg"]),
        ("y*/**", ["d.jpg", "e.jpg"]),
        ("x/[bc].*", ["b.png", "c.jpg"]),
        ("x/[!b].*", ["c.jpg"]),
        ("x/?.png", ["b.png"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "a.jpg", "x/b.png", "x/c.jpg", "y1/d.jpg", "y1/deep/e.jpg")
    assert sorted(names(f"{tmp_path}/{pattern}")) == expected


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    assert names(touch(tmp_path, "a[1].jpg", "a1.jpg") / "a[1].jpg") == ["a[1].jpg"]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        names(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no photographs in .*looked for .*\.jpg.*\.zip"):
        names(touch(tmp_path, "notes.txt"))
    with pytest.raises(ConfigError, match=r"no photographs in .*\*\.png"):
        names(f"{touch(tmp_path, 'a.jpg')}/*.png")


def test_containers_are_found_and_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "catalogue.parquet", ".hidden.zip", ".trash/f.zip")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("./in/b.jpg", "in/b.depth.npy", "in/c.txt", "__MACOSX/._b.jpg"):
            archive.writestr(name, name)
    table, containers = list_source(str(tmp_path), PLAIN)
    assert table.num_rows == 1
    assert [(file.name, kind) for file, kind in containers] == [("more.zip", "zip")]
    rows = expand(*containers[0], PLAIN).to_pylist()
    assert [(row["uri"].rpartition("/")[2], row["key"], row["role"]) for row in rows] == [
        ("b.jpg", "in/b", "photograph"),
        ("b.depth.npy", "in/b", "depth"),
    ]
    assert [read_place(Place.of(row["place"])) for row in rows] == [b"./in/b.jpg", b"in/b.depth.npy"]
    assert Place.of(rows[1]["place"]).label.endswith(".npy")


def test_a_damaged_container_is_one_photograph_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "bad.zip")
    file, kind = list_source(str(tmp_path), PLAIN)[1][0]
    (row,) = expand(file, kind, PLAIN).to_pylist()
    with pytest.raises(OSError, match=r"bad\.zip is damaged"):
        read_place(Place.of(row["place"]))


@pytest.mark.parametrize(
    ("layout", "domain", "photographs", "others", "depth", "pairs"),
    [
        ("reside", "clear", ["OTS/clear/0001.jpg"], ["OTS/hazy/part1/0001_0.8_0.04.jpg"], ["OTS/depth/0001.mat"],
         ["reside/0001"]),
        ("reside", "hazy", ["ITS/hazy/1_1_0.90179.png"], ["ITS/clear/1.png", "ITS/trans/1_1.png"], [], ["reside/1"]),
        ("reside", "clear", ["outdoor/gt/0001.png"], ["outdoor/hazy/0001_0.8_0.2.jpg"], [], ["reside/0001"]),
        ("ridcp500", "clear", ["rgb_500/a_b.jpg"], ["x.jpg"], ["depth_500/a_b.npy"], [None]),
        ("o-haze", "hazy", ["hazy/01_outdoor_hazy.jpg"], ["GT/01_outdoor_GT.jpg"], [], ["o-haze/01"]),
        ("o-haze", "clear", ["NH-HAZE/07_GT.png"], ["NH-HAZE/07_hazy.png"], [], ["o-haze/07"]),
        ("rtts", "hazy", ["JPEGImages/AM_Bing_211.png"], ["other/x.png"], [], [None]),
    ],
)  # fmt: skip
def test_layouts_of_datasets(
    tmp_path: Path, layout: LayoutName, domain: Domain, photographs: list[str], others: list[str], depth: list[str],
    pairs: list[str | None],
) -> None:  # fmt: skip
    touch(tmp_path, *photographs, *others, *depth)
    table, _ = list_source(str(tmp_path), Sorter(layout, domain))
    roles = {Path(r["uri"]).relative_to(tmp_path).as_posix(): r["role"] for r in table.to_pylist()}
    assert roles == dict.fromkeys(photographs, "photograph") | dict.fromkeys(depth, "depth")
    keys = [r["key"] for r in table.to_pylist() if r["role"] == "photograph"]
    assert pair_ids(keys, layout, None) == pairs


def test_a_layout_without_the_domain() -> None:
    with pytest.raises(ConfigError, match="layout 'rtts' has no clear photographs; use --domain hazy"):
        Sorter("rtts", "clear")


def test_scenes_by_an_expression() -> None:
    assert pair_ids(["x/12-a", "x/b"], "plain", r"(\d+)-") == ["12", None]
    assert pair_ids(["x/12-a"], "plain", None) == [None]


def table_of(*keys: str) -> pa.Table:
    return pa.table({"uri": [f"/{key}.x" for key in keys], "key": list(keys), "place": [f"@{key}" for key in keys]})


def test_depth_maps_by_path_then_by_name() -> None:
    photographs = table_of("x/1", "y/1", "z/2", "z/3")
    assert match_depth(photographs, table_of("x/1", "2", "elsewhere/1")) == {"/x/1.x": "@x/1", "/z/2.x": "@2"}


def test_no_depth_map_matches() -> None:
    with pytest.raises(ConfigError, match="none of the 1 depth maps"):
        match_depth(table_of("a"), table_of("b"))
