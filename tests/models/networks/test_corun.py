"""CORUN: the two gradient steps against their equations, any size, depth and width, and the released names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.config import ConfigError, parse
from models.networks.corun import (
    TRANSMISSION_RANGE,
    Corun,
    CorunConfig,
    SceneStep,
    Stage,
    TransmissionStep,
    load_released_corun,
    released_name,
)


def small(stages: int = 2, dim: int = 2, seed: int = 0) -> Corun:
    torch.manual_seed(seed)
    return Corun(CorunConfig(stages=stages, dim=dim))


def stages_of(network: Corun) -> list[Stage]:
    return [stage for stage in network.stages if isinstance(stage, Stage)]


def released(network: Corun) -> dict[str, Tensor]:
    return {released_name(name, network.config.stages): value for name, value in network.state_dict().items()}


# --- the gradient steps ---


def test_step_sizes_start_at_sigmoid_of_0_3() -> None:
    expected = 1 / (1 + np.exp(-0.3))
    np.testing.assert_allclose([TransmissionStep().step.item(), SceneStep().step.item()], expected, rtol=1e-6)


def test_transmission_step_is_its_equation() -> None:
    random = np.random.default_rng(0)
    P, J, T = random.random((2, 3, 5, 6)), random.uniform(-0.5, 0.95, (2, 3, 5, 6)), random.random((2, 1, 5, 6))
    step = TransmissionStep().double()
    weight = step.step.item()
    top = ((1 - P) + weight * T / (1 - J)).sum(1, keepdims=True)
    bottom = ((1 - J) + weight / (1 - J)).sum(1, keepdims=True)
    found = step(*map(torch.from_numpy, (P, J, T))).detach().numpy()
    np.testing.assert_allclose(found, np.clip(top / bottom, *TRANSMISSION_RANGE), rtol=1e-9)


def test_scene_step_is_its_equation() -> None:
    random = np.random.default_rng(1)
    P, J, T = random.random((2, 3, 5, 6)), random.uniform(-0.5, 1.5, (2, 3, 5, 6)), random.random((2, 1, 5, 6))
    step = SceneStep().double()
    weight = step.step.item()
    expected = np.clip((T * P + T**2 - T + weight * J) / (T**2 + weight), 0, 1)
    np.testing.assert_allclose(step(*map(torch.from_numpy, (P, J, T))).detach().numpy(), expected, rtol=1e-9)


def test_the_true_scene_and_transmission_stay_where_they_are() -> None:
    """Both steps descend the same data term, so a solution of ``P = J T + 1 - T`` is a fixed point."""
    both = 0.1 + 0.8 * torch.rand(1, 4, 6, 6, dtype=torch.float64)
    J, T = both[:, :3], both[:, 3:]
    P = J * T + 1 - T
    torch.testing.assert_close(TransmissionStep().double()(P, J, T), T)
    torch.testing.assert_close(SceneStep().double()(P, J, T), J)


# --- the network ---


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8), (9, 17), (3, 40)])
def test_any_size_gives_every_stage_at_that_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        out = small(3)(torch.rand(2, 3, *size))
    assert [scene.shape for scene in out.scenes] == [(2, 3, *size)] * 3
    assert [t.shape for t in out.transmissions] == [(2, 1, *size)] * 3
    assert out.scene is out.scenes[-1]
    assert out.transmission is out.transmissions[-1]
    for scene, transmission in zip(out.scenes, out.transmissions, strict=True):
        assert scene.isfinite().all()
        assert float(transmission.min()) >= np.float32(TRANSMISSION_RANGE[0])
        assert float(transmission.max()) <= np.float32(TRANSMISSION_RANGE[1])


@pytest.mark.parametrize(("stages", "dim"), [(1, 2), (2, 4), (3, 6), (5, 2)])
def test_any_depth_and_width(stages: int, dim: int) -> None:
    network = small(stages, dim)
    assert len(network(torch.rand(1, 3, 8, 8)).scenes) == stages
    assert [stage.scene_prior.embed.out_channels for stage in stages_of(network)] == [dim] * stages
    assert [stage.transmission_prior is None for stage in stages_of(network)] == [False] * (stages - 1) + [True]


@pytest.mark.parametrize(("options", "named"), [({"stages": 0}, "stages"), ({"dim": 3}, "dim"), ({"dims": 4}, "dims")])
def test_impossible_configurations_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(CorunConfig, options)


def test_first_stage_starts_from_the_photograph_and_half_transmission() -> None:
    network, hazy = small(1), torch.rand(1, 3, 8, 16)
    (stage,) = stages_of(network)
    transmission = stage.transmission_step(hazy, hazy, torch.full((1, 1, 8, 16), 0.5))
    scene = stage.scene_prior(torch.cat([stage.scene_step(hazy, hazy, transmission), transmission], dim=1))
    out = network(hazy)
    torch.testing.assert_close(out.transmission, transmission)
    torch.testing.assert_close(out.scene, scene)


def test_second_stage_takes_over_from_the_first() -> None:
    """T-hat sees J-hat and T of the stage before, the scene step and both priors its refined J."""
    network, hazy = small(2, seed=3), torch.rand(1, 3, 8, 8)
    first, last = stages_of(network)
    out = network(hazy)
    assert first.transmission_prior is not None
    T1 = first.transmission_prior(torch.cat([out.transmissions[0], hazy], dim=1))
    J_hat = first.scene_step(hazy, hazy, out.transmissions[0])
    T_hat = last.transmission_step(hazy, J_hat, T1)
    torch.testing.assert_close(out.transmissions[1], T_hat)
    refined = last.scene_prior(torch.cat([last.scene_step(hazy, out.scenes[0], T_hat), T_hat], dim=1))
    torch.testing.assert_close(out.scene, refined)


def test_gradients_reach_every_parameter() -> None:
    network = small(3, 4)
    out = network(torch.rand(2, 3, 16, 16))
    out.scene.square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_photographs_have_finite_gradients(level: float) -> None:
    network = small(2)
    out = network(torch.full((1, 3, 8, 8), level))
    (out.scene.mean() + out.transmission.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- the authors' names ---


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_released_names_are_distinct_and_bring_the_weights_back(stages: int) -> None:
    network = small(stages, 2, seed=stages)
    theirs = released(network)
    assert len(theirs) == len(network.state_dict())
    back = load_released_corun(theirs)
    assert back.config == network.config
    assert not back.training
    found = back.state_dict()
    assert [name for name, value in network.state_dict().items() if not torch.equal(found[name], value)] == []


def test_a_parameter_that_nobody_released() -> None:
    with pytest.raises(ValueError, match=r"'attention\.bias'"):
        released_name("stages.0.scene_prior.bottleneck.attention.bias", 2)
