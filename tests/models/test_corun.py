"""CORUN: shapes, equations of its steps, names of the released layout."""

from __future__ import annotations

import pytest
import torch

from models.corun import (
    TRANSMISSION_RANGE,
    Corun,
    CorunConfig,
    SceneStep,
    TransmissionStep,
    load_released_corun,
    released_name,
)
from models.settings import ConfigError, parse


@pytest.mark.parametrize(("stages", "dim", "size"), [(1, 2, (8, 8)), (2, 4, (13, 22)), (3, 2, (1, 1)), (4, 2, (9, 40))])
def test_every_stage_has_a_scene_and_a_transmission_of_the_input_s_size(
    stages: int, dim: int, size: tuple[int, int]
) -> None:
    out = Corun(CorunConfig(stages=stages, dim=dim))(torch.rand(2, 3, *size))
    assert [tuple(s.shape) for s in out.scenes] == [(2, 3, *size)] * stages
    assert [tuple(t.shape) for t in out.transmissions] == [(2, 1, *size)] * stages
    low, high = TRANSMISSION_RANGE
    assert all(low <= t.min() and t.max() <= high for t in out.transmissions)
    assert out.scene is out.scenes[-1]
    assert out.transmission is out.transmissions[-1]


def test_every_parameter_that_the_output_depends_on_learns() -> None:
    torch.manual_seed(0)
    network = Corun(CorunConfig(stages=2, dim=2))
    network(torch.rand(1, 3, 16, 16)).scene.square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_the_transmission_step_is_exact_where_the_scattering_model_holds() -> None:
    """With ``P = J T + 1 - T`` and the true J, both terms of the quotient agree on T."""
    scene, transmission = torch.rand(1, 3, 6, 6) * 0.8, torch.rand(1, 1, 6, 6) * 0.8 + 0.1
    hazy = scene * transmission + 1 - transmission
    found = TransmissionStep()(hazy, scene, transmission)
    torch.testing.assert_close(found, transmission, rtol=1e-4, atol=1e-5)


def test_the_scene_step_is_exact_where_the_scattering_model_holds() -> None:
    scene, transmission = torch.rand(1, 3, 6, 6), torch.rand(1, 1, 6, 6) * 0.8 + 0.1
    hazy = scene * transmission + 1 - transmission
    torch.testing.assert_close(SceneStep()(hazy, scene, transmission), scene, rtol=1e-4, atol=1e-5)


def test_white_and_black_stay_finite() -> None:
    network = Corun(CorunConfig(stages=2, dim=2))
    for value in (0.0, 1.0):
        out = network(torch.full((1, 3, 16, 16), value))
        assert torch.isfinite(out.scene).all()
        assert torch.isfinite(out.transmission).all()


class TestReleased:
    @pytest.fixture
    def released(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        network = Corun(CorunConfig(stages=4, dim=2))
        return {released_name(name, 4): value for name, value in network.state_dict().items()}

    def test_round_trip(self, released: dict[str, torch.Tensor]) -> None:
        assert {name.split(".")[0] for name in released} == {"first", "basic", "last"}
        network = load_released_corun(released)
        assert network.config == CorunConfig(stages=4, dim=2)
        for name, value in network.state_dict().items():
            assert torch.equal(value, released[released_name(name, 4)])

    def test_names_that_do_not_match_are_listed(self, released: dict[str, torch.Tensor]) -> None:
        name = "last.dehaze_net.mapping.weight"
        released["last.dehaze_net.mapping.wait"] = released.pop(name)
        with pytest.raises(ValueError, match=r"missing \['last.dehaze_net.mapping.weight'\]") as caught:
            load_released_corun(released)
        assert "mapping.wait" in str(caught.value)

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a released CORUN"):
            load_released_corun({"weight": torch.zeros(1)})


def test_an_impossible_configuration_names_the_key() -> None:
    with pytest.raises(ConfigError, match="'stages' in network is 0"):
        parse(CorunConfig, {"stages": 0}, "network")
    with pytest.raises(ConfigError, match="unknown key 'stage' in network; did you mean 'stages'"):
        parse(CorunConfig, {"stage": 2}, "network")
