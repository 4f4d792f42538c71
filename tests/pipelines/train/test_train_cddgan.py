"""CDD-GAN on Ray: two corpora that know nothing of each other, and a model that serves like any other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.inference.dehazing import dehaze
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import ingest
from pipelines.train import __main__ as command
from pipelines.train import data as streams
from pipelines.train import job
from pipelines.train.build import make_method, make_network, write_checkpoint
from pipelines.train.loop import unpaired
from pipelines.train.methods.cddgan import CddganMethod
from pipelines.train.methods.cddgan_config import CddganTraining
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.run import TrainJob
from tests.conftest import make_photo

TINY = (
    "network={name: cddgan, width: 4, blocks: 1}",
    "crop={size: 16, per_photo: 3}",
    "cddgan.contrast={layers: [0, 3], patches: 4, projection: 8, noise: 4, queue: 16}",
    "cddgan.discriminator={width: 4, layers: 1}",
    "train={steps: 3, batch_size: 2, workers: 2, threads: 1, checkpoint_every: 2, log_every: 1, data_tasks: 1}",
    "train.failures=0",
)


def tiny(*overrides: str) -> Recipe:
    return load_recipe("cddgan_compact", [*TINY, *overrides])


@pytest.fixture(scope="module")
def corpora(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Eight dark photographs that are called clear and six bright ones that are called hazy."""
    root, made = tmp_path_factory.mktemp("corpora"), {}
    for domain, count in (("clear", 8), ("hazy", 6)):
        (root / domain).mkdir()
        for index in range(count):
            pixels = make_photo(index + (50 if domain == "hazy" else 0)) // 4 + (160 if domain == "hazy" else 0)
            Image.fromarray(pixels.astype("uint8")).save(root / domain / f"{index}.png")
        made[domain] = str(root / "corpus" / domain)
        ingest(IngestConfig(sources=(str(root / domain),), domain=domain, out=made[domain], test_fraction=0.0))
    return made


@pytest.mark.usefixtures("ray_cluster")
def test_both_corpora_are_read_as_crops_without_partners(corpora: dict[str, str], tmp_path: Path) -> None:
    assert [one.columns for one in streams.sampling_of(tiny()).values()] == [("image_id", "image")] * 2
    read = streams.datasets(TrainJob(tiny(), str(tmp_path), **corpora))
    crops = {domain: dataset.take_all() for domain, dataset in read.items()}
    assert {domain: len(rows) for domain, rows in crops.items()} == {"clear": 24, "hazy": 18}
    assert all(set(row) == {"image"} for rows in crops.values() for row in rows)
    assert max(row["image"].mean() for row in crops["clear"]) < 100 < min(row["image"].mean() for row in crops["hazy"])


