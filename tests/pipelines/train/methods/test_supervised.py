"""Supervised training on pairs: it learns, it resumes exactly, it stops at nonsense."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError
from models.losses.perceptual import ContrastivePerceptual
from models.networks.corun import Corun, CorunConfig
from pipelines.train.methods.optimization import OptimizerConfig
from pipelines.train.methods.supervised import LossWeights, Supervised
from tests.pipelines.train.methods.networks import OF_A_STEP, Brightness


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(2, 3, 16, 16, generator=generator)
    return {"clear": clear, "hazy": clear * 0.5 + 0.45}


def method(steps: int = 40, **optimizer: float) -> Supervised:
    torch.manual_seed(0)
    options = {"learning_rate": 5e-3, "warmup": 2, "ema": 0.9} | optimizer
    return Supervised(Corun(CorunConfig(stages=1, dim=2)), optimizer=OptimizerConfig(**options), steps=steps)


def test_the_loss_goes_down() -> None:
    trained = method()
    losses = [trained.training_step(batch(), step)["loss"] for step in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_parts_add_up() -> None:
    found = method().training_step(batch(), 0)
    assert found["loss"] == pytest.approx(found["l1"] + found["reconstruction"])


def test_the_perceptual_loss_of_pairs_has_a_weight_of_its_own() -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []

    def features(images: Tensor) -> list[Tensor]:
        seen.append(images)
        return [images]

    weights = LossWeights(reconstruction=0, contrastive=0, perceptual=0.04)
    made = Supervised(
        Corun(CorunConfig(stages=1, dim=2)),
        weights=weights,
        steps=1,
        contrastive=ContrastivePerceptual(features, [1.0]),
    )
    found = made.training_step(batch(), 0)
    assert set(found) - OF_A_STEP == {"loss", "l1", "perceptual"}
    assert found["perceptual"] == pytest.approx(0.04 * found["l1"], rel=1e-5)  # features that are the images
    assert len(seen) == 2, "the hazy image is no part of it"


def test_the_teacher_is_what_is_exported() -> None:
    trained = method()
    trained.training_step(batch(), 0)
    exported = trained.export()
    assert exported is trained.stepper.teacher.network
    assert not exported.training


def test_a_loss_that_is_not_finite_is_an_error_and_no_step() -> None:
    trained = method()
    before = [p.clone() for p in trained.network.parameters()]
    bad = batch() | {"clear": torch.full((2, 3, 16, 16), float("nan"))}
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0; lower optimizer\.learning_rate"):
        trained.training_step(bad, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, trained.network.parameters(), strict=True))


def test_the_rate_warms_up_and_falls_to_its_share() -> None:
    stepper = method(steps=100, learning_rate=1.0, warmup=10, final_share=0.1).stepper
    assert stepper.rate(0) == pytest.approx(0.1)
    assert stepper.rate(9) == pytest.approx(1.0)
    assert stepper.rate(55) == pytest.approx(0.55)
    assert stepper.rate(100) == pytest.approx(0.1)
    assert stepper.rate(1000) == pytest.approx(0.1)


def test_haze_density_is_a_weighted_part_of_the_loss() -> None:
    def found(weight: float) -> dict[str, float]:
        torch.manual_seed(0)
        weights = LossWeights(haze_density=weight)
        made = Supervised(Corun(CorunConfig(stages=1, dim=2)), weights=weights, steps=1, scorer=Brightness())
        return made.training_step(batch(), 0)

    once, twice = found(0.5), found(1.0)
    assert once["haze_density"] > 0
    assert twice["haze_density"] == pytest.approx(2 * once["haze_density"])
    assert twice["loss"] == pytest.approx(once["loss"] + once["haze_density"])
    assert "haze_density" not in found(0.0)


def blur(scene: Tensor, clear: Tensor) -> Tensor:
    return (nn.functional.avg_pool2d(scene, 4) - nn.functional.avg_pool2d(clear, 4)).square().mean()


def test_a_loss_of_one_s_own_is_a_weighted_part() -> None:
    def found(weight: float) -> dict[str, float]:
        torch.manual_seed(0)
        weights, own = LossWeights(own={"mine.losses:blur": weight}), {"mine.losses:blur": blur}
        made = Supervised(Corun(CorunConfig(stages=1, dim=2)), weights=weights, steps=1, own=own)
        return made.training_step(batch(), 0)

    once, twice = found(0.5), found(1.0)
    assert once["mine.losses.blur"] > 0
    assert twice["mine.losses.blur"] == pytest.approx(2 * once["mine.losses.blur"])
    assert once["loss"] == pytest.approx(once["l1"] + once["reconstruction"] + once["mine.losses.blur"])


def test_a_loss_of_one_s_own_that_is_no_scalar_is_named() -> None:
    weights, own = LossWeights(own={"mine:map": 1.0}), {"mine:map": lambda scene, clear: scene - clear}
    made = Supervised(Corun(CorunConfig(stages=1, dim=2)), weights=weights, steps=1, own=own)
    with pytest.raises(ConfigError, match=r"'mine:map' of weights.own gave \(2, 3, 16, 16\); expected a scalar"):
        made.training_step(batch(), 0)


def test_a_weight_of_zero_leaves_the_loss_out() -> None:
    made = Supervised(Corun(CorunConfig(stages=1, dim=2)), weights=LossWeights(reconstruction=0), steps=1)
    assert set(made.training_step(batch(), 0)) - OF_A_STEP == {"loss", "l1"}
