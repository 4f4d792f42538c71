"""Colabator's real half: what labels and trust do to the student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.losses import pixel as losses
from models.losses.perceptual import ContrastivePerceptual
from models.networks.corun import Corun, CorunConfig
from pipelines.train.label_streams import with_labels
from pipelines.train.methods.colabator import Colabator, RealWeights
from pipelines.train.methods.optimization import OptimizerConfig
from pipelines.train.methods.supervised import LossWeights
from pseudolabel.pool import LabelEntry
from tests.pipelines.train.methods.networks import OF_A_STEP, Brightness


def batch(trust: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(1, 3, 16, 16, generator=generator) for name in ("hazy", "clear", "strong", "label")}
    return images | {"trust": torch.full((1, 1, 16, 16), trust)}


def method(real: RealWeights, scorer: object = None) -> Colabator:
    torch.manual_seed(0)
    return Colabator(
        Corun(CorunConfig(stages=1, dim=2)),
        weights=LossWeights(reconstruction=0, contrastive=0),
        real=real,
        contrastive=ContrastivePerceptual(lambda images: [images], [1.0]),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0),
        steps=10,
        scorer=scorer,
    )


def weights_after(made: Colabator, data: dict[str, Tensor]) -> list[Tensor]:
    made.training_step(data, 0)
    return [p.detach().clone() for p in made.network.parameters()]


LABEL_ONLY = RealWeights(label=1.0, reconstruction=0.0, contrastive=0.0, haze_density=0.0)


@pytest.mark.parametrize(
    "real",
    [
        LABEL_ONLY,
        RealWeights(label=0.0, reconstruction=1.0, contrastive=0.0, haze_density=0.0),
        RealWeights(label=0.0, reconstruction=0.0, contrastive=1.0, haze_density=0.0),
    ],
    ids=["label", "reconstruction", "contrastive"],
)
def test_a_label_without_trust_teaches_nothing(real: RealWeights) -> None:
    synthetic = {name: value for name, value in batch(0.0).items() if name in ("hazy", "clear")}
    without = weights_after(method(real), synthetic)
    untrusted = weights_after(method(real), batch(0.0))
    trusted = weights_after(method(real), batch(1.0))
    assert all(torch.equal(a, b) for a, b in zip(without, untrusted, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(without, trusted, strict=True))


def test_the_label_s_loss_is_in_proportion_to_trust() -> None:
    whole, half = (method(LABEL_ONLY).training_step(batch(trust), 0)["real_label"] for trust in (1.0, 0.5))
    assert half == pytest.approx(whole / 2, rel=1e-5)


def test_every_part_is_reported_and_adds_up() -> None:
    found = method(RealWeights(haze_density=0.05), Brightness()).training_step(batch(0.7), 0)
    parts = {"l1", "real_label", "real_reconstruction", "real_contrastive", "real_haze_density"}
    assert set(found) == {"loss", *parts} | OF_A_STEP
    assert found["loss"] == pytest.approx(sum(found[name] for name in parts), rel=1e-5)


def test_haze_density_pushes_the_student_to_clearer_scenes() -> None:
    made = method(RealWeights(label=0, reconstruction=0, contrastive=0, haze_density=100.0), Brightness())
    values = [made.training_step(batch(0.0), step)["real_haze_density"] for step in range(10)]
    assert values[-1] < values[0]


def test_the_contrast_draws_to_the_label_and_off_the_photograph() -> None:
    contrast = RealWeights(label=0, reconstruction=0, contrastive=0.2, haze_density=0)
    made = method(contrast)
    values = [made.training_step(batch(1.0), step)["real_contrastive"] for step in range(10)]
    assert values[-1] < values[0]
    scene = made.network(batch(1.0)["strong"]).scene
    images = batch(1.0)
    again = losses.contrastive_perceptual([scene], [images["label"]], [images["strong"]], [0.2])
    assert method(contrast).training_step(images, 0)["real_contrastive"] == pytest.approx(values[0], rel=1e-6)
    assert again.item() < values[0]


def test_trust_weighs_the_contrast_only_where_it_shall() -> None:
    def contrast(trust: float, *, weighed: bool) -> float:
        real = RealWeights(label=0, reconstruction=0, contrastive=0.2, contrastive_trust=weighed, haze_density=0)
        return method(real).training_step(batch(trust), 0)["real_contrastive"]

    assert contrast(0.5, weighed=True) == pytest.approx(0.5 * contrast(1.0, weighed=True), rel=1e-4)
    assert contrast(0.0, weighed=False) == contrast(1.0, weighed=False) > 0


@pytest.mark.parametrize("weighed", [True, False])
def test_a_photograph_without_a_label_is_not_drawn_to_itself(weighed: bool) -> None:
    real = RealWeights(label=0, reconstruction=0, contrastive=0.2, contrastive_trust=weighed, haze_density=0)

    def contrast(*entries: LabelEntry | None) -> float:
        photos = batch(1.0)["strong"].expand(len(entries), -1, -1, -1)
        images = {name: batch(1.0)[name] for name in ("hazy", "clear")}
        images |= with_labels({"photo": photos * 1.5, "strong": photos}, entries)
        return method(real).training_step(images, 0)["real_contrastive"]

    gray = np.full((16, 16, 3), 128, np.uint8)
    entry = LabelEntry("a", gray, gray[..., 0], np.ones((1, 1), np.float32), 0.5, 0.5, 0)
    assert contrast(None, None) == 0
    assert contrast(None, entry) == pytest.approx(contrast(entry) / 2)
    assert contrast(entry, entry) == pytest.approx(contrast(entry))
    assert contrast(entry) > 0


def test_label_workers_get_the_teacher() -> None:
    made = method(LABEL_ONLY)
    made.training_step(batch(1.0), 0)
    teacher = made.stepper.teacher.network.state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in made.teacher_state().items())
