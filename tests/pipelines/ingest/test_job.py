"""The ingest job: folders in, a corpus out, and every file accounted for."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from models import images
from models.config import ConfigError, parse
from models.images import Photo
from pipelines.corpus.format import Corpus, open_corpus, require_corpus
from pipelines.ingest import first_pass, job
from pipelines.ingest.__main__ import main
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide.parts import Work
from pipelines.ingest.job import ingest
from pipelines.train.data import given_corpus

Folder = Callable[..., Path]


def config(source: Path, out: Path, **changes: Any) -> IngestConfig:
    return parse(IngestConfig, {"sources": [str(source)], "domain": "hazy", "out": str(out), **changes})


def rows(corpus: Corpus, split: str | None = None) -> list[dict[str, Any]]:
    return [row for file in corpus.files(split) for row in pq.read_table(file).to_pylist()]


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def messy(photo_folder: Folder) -> Path:
    """18 files: 12 photographs, two copies of one and a smaller one of another, one cut off, a text and its copy."""
    folder = photo_folder("messy", count=12)
    (folder / "sub").mkdir()
    shutil.copy(folder / "photo_003.jpg", folder / "sub" / "copy of 3.jpg")
    shutil.copy(folder / "photo_003.jpg", folder / "a copy too.JPG")
    small = images.resize(images.read_image(folder / "photo_007.jpg").pixels, 100, 75)
    (folder / "small.jpg").write_bytes(images.encode(Photo(small), "JPEG", quality=70))
    (folder / "cut.jpg").write_bytes((folder / "photo_004.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("no photograph")
    shutil.copy(folder / "text.png", folder / "text2.png")
    (folder / "readme.txt").write_text("not looked at")
    (folder / ".hidden.jpg").write_text("not looked at")
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_every_file_is_accounted_for(messy: Path, tmp_path: Path) -> None:
    manifest = ingest(config(messy, tmp_path / "out"))
    assert (manifest.found, manifest.accepted, manifest.rejected, manifest.duplicates) == (18, 12, 3, 3)
    assert manifest.reasons == {"truncated": 1, "unsupported_format": 2}
    assert manifest.repeats == {"exact": 2, "near": 1}
    rejects = {Path(row["uri"]).name: row for row in lines(tmp_path / "out" / "rejects" / "rejects.jsonl")}
    assert set(rejects) == {"cut.jpg", "text.png", "text2.png"}
    assert all(row["message"] for row in rejects.values())
    duplicates = {
        Path(row["uri"]).name: Path(row["same_as"]).name for row in lines(tmp_path / "out/rejects/duplicates.jsonl")
    }
    assert duplicates == {
        "photo_003.jpg": "a copy too.JPG", "copy of 3.jpg": "a copy too.JPG", "small.jpg": "photo_007.jpg",
    }  # fmt: skip

    corpus = require_corpus(tmp_path / "out", "hazy")
    stored = rows(corpus)
    assert len(stored) == 12 == len({row["image_id"] for row in stored})
    assert all(Path(row["uri"]).read_bytes() == row["image"] for row in stored)
    assert all(images.decode(row["image"]).pixels.shape == (row["height"], row["width"], 3) for row in stored)
    for split in ("train", "test"):
        assert {row["split"] for row in rows(corpus, split)} <= {split}
        assert len(rows(corpus, split)) == corpus.count(split)
    assert sum(pq.ParquetFile(file).num_row_groups for file in corpus.files()) == len(corpus.row_groups())


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["corpus", "."])
def test_a_corpus_in_its_source_is_no_source(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    asked = config(photo_folder("a", count=3, seed=50), tmp_path / "a" / name)
    first = ingest(asked)
    assert first.accepted == 3
    assert ingest(asked) == first
    assert "unchanged since the last ingest" in capsys.readouterr().out
    photo_folder("a/more", count=1, seed=60)
    again = ingest(asked)
    assert (again.found, again.accepted) == (4, 4)


@pytest.mark.usefixtures("ray_cluster")
def test_a_list_that_is_none_is_refused_before_photographs_are_read(photo_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("no id\n")
    with pytest.raises(ConfigError, match=r"ids\.txt holds 'no id'"):
        ingest(config(photo_folder("a", count=2), tmp_path / "out", holdout=[str(tmp_path / "ids.txt")]))
    assert not list((tmp_path / "out").glob(".examined*"))


@pytest.mark.usefixtures("ray_cluster")
def test_many_parts_make_the_same_corpus(messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = tmp_path / "depth"
    depth.mkdir()
    for number in range(0, 12, 2):
        np.save(depth / f"photo_{number:03d}.npy", np.linspace(0, 1, 96 * 128).reshape(96, 128))
    np.save(depth / "small.npy", np.zeros((2, 2)))
    np.save(depth / "photo_009.npy", np.zeros((96, 128)))  # turns out to be of no use when it is written
    asked = config(messy, tmp_path / "one", depth=str(depth), holdout=[str(messy / "photo_001.jpg")])
    one = ingest(asked)
    monkeypatch.setattr(first_pass, "ROWS", 4)
    monkeypatch.setattr(Work, "run", lambda self, function, jobs: [function(**job) for job in jobs])
    many = ingest(asked.model_copy(update={"out": str(tmp_path / "many")}))
    assert len(many.catalogue) == 5
    assert (many.found, many.reasons, many.repeats) == (one.found, one.reasons, one.repeats)
    assert (one.reasons["bad_depth"], one.reasons["held_out"], sum(one.depth.values())) == (1, 1, 6)
    found = []
    for name in ("one", "many"):
        table = pq.read_table(tmp_path / name / "catalogue").drop_columns(["shard"]).sort_by("uri")
        haze = pc.if_else(pc.is_nan(table["haze"]), None, table["haze"])  # NaN is not equal to itself
        found.append(table.set_column(table.schema.get_field_index("haze"), "haze", haze))
    assert found[0].to_pylist() == found[1].to_pylist()
    stored = [{row["uri"]: row for row in rows(open_corpus(tmp_path / name))} for name in ("one", "many")]
    assert stored[0] == stored[1]
    again = ingest(asked.model_copy(update={"out": str(tmp_path / "many"), "min_side": 33}))  # decided anew, all known
    assert set(again.files) == set(many.files)


@pytest.mark.usefixtures("ray_cluster")
def test_a_corpus_with_its_catalogue_in_one_file_is_added_to(photo_folder: Folder, tmp_path: Path) -> None:
    old, new, out = photo_folder("old", count=12), photo_folder("new", count=3, seed=1), tmp_path / "out"
    first = ingest(config(old, out))
    pq.write_table(pq.read_table(out / "catalogue"), out / "catalogue.parquet")
    shutil.rmtree(out / "catalogue")
    (out / "manifest.json").write_text(first.model_copy(update={"catalogue": ()}).model_dump_json())
    second = ingest(config(new, out, append=True))
    assert (second.found, second.accepted) == (15, 15)
    assert set(first.files) < set(second.files)
    assert not (out / "catalogue.parquet").exists()
    assert pq.read_table(out / "catalogue").num_rows == 15


@pytest.mark.usefixtures("ray_cluster")
def test_any_name_gets_in_and_what_is_passed_over_is_named(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo_folder(count=6)
    for number, name in enumerate((b"caf\xe9.jpg", b"two\nlines.jpg", b"#100%.jpg", b"x" * 251 + b".jpg")):
        (source / f"photo_{number:03d}.jpg").rename(os.fsdecode(os.fsencode(source) + b"/" + name))
    (source / "gone.jpg").symlink_to(source / "nothing.jpg")
    for name in ("a.gif", "b.GIF", ".DS_Store", "._photo_005.jpg"):
        (source / name).touch()
    assert main([str(source), "--domain", "hazy", "--out", str(tmp_path / "out")]) == 0
    assert "left out: 2 GIF, 2 hidden or system" in capsys.readouterr().out
    manifest = open_corpus(tmp_path / "out").manifest
    assert (manifest.found, manifest.accepted, manifest.rejected) == (7, 6, 1)
    assert manifest.left_out == {"GIF": 2, "hidden or system": 2}
    found = {row["uri"].removeprefix(f"{source}/") for row in rows(open_corpus(tmp_path / "out"))}
    assert found == {
        r"caf\xe9.jpg",
        "two\nlines.jpg",
        "#100%.jpg",
        "x" * 251 + ".jpg",
        "photo_004.jpg",
        "photo_005.jpg",
    }
    (reject,) = lines(tmp_path / "out" / "rejects" / "rejects.jsonl")
    assert reject["message"] == "cannot read the file: No such file or directory"


@pytest.mark.usefixtures("ray_cluster")
def test_a_corpus_follows_its_sources(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photo_folder(count=30), tmp_path / "out"
    first = ingest(config(source, out))
    with monkeypatch.context() as patch:
        patch.setattr(job, "ray_session", None)  # would fail
        assert ingest(config(source, out)) == first
    assert "unchanged" in capsys.readouterr().out
    gone = next(row for row in rows(open_corpus(out)) if row["uri"].endswith("photo_000.jpg"))
    (source / "photo_000.jpg").unlink()
    (out / "mine.parquet").write_bytes(b"somebody else's")
    (out / ".train-00000-0123abcd.parquet.0123abcd.tmp").write_bytes(b"left by a killed task")
    second = ingest(config(source, out))
    assert "29 of 29 photographs are known from before" in capsys.readouterr().out
    assert second.accepted == 29
    assert gone["image_id"] not in {row["image_id"] for row in rows(open_corpus(out))}
    assert len(set(second.files) - set(first.files)) == 1  # only the shard that held it was written anew
    on_disk = {path.name for path in out.glob("*.parquet")}
    assert on_disk == {*first.files, *second.files, "mine.parquet"}
    table = pq.read_table(out / "catalogue")  # the files of the first ingest are gone
    assert table.num_rows == second.found == 29
    assert set(table["shard"].to_pylist()) == set(second.files)
    assert not list(out.glob(".*"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_reads_to_its_end_what_it_began_with(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, pins = photo_folder(count=12), tmp_path / "out", str(tmp_path / "run" / "corpora")
    ingest(config(source, out))
    begun = given_corpus(str(out), "hazy", pins)
    before = rows(begun)
    (source / "photo_000.jpg").unlink()
    assert main([str(source), "--domain", "hazy", "--out", str(out), "--max-side", "100"]) == 0
    text = capsys.readouterr().out
    assert f"{len(begun.manifest.files)} shards of former ingests stay for runs that read them; --prune DAYS" in text
    assert require_corpus(out, "hazy").count() == 11
    assert rows(begun) == before  # another epoch
    resumed = given_corpus(str(out), "hazy", pins)
    assert resumed == begun
    assert given_corpus(str(out), "hazy", str(tmp_path / "another run")).count() == 11
    with monkeypatch.context() as patch:
        patch.setattr(job, "ray_session", None)  # nothing else is to be done
        assert ingest(config(source, out, max_side=100, prune=1)).retired
        assert not ingest(config(source, out, max_side=100, prune=0)).retired
    assert {path.name for path in out.glob("t*.parquet")} == set(open_corpus(out).manifest.files)
    with pytest.raises(ConfigError, match=r"made anew since this run began, and \d+ of the \d+ shards .* were deleted"):
        given_corpus(str(out), "hazy", pins)


@pytest.mark.usefixtures("ray_cluster")
def test_photographs_are_added(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, out = photo_folder("old", count=12), photo_folder("new", count=5, seed=1), tmp_path / "out"
    with pytest.raises(ConfigError, match="no finished corpus"):
        ingest(config(old, out, append=True))
    first = ingest(config(old, out))
    shutil.copy(old / "photo_001.jpg", new / "again.jpg")
    second = ingest(config(new, out, append=True))
    assert (second.found, second.accepted, second.duplicates) == (18, 17, 1)
    assert set(first.files) < set(second.files)
    assert ingest(config(new, out, append=True)) == second
    assert "unchanged" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="was made with max_side = 1600, not 100"):
        ingest(config(new, out, append=True, max_side=100))
    assert ingest(config(old, out)).accepted == 12  # without --append the corpus holds these sources only


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_added_takes_no_depth_map_and_no_finding_away(photo_folder: Folder, tmp_path: Path) -> None:
    old, new, out = photo_folder("old", count=12), photo_folder("more", count=5, seed=1), tmp_path / "out"
    depth = tmp_path / "depth"
    depth.mkdir()
    for number in range(12):
        values = np.linspace(0, 1, 96 * 128).reshape(96, 128)
        np.save(depth / f"photo_{number:03d}.npy", values > 0.5 if number == 4 else values)
    first = ingest(config(old, out, depth=str(depth), depth_order="near"))
    (said,) = lines(out / "rejects" / "depth.jsonl")
    assert Path(said["uri"]).name == "photo_004.jpg"
    shutil.copy(old / "photo_001.jpg", new / "again.jpg")  # by name before the one in the corpus
    second = ingest(config(new, out, append=True, depth_order="near"))
    assert (second.accepted, second.duplicates) == (17, 1)
    assert set(first.files) < set(second.files)
    assert sum(second.depth.values()) == 12
    assert lines(out / "rejects" / "depth.jsonl") == [said]
    assert "photo_004.jpg" in (out / "card.html").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_unchanged_is_neither_read_nor_written_again(photo_folder: Folder, tmp_path: Path) -> None:
    source, out = photo_folder(count=100), tmp_path / "out"
    first = ingest(config(source, out))
    for path in source.iterdir():  # whoever reads one of them finds no photograph
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    before = {name: (out / name).stat() for name in first.files}
    shutil.copy(photo_folder("new", count=1, seed=1) / "photo_000.jpg", source / "new.jpg")
    second = ingest(config(source, out, append=True))
    assert (second.found, second.accepted, second.rejected) == (101, first.accepted + 1, first.rejected)
    (added,) = set(second.files) - set(first.files)
    for name, status in before.items():
        now = (out / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert (out / added).stat().st_size < 0.1 * second.stored_bytes


@pytest.mark.usefixtures("ray_cluster")
def test_goes_on_where_it_stopped(photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photo_folder(count=10), tmp_path / "out"

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(config(source, out))
    with pytest.raises(ConfigError, match="interrupted"):
        open_corpus(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    with monkeypatch.context() as patch:
        patch.setattr(first_pass, "_examine_batch", killed)  # nothing is examined twice
        manifest = ingest(config(source, out))
    assert manifest.accepted == 10
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("t*.parquet")}
    assert after == before


@pytest.mark.usefixtures("ray_cluster")
def test_archives_and_tables(photo_folder: Folder, tmp_path: Path) -> None:
    folder = photo_folder("plain", count=12)
    source = tmp_path / "packed"
    source.mkdir()
    shutil.make_archive(str(source / "a"), "zip", folder, ".")
    shutil.make_archive(str(source / "b"), "gztar", folder, ".")
    ingest(config(folder, tmp_path / "plain_corpus"))
    manifest = ingest(config(tmp_path / "packed", tmp_path / "out"))
    assert (manifest.found, manifest.accepted, manifest.repeats) == (24, 12, {"exact": 12})
    again = ingest(config(tmp_path / "plain_corpus", tmp_path / "again", near_duplicates=-1))
    plain, zipped, copied = (rows(open_corpus(tmp_path / name)) for name in ("plain_corpus", "out", "again"))
    ids = sorted(row["image_id"] for row in plain)
    assert sorted(row["image_id"] for row in zipped) == ids == sorted(row["image_id"] for row in copied)
    assert again.found == 12


@pytest.mark.usefixtures("ray_cluster")
def test_depth_and_holdout(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder("clear", count=6)
    held = tmp_path / "held"
    held.mkdir()
    shutil.copy(source / "photo_005.jpg", held / "another name.jpg")
    depth = tmp_path / "depth"
    depth.mkdir()
    np.save(depth / "photo_000.npy", np.linspace(0, 1, 96 * 128).reshape(96, 128))
    np.save(depth / "photo_001.npy", np.zeros((96, 128)))
    manifest = ingest(
        config(source, tmp_path / "out", domain="clear", depth=str(depth), holdout=[str(held)], concurrency=1)
    )
    assert manifest.reasons == {"bad_depth": 1, "held_out": 1}
    assert sum(manifest.depth.values()) == 1
    by_name = {Path(row["uri"]).stem: row for row in rows(open_corpus(tmp_path / "out"))}
    assert set(by_name) == {"photo_000", "photo_002", "photo_003", "photo_004"}
    assert images.decode(by_name["photo_000"]["depth"]).pixels.shape == (96, 128, 3)
    assert by_name["photo_002"]["depth"] is None
    against_corpus = ingest(config(source, tmp_path / "rest", holdout=[str(tmp_path / "out")]))
    assert against_corpus.accepted == 2
    other = ingest(config(source, tmp_path / "other", against=[str(tmp_path / "rest")]))
    assert (other.accepted, other.repeats) == (4, {"other_corpus": 2})


@pytest.mark.usefixtures("ray_cluster")
def test_depth_maps_the_wrong_way_round_stop_the_ingest(photo_folder: Folder, tmp_path: Path) -> None:
    source, depth = photo_folder("clear", count=10, hazy=True), tmp_path / "depth"
    depth.mkdir()
    for index in range(10):  # near at the top: meters, taken for disparities
        meters = np.linspace(80, 2, 96)[:, None] * np.ones((1, 128))
        savemat(depth / f"photo_{index:03d}.mat", {"depth": meters})
    with pytest.raises(ConfigError, match=r"depth maps look inverted .*--depth-order far"):
        ingest(config(source, tmp_path / "out", depth=str(depth)))
    manifest = ingest(config(source, tmp_path / "out", depth=str(depth), depth_order="far"))
    assert sum(manifest.depth.values()) == manifest.accepted == 10
    stored = images.decode(rows(open_corpus(tmp_path / "out"))[0]["depth"]).pixels
    assert stored[-1].mean() > stored[0].mean()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_depth_model_fills_in(photo_folder: Folder, tmp_path: Path) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    tiny = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=56, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, is_hybrid=False,
        initializer_range=0.15,
    )  # fmt: skip
    network = DPTForDepthEstimation(tiny)
    network.head.head[-2].bias.data.fill_(1.0)  # the head ends in a ReLU
    network.save_pretrained(tmp_path / "model")
    DPTImageProcessor(size={"height": 56, "width": 56}, do_pad=False).save_pretrained(tmp_path / "model")
    manifest = ingest(config(photo_folder("clear", count=3), tmp_path / "out", depth=str(tmp_path / "model")))
    assert sum(manifest.depth.values()) + manifest.rejected == 3
    assert sum(manifest.depth.values()) > 0
    with pytest.raises(ConfigError, match="not at hand"):
        ingest(config(tmp_path / "clear", tmp_path / "other", depth="nobody/no-such-model"))


@pytest.mark.usefixtures("ray_cluster")
def test_scenes_are_on_the_same_side(photo_folder: Folder, tmp_path: Path) -> None:
    for domain, name in (("hazy", "hazy"), ("clear", "GT")):
        folder = photo_folder(f"o-haze/{name}", count=12, hazy=domain == "hazy")
        for number in range(12):
            (folder / f"photo_{number:03d}.jpg").rename(folder / f"{number:02d}_outdoor_{name}.jpg")
    sides: dict[str, set[str]] = {}
    for domain in ("hazy", "clear"):
        out = tmp_path / domain
        assert (
            ingest(config(tmp_path / "o-haze", out, domain=domain, layout="o-haze", test_fraction=0.5)).accepted == 12
        )
        for row in rows(open_corpus(out)):
            sides.setdefault(row["pair_id"], set()).add(row["split"])
    assert set(sides) == {f"o-haze/{number:02d}" for number in range(12)}
    assert all(len(split) == 1 for split in sides.values())
    assert len(set.union(*sides.values())) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("text")
    for _ in range(2):  # the second time from the manifest
        assert main([str(tmp_path / "in"), "--domain", "hazy", "--out", str(tmp_path / "out")]) == 2
        assert "error: none of 1 photographs can be used (1 unsupported_format)" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_command_prints_the_counts(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([str(photo_folder(count=3)), "--domain", "clear", "--out", str(tmp_path / "out"), "--max-side", "50"]) == 0
    )
    text = " ".join(capsys.readouterr().out.split())
    assert "clear corpus in" in text
    assert "found 3 accepted 3" in text
    assert all(row["width"] == 50 for row in rows(open_corpus(tmp_path / "out")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["missing"], "error: there is no folder"),
        (["."], "error: there are no photographs in"),
        ([".", "--test-fraction", "7"], "error: 'test_fraction' in ingest is 7.0"),
        ([".", "--max-side", "-1"], "error: 'max_side' in ingest is -1"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*flags, "--domain", "hazy", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    assert "--holdout" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_is_one_line_and_the_ingest_goes_on(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(photo_folder(count=3)), "--domain", "hazy", "--out", str(tmp_path / "out")]

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_batch", full)  # in a task
        assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(job, "publish", full)  # in the driver
        assert main(words) == 2
    assert main(words) == 0
    assert open_corpus(tmp_path / "out").count() == 3


@pytest.mark.usefixtures("ray_cluster")
def test_a_table_without_photographs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"number": [1]}), tmp_path / "in" / "x.parquet")
    assert main([str(tmp_path / "in"), "--domain", "hazy", "--out", str(tmp_path / "out")]) == 2
    assert "has no column of images; expected binary" in capsys.readouterr().err
