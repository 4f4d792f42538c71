"""DGUN: its steps against their equations, any size, depth and width, and the released names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import ConfigError, parse
from models.networks.dgun import Dgun, DgunConfig, load_released_dgunet, released_name
from models.networks.dgun_blocks import GradientStep, StageFusion, SubspaceFusion


def small(stages: int = 3, seed: int = 0) -> Dgun:
    torch.manual_seed(seed)
    return Dgun(DgunConfig(stages=stages, dim=8, growth=4, subspace=3, tail=4))


def released(network: Dgun) -> dict[str, Tensor]:
    return {released_name(name): value for name, value in network.state_dict().items()}


def test_the_gradient_step_is_its_equation() -> None:
    step, x, y = GradientStep(), torch.rand(1, 3, 6, 7), torch.rand(1, 3, 6, 7)
    step.step.data.fill_(0.3)
    residual = x + step.degrade.body(x) - y
    torch.testing.assert_close(step(x, y), x - 0.3 * (residual + step.transpose.body(residual)))


def test_an_exact_degradation_leaves_the_scene_alone() -> None:
    """``Phi(x) = x`` and ``y = x``: the data term is at its minimum."""
    step, x = GradientStep(), torch.rand(1, 3, 8, 8)
    for operator in (step.degrade, step.transpose):
        operator.body[2].weight.data.zero_()
        operator.body[2].bias.data.zero_()
    assert torch.equal(step(x, x), x)


def test_features_inside_the_subspace_stay_and_others_are_projected() -> None:
    fusion = SubspaceFusion(4, 3).double()
    x, before = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    basis = fusion.basis(torch.cat([x, before], dim=1))
    v, b = basis.flatten(2).transpose(1, 2), before.flatten(2).transpose(1, 2)  # N, pixels, K and C
    projected = v @ torch.linalg.lstsq(v, b).solution
    image = projected.transpose(1, 2).view_as(before)
    torch.testing.assert_close(fusion(x, before), x + fusion.fuse(torch.cat([x, image], dim=1)), atol=1e-5, rtol=1e-5)


def test_a_basis_of_nothing_is_finite() -> None:
    fusion = SubspaceFusion(4, 3)
    for parameter in fusion.basis.parameters():
        parameter.data.zero_()
    assert fusion(torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 6)).isfinite().all()


def test_fusion_scales_and_shifts() -> None:
    fusion, x = StageFusion(4, 6), torch.rand(1, 6, 5, 5)
    encoded, decoded = torch.rand(1, 6, 5, 5), torch.rand(1, 4, 5, 5)
    memory = torch.nn.functional.leaky_relu(fusion.encoded(encoded) + fusion.decoded(decoded), 0.1)
    expected = x * (1 + fusion.scale(memory).sigmoid()) + fusion.shift(memory)
    torch.testing.assert_close(fusion(x, encoded, decoded), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 16), (9, 17)])
def test_any_size_gives_every_stage_at_that_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        out = small()(torch.rand(2, 3, *size))
    assert [scene.shape for scene in out.scenes] == [(2, 3, *size)] * 3
    assert out.scene is out.scenes[-1]
    assert all(scene.isfinite().all() for scene in out.scenes)


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_stages_between_share_their_weights(stages: int) -> None:
    network = small(stages)
    assert len(network(torch.rand(1, 3, 8, 8)).scenes) == stages
    assert (network.middle is None) == (stages == 2)
    if stages > 2:
        assert len(network.state_dict()) == len(small(7).state_dict())


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = Dgun(DgunConfig(stages=4, dim=32, growth=4, subspace=3))  # fewer gates can all be closed by chance
    torch.stack([scene.square().mean() for scene in network(torch.rand(2, 3, 16, 16)).scenes]).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize(("options", "named"), [({"stages": 1}, "stages"), ({"dim": 6}, "dim"), ({"dims": 4}, "dims")])
def test_impossible_configurations_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(DgunConfig, options)


def test_the_released_layout_comes_back() -> None:
    network = small(7)
    back = load_released_dgunet(released(network) | {"basic.concat12.weight": torch.zeros(8, 16, 3, 3)})
    assert back.config == network.config
    assert not back.training
    found = back.state_dict()
    assert [name for name, value in network.state_dict().items() if not torch.equal(found[name], value)] == []


def test_names_that_do_not_match_are_all_listed() -> None:
    theirs = released(small())
    del theirs["tail.weight"]
    theirs["discriminator.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing \['tail\.weight'\], unknown \['discriminator\.weight'\]"):
        load_released_dgunet(theirs)
    with pytest.raises(ValueError, match="not a released DGUNet"):
        load_released_dgunet({"conv.weight": torch.zeros(1)})
