"""Bands of rows give what the whole image gives; statistics are kept and used again."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.networks.bands import banded, in_bands, pixel_mean, recording, replaying, shared
from models.networks.cddgan import Cddgan, CddganConfig
from models.networks.corun import Corun, CorunConfig
from models.networks.dgun import Dgun, DgunConfig

CPU = torch.device("cpu")


def corun() -> nn.Module:
    torch.manual_seed(0)
    return Corun(CorunConfig(stages=2, dim=2)).eval()


def dgun() -> nn.Module:
    torch.manual_seed(0)
    return Dgun(DgunConfig(stages=3, dim=8, growth=4, subspace=3, tail=4)).eval()


def cddgan() -> nn.Module:
    torch.manual_seed(0)
    network = Cddgan(CddganConfig(width=4, blocks=1, skip="scattering", normalization="group")).eval()
    nn.init.normal_(network.output.weight, std=0.1)
    return network


def paper_cddgan() -> nn.Module:
    torch.manual_seed(0)
    return Cddgan(CddganConfig(width=4, blocks=1)).eval()


@pytest.mark.parametrize("make", [corun, dgun, cddgan, paper_cddgan])
@pytest.mark.parametrize("spill", [False, True])
@pytest.mark.parametrize("size", [(56, 40), (104, 16)])
@torch.inference_mode()
def test_networks_in_bands_are_the_same_networks(make: type, spill: bool, size: tuple[int, int]) -> None:
    network, hazy = make(), torch.rand(1, 3, *size)
    whole = network(hazy)
    with banded(1, spill=spill, device=CPU):  # 1 asks for the narrowest bands there are
        found = network(hazy)
    for one, other in zip(getattr(whole, "scenes", [whole]), getattr(found, "scenes", [found]), strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90).map(lambda n: 2 * n), elements=st.integers(1, 4000), kernel=st.sampled_from([1, 3, 5]))
@torch.inference_mode()
def test_a_convolution_sees_over_the_border_of_its_band(height: int, elements: int, kernel: int) -> None:
    weight, x = torch.randn(5, 3, kernel, kernel), torch.randn(1, 3, height, 6)
    with banded(elements):
        found = in_bands(lambda part: F.conv2d(part, weight, padding=kernel // 2), x, halo=kernel // 2)
    torch.testing.assert_close(found, F.conv2d(x, weight, padding=kernel // 2), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_halo_that_is_too_small_shows() -> None:
    weight, x = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 64, 8)
    with banded(1):
        found = in_bands(lambda part: F.conv2d(part, weight, padding=2), x, halo=1)
    assert not torch.allclose(found, F.conv2d(x, weight, padding=2), atol=1e-3)


@torch.inference_mode()
def test_heights_may_double_or_halve() -> None:
    x, skip = torch.randn(1, 4, 40, 6), torch.randn(1, 2, 80, 12)
    half = nn.Conv2d(4, 4, 4, stride=2, padding=1)

    def up(low: Tensor, high: Tensor) -> Tensor:
        return torch.cat([F.interpolate(low, scale_factor=2.0), high], dim=1)

    with banded(1):
        torch.testing.assert_close(in_bands(half, x, halo=2), half(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(in_bands(up, x, skip, halo=1), up(x, skip))


@torch.inference_mode()
def test_means_over_pixels_add_up_over_bands() -> None:
    x, y = torch.randn(2, 3, 70, 9), torch.randn(2, 3, 70, 9)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3))

    whole = pixel_mean(product, x, y)
    torch.testing.assert_close(whole, (x * y).mean((2, 3)))
    with banded(1):
        torch.testing.assert_close(pixel_mean(product, x, y), whole)


def test_outside_of_the_block_nothing_is_banded() -> None:
    seen: list[int] = []

    def look(part: Tensor) -> Tensor:
        seen.append(part.shape[-2])
        return part

    x = torch.rand(1, 1, 64, 2)
    with torch.inference_mode(), banded(1):
        in_bands(look, x, halo=0)
    in_bands(look, x, halo=0)
    assert seen == [16, 16, 16, 16, 64]


def test_threads_do_not_see_each_others_bands() -> None:
    seen: list[int] = []

    def other() -> None:
        in_bands(lambda part: seen.append(part.shape[-2]) or part, torch.rand(1, 1, 64, 2), halo=0)  # type: ignore[func-returns-value]

    with banded(1):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [64]


def test_a_full_disk_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with torch.inference_mode(), banded(1, spill=True, device=CPU), pytest.raises(OSError, match="set TMPDIR"):
        in_bands(lambda part: part, torch.rand(1, 1, 64, 2), halo=0)


@pytest.mark.parametrize(("elements", "spill"), [(0, False), (-5, False), (10, True)])
def test_impossible_bands_are_refused(elements: int, spill: bool) -> None:
    with pytest.raises(ValueError, match="bands of"), banded(elements, spill=spill):
        pass


@torch.inference_mode()
def test_the_statistics_of_one_image_can_stand_in_for_those_of_another() -> None:
    network, one, other = corun(), torch.rand(1, 3, 16, 16), 0.2 * torch.rand(1, 3, 16, 16)
    with recording() as kept:
        alone = network(one).scene
    assert len(kept) == 21  # seven attentions in each of three transformers
    with replaying(kept):
        torch.testing.assert_close(network(one).scene, alone)
    with replaying(kept):
        found = network(other).scene
    assert not torch.allclose(found, network(other).scene)


def test_as_many_statistics_are_used_as_there_are() -> None:
    with pytest.raises(RuntimeError, match="2 statistics were recorded, but 1 were asked for"):  # noqa: SIM117
        with replaying([torch.zeros(1), torch.zeros(1)]):
            shared(lambda: torch.ones(1))
    with replaying([torch.zeros(1)]):
        shared(lambda: torch.ones(1))
        with pytest.raises(RuntimeError, match="only 1 statistics"):
            shared(lambda: torch.ones(1))
