"""The controls: what each does on haze that is known, on results of any network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.inference.controls import (
    NoTransmissionError,
    as_wanted,
    blend,
    controlled,
    estimate_airlight,
    haze_of,
    look_at,
    steadied,
    verdict,
)
from models.options import Controls

AIRLIGHT = torch.tensor([0.9, 0.8, 0.7])[None, :, None, None]


def hazy_scene(height: int = 120, width: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    """A scene whose far end, at the top, is in haze: P, J and T, which fit each other exactly."""
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 12, width)[None, :].expand(height, width)
    scene = torch.stack([0.3 + 0.2 * torch.sin(columns + phase + 5 * rows) for phase in (0.0, 1.0, 2.0)])[None]
    transmission = torch.exp(-2.0 * (1.0 - rows))[None, None]
    return scene * transmission + AIRLIGHT * (1.0 - transmission), scene, transmission


def made(**wanted: object) -> Tensor:
    return controlled(*hazy_scene(), Controls.model_validate(wanted))


def test_a_strength_from_0_to_1_alone_is_what_it_was() -> None:
    hazy, scene, transmission = hazy_scene()
    assert controlled(hazy, scene, transmission, Controls()) is scene
    for strength in (0.0, 0.3, 0.9):
        found = controlled(hazy, scene, None, Controls(strength=strength))
        assert torch.equal(found, torch.lerp(hazy, scene, strength))


def test_the_airlight_is_found() -> None:
    torch.testing.assert_close(estimate_airlight(*hazy_scene()), AIRLIGHT, atol=0.01, rtol=0)
    clear = torch.rand(1, 3, 20, 20)
    found = estimate_airlight(clear, clear, torch.ones(1, 1, 20, 20))
    assert ((found >= 0) & (found <= 1)).all()  # of no haze at all, some color


@pytest.mark.parametrize("strength", [-1.0, -0.4])
def test_below_0_the_optical_distance_grows(strength: float) -> None:
    _, scene, transmission = hazy_scene()
    thicker = transmission ** (1.0 - strength)
    expected = scene * thicker + AIRLIGHT * (1.0 - thicker)
    torch.testing.assert_close(made(strength=strength), expected, atol=0.02, rtol=0)


def test_strengths_go_on_without_a_step() -> None:
    for place in (0.0, 1.0):
        torch.testing.assert_close(made(strength=place - 1e-4), made(strength=place + 1e-4), atol=2e-3, rtol=0)
    contrast = [float(made(strength=value)[:, :, :40].std(dim=3).mean()) for value in (-1, -0.5, 0, 0.5, 1, 1.1)]
    assert contrast == sorted(contrast)
    assert len(set(contrast)) == len(contrast)
    near = made(strength=2.0)[:, :, -3:]
    torch.testing.assert_close(near, hazy_scene()[0][:, :, -3:], atol=0.08, rtol=0)  # where there is no haze


def test_distance_leaves_what_is_near() -> None:
    hazy, scene, _ = hazy_scene()
    found = made(distance=0.5)
    torch.testing.assert_close(found[:, :, 90:], hazy[:, :, 90:], atol=0.01, rtol=0)
    torch.testing.assert_close(found[:, :, :25], scene[:, :, :25], atol=0.05, rtol=0)
    share = ((found - hazy).abs().mean(dim=(1, 3)) / (scene - hazy).abs().mean(dim=(1, 3)))[0, 5:85]
    assert (share.diff() < 0.02).all()  # softly, and ever less
    assert float(share.diff().min()) > -0.1


def test_exposure_is_that_of_what_is_near() -> None:
    hazy, scene, transmission = hazy_scene()
    dark = scene * 0.6  # as networks do
    kept = controlled(hazy, dark, transmission, Controls(keep_exposure=True))
    before, after, found = (float(image[:, :, -10:].mean()) for image in (hazy, dark, kept))
    assert after < 0.65 * before
    assert abs(found - before) < 0.04 * before
    assert float(kept.max()) <= 1.0
    ends = torch.zeros(1, 3, 40, 40)
    ends[..., 20:] = 1.0
    same = controlled(ends, ends.clone(), None, Controls(keep_exposure=True))
    torch.testing.assert_close(same, ends)
    half = controlled(ends * 0.3, ends * 0.2, None, Controls(keep_exposure=True))  # without a transmission too
    torch.testing.assert_close(half, ends * 0.3, atol=0.01, rtol=0)


def test_gray_stays_gray_under_all_controls() -> None:
    hazy, scene, transmission = (
        part.mean(dim=1, keepdim=True).expand(-1, part.shape[1], -1, -1) for part in hazy_scene()
    )
    for strength in (-0.5, 1.0, 1.7):
        wanted = Controls(strength=strength, distance=0.2, keep_exposure=True, protect=True)
        found = controlled(hazy, scene, transmission, wanted)
        assert float((found.amax(1) - found.amin(1)).max()) < 1e-5


def test_sky_and_highlights_are_kept() -> None:
    torch.manual_seed(0)
    hazy = torch.full((1, 3, 120, 160), 0.8) + 0.002 * torch.rand(1, 3, 120, 160)  # sky
    hazy[:, :, 60:] = 0.2 + 0.3 * torch.rand(1, 3, 60, 160)  # ground
    hazy[:, :, 100:104, 80:84] = 1.0  # a lamp
    scene = hazy * 0.5
    found = controlled(hazy, scene, None, Controls(protect=True))
    torch.testing.assert_close(found[:, :, :50], hazy[:, :, :50], atol=0.01, rtol=0)
    torch.testing.assert_close(found[:, :, 101:103, 81:83], hazy[:, :, 101:103, 81:83], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, :, 70:98], scene[:, :, 70:98], atol=0.05, rtol=0)
    overcast = controlled(hazy, scene, None, Controls())
    assert torch.equal(overcast, scene)


def test_auto_is_as_strong_as_the_haze() -> None:
    hazy, scene, transmission = hazy_scene()
    auto = Controls(strength="auto")
    assert look_at(hazy, scene, transmission, auto).strength == 1.0
    strengths = [look_at(hazy, scene, torch.full_like(transmission, t), auto).strength for t in (0.99, 0.9, 0.85, 0.7)]
    assert strengths[0] == 0.0
    assert strengths == sorted(strengths)
    assert strengths[-1] == 1.0


@pytest.mark.parametrize("wanted", [{"strength": "auto"}, {"strength": -0.2}, {"distance": 0.3}])
def test_what_needs_a_transmission_says_so(wanted: dict[str, object]) -> None:
    hazy, scene, _ = hazy_scene()
    with pytest.raises(NoTransmissionError, match=f"^{next(iter(wanted))} .* another model$"):
        controlled(hazy, scene, None, Controls.model_validate(wanted))


def test_the_others_work_without() -> None:
    hazy, scene, _ = hazy_scene()
    further = controlled(hazy, scene, None, Controls(strength=1.5))
    torch.testing.assert_close(further, (hazy + 1.5 * (scene - hazy)).clamp(0, 1))
    controlled(hazy, scene, None, Controls(keep_exposure=True, protect=True))


def test_bands_and_sizes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Controls(strength=1.4, distance=0.3, keep_exposure=True, protect=True)
    hazy, scene, transmission = hazy_scene(300, 400)
    look = look_at(hazy, scene, transmission, wanted)
    whole = as_wanted(hazy, scene, transmission, look)
    monkeypatch.setattr("models.inference.guided._BAND", 400 * 7)
    torch.testing.assert_close(as_wanted(hazy, scene, transmission, look), whole, atol=1e-5, rtol=0)
    small = look_at(*hazy_scene(150, 200), wanted)
    assert small.gain == pytest.approx(look.gain, rel=0.02)
    assert small.airlight is not None
    assert look.airlight is not None
    torch.testing.assert_close(small.airlight, look.airlight, atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 2)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    hazy, scene, transmission = torch.rand(1, 3, *size), torch.rand(1, 3, *size), torch.rand(1, 1, *size)
    for strength in (-1.0, 2.0):
        wanted = Controls(strength=strength, distance=0.5, keep_exposure=True, protect=True)
        found = controlled(hazy, scene, transmission, wanted)
        assert found.shape == hazy.shape
        assert found.isfinite().all()
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


def test_looks_of_a_video_are_steadied() -> None:
    hazy, scene, transmission = hazy_scene()
    wanted = Controls(strength=1.5, keep_exposure=True)
    before = look_at(hazy, scene, transmission, wanted)
    now = look_at(hazy, scene * 0.7, transmission, wanted)
    assert steadied(before, now, 1.0).gain == pytest.approx(before.gain)
    assert steadied(before, now, 0.0).gain == pytest.approx(now.gain)
    assert before.gain < steadied(before, now, 0.5).gain < now.gain


def test_haze_in_numbers_and_words() -> None:
    assert haze_of(None) is None
    assert haze_of(torch.full((1, 1, 2, 2), 0.75)) == 0.25
    words = [verdict(haze) for haze in (0.0, 0.2, 0.4, 1.0)]
    assert words == ["hardly any haze", "light haze", "haze", "dense haze"]


def test_blend_takes_a_whole_batch() -> None:
    hazy, scene = torch.rand(2, 3, 3, 4, 4)
    torch.testing.assert_close(blend(hazy, scene, 0.25), 0.75 * hazy + 0.25 * scene)
