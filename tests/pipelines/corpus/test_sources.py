"""Places in files and containers: what is listed can be read, and damage is an error that says so."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ConfigError
from pipelines.corpus.sources import Kind, Location, container_kind, image_column, list_members, read_place, read_places

ENTRIES = {f"deep/{i}.jpg": bytes([i]) * (100 + 7 * i) for i in range(9)}


def archive(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
            stream.mkdir("deep")
            for entry, data in ENTRIES.items():
                stream.writestr(entry, data)
        return path
    with tarfile.open(path, "w:" + {"tar": "", "tgz": "gz", "xz": "xz"}[name.rpartition(".")[2]]) as tar:
        folder_entry = tarfile.TarInfo("deep")
        folder_entry.type = tarfile.DIRTYPE
        tar.addfile(folder_entry)
        for entry, data in ENTRIES.items():
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def rows(folder: Path, name: str, nested: bool) -> Path:
    data: list[object] = list(ENTRIES.values())
    kind: pa.DataType = pa.binary()
    if nested:
        data, kind = (
            [{"bytes": d, "path": None} for d in data],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    table = pa.table({"label": list(range(len(data))), "image": pa.array(data, kind)})
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=4)
        return path
    make = pa.ipc.new_file if name.startswith("file") else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz"])
def test_members_of_archives(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, name)
    kind = container_kind(str(path))
    assert kind is not None
    members = list_members(str(path), kind)
    assert {m.name: read_place(m.place) for m in members} == ENTRIES
    assert [m.place.length for m in members] == [len(d) for d in ENTRIES.values()]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_rows_of_tables(tmp_path: Path, name: str, nested: bool) -> None:
    path = rows(tmp_path, name, nested)
    kind = container_kind(name)
    assert kind is not None
    members = list_members(str(path), kind)
    assert [read_place(m.place) for m in members] == list(ENTRIES.values())
    some = [members[i].place for i in (8, 0, 5, 3)]
    assert dict(read_places(some)) == {n: list(ENTRIES.values())[i] for n, i in enumerate((8, 0, 5, 3))}


def test_many_places_at_once(tmp_path: Path) -> None:
    paths = [archive(tmp_path, name) for name in ("a.zip", "b.tar", "c.tgz")] + [rows(tmp_path, "d.parquet", True)]
    plain = tmp_path / "plain.jpg"
    plain.write_bytes(b"plain")
    places = [Location(str(plain)), Location(str(tmp_path / "gone.jpg"))]
    for path in paths:
        kind = container_kind(str(path))
        assert kind is not None
        places += [m.place for m in list_members(str(path), kind)][::2]
    found = dict(read_places(places))
    assert sorted(found) == list(range(len(places)))
    assert found[0] == b"plain"
    assert isinstance(found[1], FileNotFoundError)
    assert [found[i] for i in range(2, len(places))] == 4 * list(ENTRIES.values())[::2]


@pytest.mark.parametrize("anew", [True, False])
def test_an_archive_that_is_replaced_is_read_as_it_is_now(tmp_path: Path, anew: bool) -> None:
    path = archive(tmp_path, "a.zip")
    assert len(list_members(str(path), "zip")) == len(ENTRIES)
    if anew:
        path.unlink()
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("only.jpg", b"another")
    (member,) = list_members(str(path), "zip")
    assert (member.name, read_place(member.place)) == ("only.jpg", b"another")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("keep", [0, 10, 0.3])
def test_damaged_containers(tmp_path: Path, name: str, keep: float) -> None:
    path = rows(tmp_path, name, nested=False) if name[2:] in ("parquet", "arrow") else archive(tmp_path, name)
    whole = path.read_bytes()
    kind: Kind | None = container_kind(name)
    assert kind is not None
    members = list_members(str(path), kind)
    cut = tmp_path / f"cut{path.suffix}"
    cut.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(OSError):  # noqa: PT011 - pyarrow has a message for each kind of damage
        raise_if_complete(str(cut), kind, len(members))
    for _, found in read_places([Location(str(cut), m.place.kind, m.place.position, m.place.length) for m in members]):
        assert isinstance(found, OSError | bytes)


def raise_if_complete(path: str, kind: Kind, count: int) -> None:
    """A tar archive that is cut off at a member's end cannot be told from a whole one: it has fewer members."""
    if len(list_members(path, kind)) < count and kind in ("tar", "stream"):
        raise OSError("cut")


def test_encrypted_member_is_unreadable(tmp_path: Path) -> None:
    path = archive(tmp_path, "a.zip")
    data = bytearray(path.read_bytes())
    for start in (i for i in range(len(data) - 4) if data[i : i + 4] == b"PK\x01\x02"):
        data[start + 8] |= 1  # the flag for encryption
    path.write_bytes(data)
    with pytest.raises(OSError, match="encrypted"):
        read_place(list_members(str(path), "zip")[0].place)


def test_a_row_without_bytes_names_its_path(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "x/1.jpg"}], kind)}), tmp_path / "a.parquet")
    with pytest.raises(OSError, match=r"row 0 of .* holds no bytes, only the path x/1\.jpg"):
        read_place(list_members(str(tmp_path / "a.parquet"), "parquet")[0].place)


def test_table_without_images_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"no column of images.*label, text"):
        list_members(str(tmp_path / "a.parquet"), "parquet")


def test_the_image_column() -> None:
    nested = pa.struct([("bytes", pa.binary())])
    assert image_column(pa.schema([("depth", pa.binary()), ("image", nested)])) == "image"
    assert image_column(pa.schema([("label", pa.int64()), ("picture_of_it", pa.large_binary())])) == "picture_of_it"
    assert image_column(pa.schema([("a", pa.binary()), ("b", pa.binary())])) is None


@given(
    st.builds(
        Location,
        st.text(min_size=1),
        st.sampled_from(["file", "tar:.npy", "parquet:im|age"]),
        st.integers(0),
        st.integers(0),
    )
)
def test_places_survive_as_text(place: Location) -> None:
    if "|" not in place.kind:
        assert Location.of(str(place)) == place


def test_labels_end_with_the_suffix() -> None:
    assert Location("/a/b.npy").label.endswith(".npy")
    assert Location("/a.tar", "tar:.mat", 512).label == "/a.tar@512.mat"
    assert Location("/a.parquet", "parquet:depth", 3).label.endswith(".png")
    assert all(Location("/a", kind).sequential for kind in ("stream", "parquet:x", "arrow:x"))
    assert not Location("/a", "zip").sequential
