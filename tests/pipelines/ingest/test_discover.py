"""What an ingest starts from: listing folders, globs and containers, layouts of datasets, depth maps by name."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.config import ConfigError, parse
from pipelines.corpus.format import Domain
from pipelines.corpus.listing import left_out_text
from pipelines.corpus.sources import Location, read_place
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.discover import Sorter, expand, left_out, list_source, match_depth, pair_ids
from pipelines.ingest.job import ingest
from pipelines.ingest.layouts import LayoutName
from pipelines.ingest.survey import survey

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
    table, containers, _, _ = list_source(str(tmp_path), PLAIN)
    assert table["uri"].to_pylist() == [str(tmp_path / n) for n in ("a.PNG", "b.jpg", "deep/er/c.jpg")]
    assert table["key"].to_pylist() == ["a", "b", "deep/er/c"]
    assert table["size"].to_pylist() == [5, 5, 13]
    assert [read_place(Location.of(p)) for p in table["place"].to_pylist()] == [b"a.PNG", b"b.jpg", b"deep/er/c.jpg"]
    assert containers == []


def test_a_hidden_root_is_no_obstacle(tmp_path: Path) -> None:
    assert names(touch(tmp_path / ".data", "a.jpg")) == ["a.jpg"]


@pytest.mark.parametrize("name", ["b.jpg", "a[1].jpg"])  # the latter looks like a glob
def test_a_single_file_is_a_source(name: str, tmp_path: Path) -> None:
    assert names(touch(tmp_path, "a1.jpg", name) / name) == [name]


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


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        names(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no photographs in .*looked for .*\.jpg.*\.zip"):
        names(touch(tmp_path, "notes.txt"))
    with pytest.raises(ConfigError, match=r"no photographs in .*\*\.png"):
        names(f"{touch(tmp_path, 'a.jpg')}/*.png")
    config = IngestConfig(sources=(str(tmp_path),), domain="clear", out=str(tmp_path / "out"), depth=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no depth maps in .*looked for (?!.*\.jpg).*\.npy"):
        survey(config)


def test_containers_are_found_and_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "catalogue.parquet", ".hidden.zip", ".trash/f.zip")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("./in/b.jpg", "in/b.depth.npy", "in/c.txt", "__MACOSX/._b.jpg"):
            archive.writestr(name, name)
    table, containers, _, _ = list_source(str(tmp_path), PLAIN)
    assert table.num_rows == 1
    assert [(file.name, kind) for file, kind in containers] == [("more.zip", "zip")]
    table = expand(*containers[0], PLAIN)
    assert left_out(table) == {"TXT": 1, "hidden or system": 1}
    rows = table.filter(pc.not_equal(table["role"], "left out")).to_pylist()
    assert [(row["uri"].rpartition("/")[2], row["key"], row["role"]) for row in rows] == [
        ("b.jpg", "in/b", "photograph"),
        ("b.depth.npy", "in/b", "depth"),
    ]
    assert [read_place(Location.of(row["place"])) for row in rows] == [b"./in/b.jpg", b"in/b.depth.npy"]
    assert Location.of(rows[1]["place"]).label.endswith(".npy")


STRANGE = [
    b"caf\xe9.jpg", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg".encode(), b"two\nlines.jpg", b"100%25 # 1?.jpg",
    b"a|b.jpg", b"~home.jpg", b" .jpg", b"-.jpg", b"x" * 251 + b".jpg", b"ordner\xfc/in\xff.jpg",
]  # fmt: skip


def test_any_name_that_a_file_system_takes_can_be_read_and_printed(tmp_path: Path) -> None:
    for name in STRANGE:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    table, _, left, _ = list_source(str(tmp_path), PLAIN)
    assert sorted(read_place(Location.of(place)) for place in table["place"].to_pylist()) == sorted(STRANGE)
    printed = [uri.removeprefix(f"{tmp_path}/") for uri in table["uri"].to_pylist()]
    assert len(set(printed)) == len(STRANGE)
    assert {r"caf\xe9.jpg", r"ordner\xfc/in\xff.jpg", "two\nlines.jpg"} <= set(printed)
    assert not left


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_archives_whose_names_and_members_names_are_not_utf8(suffix: str, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/b\xfcro." + suffix.encode())
    names = ["caf\udce9.jpg", "two\nlines.jpg", "inner.zip"]
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", *names[1:]):
                archive.writestr(name, b"content")
    else:
        with tarfile.open(path, "w" if suffix == "tar" else "w:gz") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 7
                tar.addfile(member, io.BytesIO(b"content"))
    _, containers, _, _ = list_source(str(tmp_path), PLAIN)
    table = expand(*containers[0], PLAIN)
    rows = table.filter(pc.equal(table["role"], "photograph")).to_pylist()
    assert [read_place(Location.of(row["place"])) for row in rows] == [b"content"] * 2
    assert all(row["uri"].startswith(rf"{tmp_path}/b\xfcro.{suffix}#") for row in rows)
    assert left_out(table) == {"ZIP in an archive": 1}


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    litter = [".DS_Store", "Thumbs.db", "._a.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", ".git/x"]
    touch(tmp_path, "a.jpg", "1.GIF", "2.gif", "notes.txt", "README", *litter)
    table, _, left, _ = list_source(str(tmp_path), PLAIN)
    assert table.num_rows == 1
    assert left_out_text(left) == "2 GIF, 1 TXT, 1 without a suffix, 6 hidden or system"
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ConfigError, match=r"no photographs in .*; left out: 2 GIF, 1 TXT"):
        names(tmp_path)
    touch(tmp_path, "hazy/b.jpg", "clear/b.jpg")
    assert list_source(str(tmp_path), Sorter("reside", "hazy"))[2]["outside the layout"] == 1


def test_links_that_lead_in_circles_or_nowhere(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "deep/b.jpg")
    touch(tmp_path / "other", "c.jpg")
    links = {"deep/up": tmp_path / "in", "gone.jpg": tmp_path / "nothing", "own.jpg": "own.jpg", "gone": tmp_path / "x"}
    for name, target in {**links, "linked": tmp_path / "other"}.items():
        (tmp_path / "in" / name).symlink_to(target)
    table, _, left, _ = list_source(str(tmp_path / "in"), PLAIN)
    found = dict(zip(table["key"].to_pylist(), table["place"].to_pylist(), strict=True))
    assert set(found) == {"a", "deep/b", "linked/c", "gone", "own"}
    for name, message in (("gone", "No such file"), ("own", "Too many levels of symbolic links")):
        with pytest.raises(OSError, match=message):
            read_place(Location.of(found[name]))
    assert left == {"without a suffix": 1}


def test_folders_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "secret/b.jpg", "@eaDir/c.jpg")
    scandir = os.scandir

    def guarded(folder: str) -> Any:
        if folder.endswith(("secret", "@eaDir")):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    table, _, _, _ = list_source(str(tmp_path), PLAIN)
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == ["a.jpg", "secret"]
    with pytest.raises(OSError, match="Permission denied"):
        read_place(Location.of(table["place"].to_pylist()[1]))
    monkeypatch.setattr(
        os, "scandir", lambda folder: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no", folder))
    )
    with pytest.raises(PermissionError):
        list_source(str(tmp_path), PLAIN)


def test_a_damaged_container_is_one_photograph_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "bad.zip")
    file, kind = list_source(str(tmp_path), PLAIN)[1][0]
    (row,) = expand(file, kind, PLAIN).to_pylist()
    with pytest.raises(OSError, match=r"bad\.zip is damaged"):
        read_place(Location.of(row["place"]))


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
    table, _, _, _ = list_source(str(tmp_path), Sorter(layout, domain))
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


@pytest.mark.usefixtures("ray_cluster")
def test_no_depth_map_matches(photo_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert match_depth(table_of("a"), table_of("b")) == {}
    source = photo_folder(count=1)
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "other.npy", np.zeros((2, 2)))
    asked = {"sources": [str(source)], "domain": "hazy", "out": str(tmp_path / "out"), "depth": str(tmp_path / "depth")}
    with pytest.raises(ConfigError, match=r"none of the 1 depth maps has .* such as photo_000\.npy"):
        ingest(parse(IngestConfig, asked))
