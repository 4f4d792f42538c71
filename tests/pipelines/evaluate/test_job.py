"""The evaluation job: on Ray, and its command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.config import ConfigError
from models.mlflow_client import default_uri
from models.paths import child, names_in, read_file
from pipelines.evaluate import __main__ as command
from pipelines.evaluate import job
from pipelines.evaluate.choices import model_choices, with_baseline
from pipelines.evaluate.evaluator import CLEAR, HAZY
from pipelines.evaluate.metrics import METRICS
from pipelines.evaluate.parts import results_in
from pipelines.evaluate.plan import item_blocks, prepare, row_settings
from pipelines.lock import only_one

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def evaluated(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> job.Summary:
    """One run on Ray: three hazy photographs, one of them with a reference, a broken file, somebody else's results, and
    synthetic pairs.
    """
    from tests.conftest import make_photo

    root = tmp_path_factory.mktemp("evaluate")
    for name, count, hazy in (("hazy", 3, True), ("clear", 12, False), ("reference", 1, False)):
        (root / name).mkdir()
        for index in range(count):
            pixels = make_photo(index + (100 if name == "clear" else 0), hazy=hazy)
            Image.fromarray(pixels).save(root / name / f"photo_{index}.png")
    (root / "theirs").mkdir()
    for index in range(3):
        Image.fromarray(make_photo(index)).save(root / "theirs" / f"photo_{index}_out.png")
    shutil.copy(root / "theirs" / "photo_0_out.png", root / "theirs" / "broken_out.png")
    (root / "hazy" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    return job.evaluate(
        job.EvaluateConfig(
            data=(str(root / "hazy"),),
            clear=str(root / "clear"),
            reference=str(root / "reference"),
            models=("prior=dcp",),
            out=str(root / "out"),
            split="all",
            limit=4,
            scorer=None,
            results=(f"theirs={root / 'theirs'}",),
            metrics=("default", "musiq"),
            allow_missing=True,
            tracking_uri=default_uri(root / "tracking"),
            pair_size=64,
            sheet=2,
            concurrency=1,
        )
    )


@pytest.fixture
def lines(evaluated: job.Summary) -> list[dict[str, str]]:
    with evaluated.csv.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    def test_the_csv_aggregates_to_the_json(self, evaluated: job.Summary, lines: list[dict[str, str]]) -> None:
        summary = json.loads(evaluated.json.read_text())
        assert summary == json.loads(json.dumps(evaluated.summary))
        values: dict[Any, list[float]] = defaultdict(list)
        for line in lines:
            for name in set(METRICS) & set(line):
                if line[name]:
                    values[line["group"], line["model"], name].append(float(line[name]))
        seen = 0
        for kind, table in summary["tables"].items():
            for model, entries in table.items():
                for name, entry in entries.items():
                    found = values[kind, model, name]
                    assert entry["n"] == len(found)
                    assert entry["mean"] == pytest.approx(np.mean(found))
                    assert entry["median"] == pytest.approx(np.median(found))
                    seen += 1
        assert seen == len(values) > 0

    def test_every_photograph_has_every_row(self, lines: list[dict[str, str]]) -> None:
        models: dict[tuple[str, str], list[str]] = defaultdict(list)
        for line in lines:
            models[line["group"], line["name"]].append(line["model"])
        harm = {group: [] for group, _ in models if group.startswith("clear, unharmed")}
        for (group, _), found in models.items():
            harm.get(group, []).append(found)
        assert harm == {
            "clear, unharmed, clear": [[CLEAR, "prior"]] * 4,
            "clear, unharmed, reference": [[CLEAR, "prior"]],
        }
        real = {name: found for (group, name), found in models.items() if group in ("real", "paired")}
        assert real == {
            "broken.jpg": [""],
            "photo_0.png": [HAZY, "prior", "theirs", CLEAR],  # the one with a reference
            "photo_1.png": [HAZY, "prior", "theirs"],
            "photo_2.png": [HAZY, "prior", "theirs"],
        }
        assert ("paired", "photo_0.png") in models
        pairs = [found for (kind, _), found in models.items() if kind == "synthetic"]
        assert pairs == [[HAZY, "prior", CLEAR]] * 4

    def test_the_summary_says_what_was_done(self, evaluated: job.Summary) -> None:
        summary = evaluated.summary
        assert summary["headline"]["real"]["metric"] == "fade"
        assert summary["headline"]["synthetic"]["metric"] == "psnr"
        means = summary["headline"]["real"]["means"]
        assert means["prior"] < means[HAZY] == evaluated.mean("real", HAZY, "fade")
        assert summary["tables"]["paired"]["prior"]["psnr"]["n"] == 1
        assert summary["tables"]["real"]["prior"]["fade"]["difference"]["n"] == 2
        assert summary["tables"]["real"]["theirs"]["fade"]["n"] == 2
        assert "theirs" not in summary["tables"]["synthetic"]
        assert "pip install" in summary["not_measured"]["musiq"]
        assert summary["in_sample"] is True  # asked for all splits
        assert [f["name"] for f in summary["failures"]] == ["broken.jpg"]
        left_out = "1 of 3 photographs (real) could not be measured and are left out; the first: broken.jpg, the file "
        assert any(w.startswith(left_out) for w in summary["warnings"])
        assert summary["photographs"]["real"]["evaluated"] == 2
        assert any("too few photographs for intervals (real): 2" in w for w in summary["warnings"])
        assert summary["photographs"]["synthetic"] | {"source": ""} == {
            "kind": "synthetic", "source": "", "found": 12, "split": "all", "evaluated": 4, "in_sample": True,
        }  # fmt: skip
        assert summary["models"]["prior"]["source"] == "dcp"
        assert summary["config"]["seed"] == summary["row_settings"]["seed"] == 0
        assert {"ray", "torch", "fade-python", "ray-dehaze"} <= summary["versions"].keys()

    def test_clear_photographs_have_a_table_of_harm(self, evaluated: job.Summary) -> None:
        summary = evaluated.summary
        table = summary["tables"]["clear, unharmed, clear"]
        assert list(table) == [CLEAR, "prior"]
        assert table[CLEAR]["psnr"]["mean"] == 100
        assert table["prior"]["psnr"]["mean"] < 40
        assert table["prior"]["level_shift"]["difference"]["mean"] < 0
        assert summary["headline"]["clear, unharmed, clear"]["metric"] == "psnr"
        paired = summary["paired"]["clear, unharmed, clear"]
        assert {(p["model"], p["other"]) for p in paired} == {("prior", CLEAR)}
        assert {p["metric"] for p in paired} >= {"hue_shift", "ssim", "fade"}
        text, page = evaluated.markdown.read_text(), evaluated.html.read_text()
        assert "## Clear, unharmed, clear photographs: 4 of 12" in text
        assert "difference from the clear reference is harm" in text
        assert "difference from the clear reference is harm" in page
        assert "Clear, unharmed, clear photographs (4)" in page
        assert '<span class="tag l">clear reference</span>' in page
        assert "lost most" in page

    def test_the_files_are_there(self, evaluated: job.Summary) -> None:
        assert "# Evaluation" in evaluated.markdown.read_text()
        assert evaluated.sheet is not None
        assert evaluated.pairs_sheet is not None
        with Image.open(evaluated.sheet) as sheet, Image.open(evaluated.pairs_sheet) as pairs:
            assert sheet.format == pairs.format == "PNG"
            assert sheet.width > 3 * 128  # a photograph and its results side by side
            assert pairs.height > sheet.height  # those that were hazed, and those that were not
        found = {path.name for path in evaluated.csv.parent.iterdir()}
        assert found == {
            "per_image.csv", "summary.json", "summary.md", "report.html", "contact_sheet.png", "pairs_sheet.png", "rows"
        }  # fmt: skip
        parts = sorted((evaluated.csv.parent / "rows").iterdir())
        assert len(parts) > 2
        assert sum(pq.read_metadata(part).num_rows for part in parts) == len(evaluated.csv.read_text().splitlines()) - 1

    def test_everything_lands_in_mlflow(self, evaluated: job.Summary) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(evaluated.summary["config"]["tracking_uri"])
        experiment = client.get_experiment_by_name("evaluation")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["real/prior/fade"] == pytest.approx(evaluated.mean("real", "prior", "fade"))
        assert run.data.metrics["paired/theirs/psnr"] == pytest.approx(evaluated.mean("paired", "theirs", "psnr"))
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"report.html", "summary.json", "summary.md", "per_image.csv"} <= files

    def test_again_without_pairs_gives_the_same_numbers_and_drops_the_old_sheet(self, evaluated: job.Summary) -> None:
        config = job.EvaluateConfig.model_validate(evaluated.summary["config"])
        config = config.model_copy(update={"clear": None, "concurrency": 2, "tracking_uri": None})
        again = job.evaluate(config)
        assert again.summary["tables"]["real"] == evaluated.summary["tables"]["real"]
        assert again.pairs_sheet is not None  # of the photograph with a reference
        alone = job.evaluate(config.model_copy(update={"reference": None}))
        assert alone.pairs_sheet is None
        assert not (alone.csv.parent / "pairs_sheet.png").exists()

    def test_only_unreadable_files_are_an_error(self, tmp_path: Path) -> None:
        (photos := tmp_path / "photos").mkdir()
        (photos / "a.jpg").write_bytes(b"no picture")
        config = job.EvaluateConfig(data=(str(photos),), models=("dcp",), scorer=None, out=str(tmp_path / "out"))
        with pytest.raises(ConfigError, match="none of 1 photographs could be measured"):
            job.evaluate(config)
        assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "there is no folder missing"),
        (["--data", "empty"], "empty holds no photograph"),
        (["--data", "photos", "--models", "dcq"], "did you mean 'dcp'"),
        (["--data", "photos", "--models", "dcp,dcp"], "labels must differ"),
        (["--data", "photos", "--models", f"{HAZY}=dcp"], "labels must differ"),
        (["--data", "photos", "--models", "dcp", "--limit", "0"], "'limit' in evaluate"),
        (["--data", "photos", "--models", "dcp", "--reference", "missing"], "--reference names a folder"),
        (["--data", "photos", "--models", "dcp", "--scorer", "ViT-B-33"], "did you mean"),
        (["--data", "photos", "--models", "dcp", "--results", "photos"], "expected NAME=DIR"),
        (["--data", "photos", "--models", "dcp", "--results", "dcp=photos"], "the name 'dcp' is taken"),
        (["--data", "photos", "--models", "dcp", "--results", "theirs=empty"], "lacks 1 of 1 photographs"),
        (["--data", "photos", "--models", "dcp", "--metrics", "default,musiq"], "--allow-missing makes it n/a"),
        (["--data", "photos", "--models", "dcp", "--metrics", "fate"], "did you mean 'fade'"),
        (["--data", "photos", "--models", "dcp", "--headline", "quality"], "'quality' selected the labels"),
        (["--data", "photos", "--models", "dcp", "--metric-weights", "musiq=x"], "which is not measured"),
        (["--data", "photos", "--models", "dcp", "--metric-weights", "niqe=x"], "'niqe', which takes none"),
        (["--data", "photos", "--models", "dcp", "--detector", "ssd300_vgg16"], "go together"),
        (["--data", ""], "expected a folder or a URI, not no text"),
        (["--data", "photos", "--clear", ""], "expected a folder or a URI, not no text"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    photo_folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo_folder(count=1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert command.main([*arguments, "--out", "out", "--tracking-uri", "none"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_says_so_before_its_database_does(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a report")
    arguments = ["--data", str(photo_folder(count=1)), "--models", "dcp", "--metrics", "fade"]
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "out is a file: choose a folder" in capsys.readouterr().err


def test_results_go_to_object_storage_in_place_of_earlier_ones(bucket: Callable[[str], str]) -> None:
    out = bucket("results")
    for parts, sheet in (("01", True), ("0", False)):
        with results_in(out) as folder:
            (folder / "rows").mkdir()
            for part in parts:
                (folder / "rows" / f"part-{part}").write_text(part)
            (folder / "summary.json").write_text(parts)
            if sheet:
                (folder / "contact_sheet.png").write_text("sheet")
        assert names_in(child(out, "rows")) == [f"part-{part}" for part in parts]
        assert read_file(child(out, "summary.json")) == parts.encode()
        assert ("contact_sheet.png" in names_in(out)) == sheet


def test_storage_that_cannot_be_written_is_one_line_before_the_work(
    bucket: Callable[[str], str], photo_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    out = bucket("results").replace("s3://b", "s3://none", 1)
    assert command.main(["--data", str(photo_folder()), "--metrics", "fade", "--models", "dcp", "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write to {out}: ")


def test_a_database_of_mlflow_is_in_a_folder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    args = command._parser().parse_args(["--data", "x", "--out", "s3://bucket/results"])
    assert command.config_of(args).tracking_uri is None


def test_checkpoint_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    first, second, third = model_choices(["ours=run/model", "run/model", "dcp"])
    assert (first.label, first.source) == ("ours", str(tmp_path / "run" / "model"))
    assert (second.label, second.source) == ("run/model", first.source)
    assert (third.label, third.source) == ("dcp", "dcp")


def test_a_second_evaluation_leaves_the_rows_of_the_first(photo_folder: Folder, tmp_path: Path) -> None:
    rows = tmp_path / "out" / "rows" / "part-000000.parquet"
    rows.parent.mkdir(parents=True)
    rows.touch()
    config = job.EvaluateConfig(
        data=(str(photo_folder(count=1)),), models=("dcp",), out=str(tmp_path / "out"), scorer=None, metrics=("niqe",)
    )
    with only_one(config.out, "evaluation"), pytest.raises(ConfigError, match=r"another evaluation \(process \d+ on"):
        job.evaluate(config)
    assert rows.is_file()


def test_a_scorer_s_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "clip-compact"):
        (tmp_path / name).mkdir()
    made = {
        name: row_settings(job.EvaluateConfig(data=("x",), out="y", scorer=name), (), (), ()).scorer
        for name in ("mine", "./clip-compact", "clip-compact", "none", "hf-hub:a/b")
    }
    assert made == {
        "mine": str(tmp_path / "mine"), "./clip-compact": str(tmp_path / "clip-compact"),
        "clip-compact": "clip-compact", "none": None, "hf-hub:a/b": "hf-hub:a/b",
    }  # fmt: skip


def test_the_dark_channel_prior_is_measured_with_every_model_once() -> None:
    assert [c.label for c in with_baseline(model_choices(["corun-compact"]))] == ["dcp", "corun-compact"]
    assert [c.label for c in with_baseline(model_choices(["prior=dcp"]))] == ["prior"]


def test_every_option_of_the_command_is_one_of_the_configuration() -> None:
    args = command._parser().parse_args(["--data", "x", "--out", "y"])
    assert set(vars(args)) == set(job.EvaluateConfig.model_fields)
    plain = job.EvaluateConfig(data=("x",), out="y")
    assert command.config_of(args).model_copy(update={"tracking_uri": None}) == plain
    assert command.config_of(args).tracking_uri == default_uri("y")


def test_blocks_hold_every_photograph_once_and_feed_all_workers(photo_folder: Folder) -> None:
    config = job.EvaluateConfig(data=(str(photo_folder(count=11)),), out="x", models=(), scorer=None)
    blocks = item_blocks(prepare(config), config)
    assert len(blocks) >= 4
    ids = [image_id for block in blocks for image_id in block["image_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 11
    assert [block["block"].to_pylist()[0] for block in blocks] == list(range(len(blocks)))


def test_clear_photographs_are_left_alone_where_nobody_asks(photo_folder: Folder) -> None:
    one, clear = photo_folder("one", count=3), photo_folder("clear", count=3)
    plain = job.EvaluateConfig(data=(str(one),), out="x", models=("dcp",), scorer=None, split="all")

    def tables(**changes: Any) -> list[str]:
        return [*prepare(job.EvaluateConfig.model_validate(plain.model_dump() | changes)).groups]

    assert tables() == ["real"]
    assert tables(clear=str(clear)) == ["real", "synthetic", "clear, unharmed"]
    assert tables(reference=str(clear)) == ["paired", "clear, unharmed"]
    assert tables(clear=str(clear), unharmed=False) == ["real", "synthetic"]
    assert tables(clear=str(clear), metrics=("fade",)) == ["real", "synthetic"]  # FADE knows no harm
    assert tables(clear=str(clear), models=(), baseline=False, results=(f"theirs={one}",)) == ["real", "synthetic"]
    judged = plain.model_copy(update={"clear": str(clear), "headline": "fade"})
    assert {name: group.headline for name, group in prepare(judged).groups.items()} == {
        "real": "fade", "synthetic": "fade", "clear, unharmed": "psnr"
    }  # fmt: skip


def test_a_reference_of_several_photographs_is_one_clear_photograph(photo_folder: Folder) -> None:
    hazy, clear = photo_folder("hazy", count=3, hazy=True), photo_folder("clear", count=1)
    for index, path in enumerate(sorted(hazy.iterdir())):
        path.rename(hazy / f"0001_{index}.jpg")
    next(clear.iterdir()).rename(clear / "0001.jpg")
    config = job.EvaluateConfig(data=(str(hazy),), out="x", models=("dcp",), scorer=None, reference=str(clear))
    groups = prepare(config).groups
    assert len(groups["paired"].selection.entries) == 3
    assert [entry.name for entry in groups["clear, unharmed"].selection.entries] == ["0001.jpg"]


def test_one_folder_of_references_and_of_photographs_for_pairs_is_one_table_of_both(photo_folder: Folder) -> None:
    hazy, clear = photo_folder("hazy", count=1, hazy=True), photo_folder("clear", count=3)
    config = job.EvaluateConfig(
        data=(str(hazy),), out="x", models=("dcp",), scorer=None, reference=str(clear), clear=str(clear), split="all"
    )
    groups = prepare(config).groups
    counts = {name: len(group.selection.entries) for name, group in groups.items()}
    assert counts == {"paired": 1, "synthetic": 3, "clear, unharmed": 3}


@pytest.mark.parametrize("sources", [1, 2])
def test_references_that_match_nothing_are_an_error(photo_folder: Folder, tmp_path: Path, sources: int) -> None:
    data = tuple(str(photo_folder(name, count=1, hazy=True)) for name in ("one", "other"))[:sources]
    clear = photo_folder("clear", count=1)
    (clear / "photo_000.jpg").rename(clear / "elsewhere.jpg")
    for reference, told in (
        (clear, r"no photograph has a reference in .* such as photo_000\.jpg"),
        (tmp_path / "nowhere", "there is no folder .*nowhere"),
    ):
        config = job.EvaluateConfig(data=data, out="x", models=("dcp",), scorer=None, reference=str(reference))
        with pytest.raises(ConfigError, match=told):
            prepare(config)


def test_what_is_refused_on_ray_leaves_the_rows_of_an_earlier_evaluation(
    ray_cluster: None, photo_folder: Folder, tmp_path: Path
) -> None:
    part = tmp_path / "out" / "rows" / "part-000000.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?")
    data = (str(photo_folder(count=1)),)
    config = job.EvaluateConfig(data=data, out=str(tmp_path / "out"), models=("dcp",), scorer=None, num_cpus=10_000)
    with pytest.raises(ConfigError, match="CPUs"):
        job.evaluate(config)
    assert part.exists()


@pytest.mark.parametrize("sources", [1, 2])
def test_no_photograph_is_its_own_reference(photo_folder: Folder, sources: int) -> None:
    both, other = photo_folder("both", count=2, hazy=True), photo_folder("other", count=2)
    (both / "photo_000.jpg").rename(both / "photo_001_hazy.jpg")
    data = (str(both), str(other))[:sources]
    config = job.EvaluateConfig(data=data, out="x", models=("dcp",), scorer=None, reference=str(both))
    with pytest.raises(ConfigError, match=r"2 photographs would be their own references in .*both: photo_001"):
        prepare(config)


def test_sources_have_tables_of_their_own(photo_folder: Folder) -> None:
    one, other = photo_folder("one", count=2), photo_folder("other", count=2, seed=1)
    clear = photo_folder("clear", count=2, seed=2)
    config = job.EvaluateConfig(data=(str(one), str(other)), out="x", models=(), scorer=None, reference=str(clear))
    for folder in (other, clear):
        (folder / "photo_001.jpg").rename(folder / "new.jpg")
    groups = prepare(config).groups
    counts = {name: len(group.selection.entries) for name, group in groups.items()}
    assert counts == {"real, one": 1, "paired, one": 1, "paired, other": 2, "clear, unharmed": 2}
    assert groups["paired, one"].headline == "psnr"
