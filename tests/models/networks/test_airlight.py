"""The airlight head: what is folded out comes back, the whole image decides, and no haze changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.haze import scatter
from models.inference import dehaze
from models.networks.airlight import AirlightHead, Light
from models.networks.corun import Corun, CorunConfig
from models.options import InferenceConfig


def picture(height: int = 40, width: int = 56, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def light(airlight: list[float], amount: float = 1.0, gain: float = 1.0) -> Light:
    color = torch.tensor(airlight).view(1, 3, 1, 1)
    return Light(color, gain * color, torch.full((1, 1, 1, 1), amount))


def network(seed: int = 0) -> Corun:
    """With a head that says something of its own about every picture."""
    torch.manual_seed(seed)
    made = Corun(CorunConfig(stages=2, dim=2, airlight=True)).eval()
    assert made.light is not None
    torch.nn.init.normal_(made.light.output.weight, std=0.3)
    return made


@pytest.mark.parametrize("airlight", [[0.4, 0.4, 0.4], [0.9, 0.7, 0.4]])
def test_a_folded_photograph_is_one_with_an_airlight_of_one(airlight: list[float]) -> None:
    """``P/A = (J/A) T + 1 - T`` where the scene is no brighter than the airlight."""
    own = light(airlight)
    scene, transmission = picture() * own.airlight, 0.2 + 0.8 * picture(seed=1)[:, :1]
    hazy = scatter(scene, transmission, own.airlight)
    folded = AirlightHead.fold(hazy, own)
    torch.testing.assert_close(folded, scatter(scene / own.airlight, transmission, 1.0))
    torch.testing.assert_close(AirlightHead.unfold(scene / own.airlight, hazy, own), scene)


def test_what_is_brighter_than_the_airlight_stays_so() -> None:
    own, hazy = light([0.5, 0.4, 0.3]), picture()
    folded = AirlightHead.fold(hazy, own)
    assert float(folded.max()) == 1.0
    torch.testing.assert_close(AirlightHead.unfold(folded, hazy, own), hazy)


def test_without_haze_a_photograph_is_left_as_it_is() -> None:
    hazy = picture()
    assert torch.equal(AirlightHead.unfold(torch.zeros_like(hazy), hazy, light([0.5, 0.4, 0.3], amount=0.0)), hazy)


def test_the_level_may_be_neutral_where_all_light_was_colored() -> None:
    """A white wall in orange light, without haze before it, is white again."""
    own = light([0.9, 0.6, 0.3])
    neutral = Light(own.airlight, torch.full((1, 3, 1, 1), 0.9), own.amount)
    wall = own.airlight.expand(1, 3, 4, 4)
    made = AirlightHead.unfold(AirlightHead.fold(wall, own), wall, neutral)
    torch.testing.assert_close(made, torch.full((1, 3, 4, 4), 0.9))


def test_estimates_keep_to_their_ranges() -> None:
    head = network().light
    assert head is not None
    for seed in range(5):
        with torch.no_grad():
            found = head(picture(seed=seed))
        assert 0.15 <= float(found.airlight.min()) <= float(found.airlight.max()) <= 1.0
        assert 0.0 <= float(found.amount) <= 1.0
        assert float((found.level / found.airlight).log().abs().max()) <= 1.0


def test_each_photograph_of_a_batch_has_its_own_light() -> None:
    head, one, other = network().light, picture(), 0.5 * picture(seed=1)
    assert head is not None
    with torch.no_grad():
        together = head(torch.cat([one, other]))
        torch.testing.assert_close(together.airlight, torch.cat([head(one).airlight, head(other).airlight]))
    assert float((together.airlight[0] - together.airlight[1]).abs().max()) > 1e-3


def test_the_thumbnail_hardly_knows_how_large_the_photograph_is() -> None:
    head = network().light
    assert head is not None
    small = torch.nn.functional.interpolate(picture(8, 8), (80, 80), mode="bicubic").clamp(0, 1)
    large = torch.nn.functional.interpolate(small, scale_factor=3, mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(head(small).airlight, head(large).airlight, atol=0.02, rtol=0)


def test_tiles_and_bands_have_the_light_of_the_whole() -> None:
    own = network()
    hazy = torch.cat([picture(160, 160) * 0.3, picture(160, 160, seed=1)], dim=3)
    with torch.no_grad():
        exact = own(hazy)
    banded = dehaze(own, hazy, InferenceConfig(precision="float32", working_side=None))
    torch.testing.assert_close(banded.scene, exact.scene.clamp(0, 1), atol=1e-4, rtol=0)
    tiled = dehaze(own, hazy, InferenceConfig(precision="float32", tile=128))
    assert float((tiled.scene - exact.scene.clamp(0, 1)).abs().mean()) < 0.02


def test_the_airlight_is_part_of_what_the_network_gives_and_learns() -> None:
    own = network()
    found = own(picture())
    assert found.light is not None
    assert found.light.airlight.shape == (1, 3, 1, 1)
    (found.scene.mean() + found.transmission.mean()).backward()
    assert own.light is not None
    assert own.light.output.weight.grad is not None
    assert float(own.light.output.weight.grad.abs().sum()) > 0.0


def test_without_gradients_only_the_last_stage_is_unfolded() -> None:
    own, hazy = network(), picture()
    learned = own(hazy)
    assert own.light is not None
    with torch.no_grad():
        shown, light = own(hazy), own.light(hazy)
        last = own.light.unfold(own._unfolded(own.light.fold(hazy, light)).scene, hazy, light)
    assert (len(learned.scenes), len(learned.transmissions)) == (2, 2)
    assert (len(shown.scenes), len(shown.transmissions)) == (1, 1)
    assert torch.equal(shown.scene, last)
    torch.testing.assert_close(learned.scene, last, atol=1e-5, rtol=0)


def test_the_published_network_has_no_head() -> None:
    plain = Corun(CorunConfig(stages=2, dim=2))
    assert plain.light is None
    assert plain(picture()).light is None
    assert not [name for name in plain.state_dict() if name.startswith("light")]
