"""Looking into a pool: contents, survey, sheet, export, and the command."""

import io
import json
import os
import subprocess
import sys
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.config import PoolError
from pseudolabel.__main__ import main
from pseudolabel.inspect.contents import open_contents
from pseudolabel.inspect.statistics import ROWS, Survey, survey, told
from pseudolabel.pool.entries import shard_folder, shard_of
from pseudolabel.pool.history import History
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.pool.sheet import colored, draw_sheet
from pseudolabel.pool.snapshots import Manifest, write_manifest
from pseudolabel.pool.stats import PoolStats
from tests.pseudolabel.pool.conftest import entry

COUNT = 30


ENTRIES = [entry(f"{i:032x}", i / COUNT, i / (2 * COUNT), step=i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A store of two shards and a snapshot of it."""
    root = tmp_path_factory.mktemp("pools")
    parts = []
    for shard in range(2):
        pool = LabelPool(root / "run" / "pool" / shard_folder(shard, 2), sync=False, clock=lambda: 1_700_000_000.0)
        pool.offer([photo for photo in ENTRIES if shard_of(photo.image_id, 2) == shard])
        pool.offer([entry(ENTRIES[0].image_id, 0, 0)] if shard_of(ENTRIES[0].image_id, 2) == shard else [])
        parts.append(pool.snapshot_part(root / "run" / "snapshots" / "step-7", f"{shard}"))
        pool.close()
    write_manifest(root / "run" / "snapshots" / "step-7", Manifest(parts=tuple(parts), step=7))
    return {"root": root, "store": root / "run" / "pool", "snapshot": root / "run" / "snapshots" / "step-7"}


@pytest.fixture(params=["store", "snapshot"])
def pool(request, places):
    return str(places[request.param])


def test_a_store_and_its_snapshot_show_the_same(places):
    found = []
    for place in ("store", "snapshot"):
        contents = open_contents(str(places[place]))
        scores = contents.scores.sort_by("image_id")
        some = contents.records([ENTRIES[3].image_id, "missing", ENTRIES[20].image_id])
        all_of_them = contents.records(scores["image_id"].to_pylist())
        by_name = [sorted(records, key=lambda record: record.image_id) for records in (some, all_of_them)]
        found.append((contents.stats, contents.history, scores.to_pylist(), *by_name))
    assert found[0] == found[1]
    stats, history, scores, some, every = found[0]
    assert (stats.size, stats.offered) == (COUNT, COUNT + 1)
    assert sum(moment.offered for moment in history.moments) == COUNT + 1
    assert [row["clearness"] for row in scores] == [photo.clearness for photo in ENTRIES]
    assert [record.image_id for record in some] == [ENTRIES[3].image_id, ENTRIES[20].image_id]
    assert [record.image_id for record in every] == [photo.image_id for photo in ENTRIES]


def test_a_pool_is_looked_into_while_its_owner_writes(tmp_path):
    owner = LabelPool(tmp_path, sync=False)
    owner.offer(ENTRIES[:5])
    command = [sys.executable, "-m", "pseudolabel", "inspect", str(tmp_path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "labels                 5" in shown
    assert owner.offer(ENTRIES[5:]) == [True] * (COUNT - 5)
    owner.close()


def test_a_survey_counts_all_and_chooses_nobody_twice(pool):
    found = survey(open_contents(pool), count=4)
    again = survey(open_contents(pool), count=4)
    assert sum(found.clearness) == sum(found.quality) == COUNT
    assert found.clearness[0] == 2
    assert sum(found.quality[10:]) == 0
    assert found.best == [photo.image_id for photo in ENTRIES[:-5:-1]]
    assert found.worst == [photo.image_id for photo in ENTRIES[:4]]
    assert len(found.others) == 4
    assert not set(found.others) & {*found.best, *found.worst}
    assert again == found


def test_a_small_pool_has_nobody_left_for_the_second_choice(tmp_path):
    LabelPool(tmp_path, sync=False).close()
    assert survey(open_contents(str(tmp_path)), count=3).best == []
    owner = LabelPool(tmp_path, sync=False)
    owner.offer(ENTRIES[:4])
    owner.close()
    found = survey(open_contents(str(tmp_path)), count=3)
    assert (len(found.best), len(found.worst), len(found.others)) == (3, 1, 0)


def test_the_text_fits_a_terminal_and_draws_in_proportion():
    moments = tuple((1_700_000_000 + 60 * i, 10**7, i * 10**5, 0, 10**7, 9e6, 8e6, i) for i in range(100))
    history = History.model_validate({"width": 1, "moments": moments})
    found = Survey(
        "store of 1 shard", PoolStats(size=10**7), history, [0] * 18 + [10**7, 5 * 10**6], [10**7] + [0] * 19
    )
    lines = told(found, "x", block="#").splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("2023-11" in line for line in lines) in range(ROWS // 2, ROWS + 1)
    bars = [line.split("|")[0].count("#") for line in lines if "0.90-0.95" in line or "0.95-1.00" in line]
    assert bars[0] == 15
    assert bars[1] in (7, 8)
    assert told(Survey("", PoolStats(), History()), "empty").count("0") > 3


@pytest.fixture
def corpus(tmp_path, photo):
    """The photographs of all entries but one, in several row groups."""
    rows = []
    for index, one in enumerate(ENTRIES[1:]):
        stream = io.BytesIO()
        Image.fromarray(photo(seed=index, height=30, width=60)).save(stream, "PNG")
        rows.append({"image_id": one.image_id, "image": stream.getvalue()})
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=4)
    (folder / "manifest.json").write_text(json.dumps({"files": ["train.parquet"]}))
    return folder


def test_inspect_prints_and_draws(pool, corpus, tmp_path, capsys):
    assert main(["inspect", pool, "--sheet", str(tmp_path / "a.png"), "--corpus", str(corpus), "--count", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("labels                30", "Acceptance over time", "Labels by clearness", "5 of their photographs"):
        assert words in shown
    assert main(["inspect", pool, "--sheet", str(tmp_path / "b.png"), "--count", "2"]) == 0
    with Image.open(tmp_path / "a.png") as with_inputs, Image.open(tmp_path / "b.png") as without:
        assert without.width < with_inputs.width
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "corpus"]


def test_the_sheet_shows_trust_in_one_scale_and_labels_in_the_photographs_proportions():
    wide = np.full((50, 100, 3), 200, np.uint8)
    sheet = draw_sheet({"best": ENTRIES[:1], "worst": []}, {ENTRIES[0].image_id: wide}, inputs=True)
    square = draw_sheet({"best": ENTRIES[:1]}, {}, inputs=True)
    assert sheet.width == square.width
    assert sheet.height < square.height
    np.testing.assert_array_equal(colored(np.array([0.0, 1.0])), [[68, 1, 84], [253, 231, 36]])
    with pytest.raises(ValueError, match="empty"):
        draw_sheet({"best": []}, {}, inputs=False)


def test_an_export_is_ordinary_images_and_an_index(pool, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", pool, str(out)]) == 0
    assert "30 labels" in capsys.readouterr().out
    rows = {row["image_id"]: row for row in pq.read_table(out / "index.parquet").to_pylist()}
    assert sorted(rows) == [photo.image_id for photo in ENTRIES]
    for photo in ENTRIES:
        row = rows[photo.image_id]
        np.testing.assert_array_equal(np.asarray(Image.open(out / row["label"])), photo.label)
        np.testing.assert_array_equal(np.asarray(Image.open(out / row["transmission"])), photo.transmission)
        trust = np.array(row["trust"], np.float32).reshape(row["trust_rows"], row["trust_columns"])
        np.testing.assert_array_equal(trust, photo.trust)
        assert (row["clearness"], row["quality"], row["teacher_step"]) == (
            photo.clearness,
            photo.quality,
            photo.teacher_step,
        )
    assert main(["export", pool, str(out)]) == 2
    assert "holds an export already" in capsys.readouterr().err


def test_no_identifier_leads_out_of_the_export(tmp_path):
    owner = LabelPool(tmp_path / "pool", sync=False)
    strange = ["../../out", "/etc/x", ".", "é" * 200, "a b"]
    owner.offer([entry(image_id) for image_id in strange])
    owner.close()
    assert main(["export", str(tmp_path / "pool"), str(tmp_path / "deep" / "out")]) == 0
    index = pq.read_table(tmp_path / "deep" / "out" / "index.parquet").to_pylist()
    inside = (tmp_path / "deep" / "out" / "labels").resolve()
    for row in index:
        assert (tmp_path / "deep" / "out" / row["label"]).resolve().is_relative_to(inside)
    assert sorted(row["image_id"] for row in index) == sorted(strange)
    assert len(list(inside.rglob("*.png"))) == len(strange)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "{root}/nowhere"], "there is no folder"),
        (["inspect", "{root}/run"], "run/pool"),
        (["inspect", "{root}/run/snapshots"], "snapshots/step-7"),
        (["inspect", "{root}"], "run/pool or {root}/run/snapshots/step-7"),
        (["inspect", "{root}/run/snapshots/step-7", "--corpus", "x"], "--sheet"),
        (["inspect", "{root}/run/pool", "--sheet", "{root}/no/folder.png"], "folder.png"),
        (["inspect", "{root}/run/pool", "--sheet", "{root}/x.png", "--corpus", "{root}"], "no complete corpus"),
        (["inspect", "ftp7://x/y"], "error: cannot open 'ftp7://x/y': Unrecognized"),
        (["export", "{root}/run/pool", "/dev/null/out"], "/dev/null/out"),
    ],
)
def test_errors_are_one_line(places, arguments, message, capsys):
    assert main([argument.format(root=places["root"]) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message.format(root=places["root"]) in error
    assert error.count("\n") == 1


def test_the_latest_snapshot_is_suggested_though_it_has_no_labels_of_its_own(tmp_path, capsys):
    with closing(LabelPool(tmp_path / "pool" / shard_folder(0, 1), sync=False)) as pool:
        pool.offer(ENTRIES[:2])
        for step in (1, 2):
            pool.snapshot(tmp_path / "run" / f"step-{step}", base=tmp_path / "run" / f"step-{step - 1}")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    assert main(["inspect", str(tmp_path)]) == 2
    assert f"{tmp_path}/run/step-1 or {tmp_path}/run/step-2" in capsys.readouterr().err


def test_a_corpus_is_no_pool_and_none_is_suggested(corpus, tmp_path, capsys):
    assert main(["inspect", str(corpus)]) == 2
    assert "is no snapshot" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 2
    assert "look into" not in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_one_line():
    """In a process of its own: in this one Ray may run already, and is not asked for twice."""
    command = [sys.executable, "-m", "pseudolabel", "list", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Ray cluster answers at '127.0.0.1:1'")


def test_shards_that_are_elsewhere_are_said_to_be(places, tmp_path):
    LabelPool(tmp_path / shard_folder(1, 3), sync=False).close()
    assert open_contents(str(tmp_path)).kind == "1 of 3 shards: the others are not on this machine"
    LabelPool(tmp_path / shard_folder(0, 2), sync=False).close()
    with pytest.raises(PoolError, match=r"pools of \[2, 3\] shards"):
        open_contents(str(tmp_path))