def test_hazy_and_clear_stay_apart_in_a_batch() -> None:
    def stream(first: float) -> Any:
        for number in range(4):
            yield {"image": torch.full((3, 3, 2, 2), number + first)}

    batches = unpaired({"hazy": stream(10.0), "clear": stream(0.0)})
    found = [next(batches) for _ in range(2)]
    assert [set(one) for one in found] == [{"hazy", "clear"}] * 2
    assert [float(one["hazy"].mean()) for one in found] == [10, 11]
    assert [tuple(one["clear"].shape) for one in found] == [(3, 3, 2, 2)] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_a_model_that_dehazes(
    corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = job.train(TrainJob(tiny(), tmp_path / "out", **corpora))
    loaded = zoo.load(str(result.model))
    assert loaded.config["step"] == 3
    assert loaded.config["network"] == tiny().network
    assert dehaze(loaded.network, torch.rand(1, 3, 30, 21)).scene.shape == (1, 3, 30, 21)
    assert {"contrastive", "critic_clear", "cycle"} <= set(result.metrics)


class TestRecipe:
    def test_settings_reach_the_method_and_its_checkpoint_comes_back(self, tmp_path: Path) -> None:
        recipe = tiny("cddgan.generator_rate=0.02", "cddgan.weights.cycle=3", "train.seed=4")
        made = make_method(recipe, torch.device("cpu"))
        assert isinstance(made, CddganMethod)
        assert (made.config, made.steps) == (recipe.cddgan, 3)
        assert made.translators.optimizer.param_groups[0]["lr"] == 0.02
        folder = write_checkpoint(tmp_path / "ck", made, recipe, {"loss": 1.0}, step=2)
        exported, loaded = made.export().state_dict(), zoo.load(str(folder)).network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in exported.items())
        state = checkpoint.read_state(folder)
        assert state is not None
        again = make_method(tiny(f"init={folder}"), torch.device("cpu"))
        again.load_state_dict(state["method"])

    def test_another_network_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"CDD-GAN trains \{name: cddgan, \.\.\.\}, but network is .*corun"):
            make_method(tiny("network={name: corun, stages: 1, dim: 2}"), torch.device("cpu"))

    def test_a_key_that_is_not_known_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown key 'patch' in cddgan\.contrast; did you mean 'patches'"):
            tiny("cddgan.contrast.patch=3")

    def test_the_compact_recipe_fits_two_logical_cpus(self) -> None:
        train = load_recipe("cddgan_compact").train
        assert train.workers == 2
        assert train.workers * train.worker_cpus + 4 * train.data_cpus <= 2

    @pytest.mark.slow
    def test_the_full_size_recipe_takes_two_steps_and_colabator_goes_on_with_it(self, tmp_path: Path) -> None:
        """At the paper's size, on the smallest crops that its discriminators take."""
        recipe = load_recipe("cddgan")
        assert recipe.cddgan == CddganTraining(ema=0.0)  # the defaults are the published ones; averaging is ours
        made = make_method(recipe, torch.device("cpu"))
        assert isinstance(made, CddganMethod)
        size = (recipe.train.batch_size, 3, 32, 32)
        before = made.modules[0].hazer.output.weight.detach().clone()
        for step in range(2):
            found = made.training_step({"hazy": torch.rand(size), "clear": torch.rand(size)}, step)
            assert all(math.isfinite(value) for value in found.values())
        assert not torch.equal(before, made.modules[0].hazer.output.weight)
        assert [len(queue.content) for queue in made.queues] == [2 * 2 * 256] * 5
        folder = write_checkpoint(tmp_path / "ck", made, recipe, {}, step=2)
        network = make_network(load_recipe("colabator_cddgan", [f"init={folder}"])).state_dict()
        assert all(torch.equal(value, network[name]) for name, value in made.network.state_dict().items())

    def test_epochs_are_steps(self) -> None:
        """What the recipe's comment says of 200 + 200 epochs of 4,000 photographs."""
        recipe = load_recipe("cddgan")
        train = recipe.train
        assert train.steps == 400 * 4000 * recipe.crop.per_photo / (train.workers * train.batch_size)
        assert train.steps * recipe.cddgan.constant_share == train.steps / 2

    def test_init_keeps_the_generator_and_draws_the_rest(self, tmp_path: Path) -> None:
        first = make_method(tiny("cddgan.init_gain=0.02"), torch.device("cpu"))
        folder = write_checkpoint(tmp_path / "ck", first, tiny(), {}, step=1)
        again = make_method(tiny(f"init={folder}", "cddgan.init_gain=0.02", "train.seed=5"), torch.device("cpu"))
        assert isinstance(first, CddganMethod)
        assert isinstance(again, CddganMethod)
        pairs = list(zip(first.modules, again.modules, strict=True))
        for (one, other), name, same in (
            (pairs[0], "dehazer.encoder.0.conv.weight", True),
            (pairs[0], "hazer.encoder.0.conv.weight", False),
            (pairs[2], "clear.body.0.weight", False),
        ):
            assert torch.equal(one.state_dict()[name], other.state_dict()[name]) is same, name

    def test_figures_of_the_contrast_may_be_asked_for_while_a_run_goes_on(self) -> None:
        assert tiny("cddgan.diagnose_every=1").trained() == tiny("cddgan.diagnose_every=0").trained()
        assert tiny("cddgan.contrast.queue=0").trained() != tiny().trained()

    def test_both_corpora_are_asked_for(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["--recipe", "cddgan_compact", "--clear", "somewhere", "--out", str(tmp_path / "out")]) == 2
        assert "this recipe needs --hazy" in capsys.readouterr().err
