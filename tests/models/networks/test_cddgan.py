"""CDD-GAN's networks and memories: any size, the right shapes, units on the sphere, first in, first out."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ConfigError
from models.networks.cddgan import Cddgan, CddganConfig
from models.networks.cddgan_parts import (
    ContrastConfig,
    DiscriminatorConfig,
    ImageHistory,
    NegativeGenerators,
    NegativeQueue,
    PatchDiscriminator,
    ProjectionHeads,
    initialize,
    sample_patches,
)

CONTRAST = ContrastConfig(projection=8, noise=4, draws=2, queue=5, patches=6)


def generator(**options: Any) -> Cddgan:
    torch.manual_seed(0)
    return Cddgan(CddganConfig(**{"width": 4, "blocks": 1} | options))


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def reloaded(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class TestGenerator:
    @pytest.mark.parametrize("skip", ["none", "add", "scattering"])
    @pytest.mark.parametrize("normalization", ["instance", "group", "none"])
    @pytest.mark.parametrize("size", [(1, 1), (3, 17), (32, 20)])
    def test_any_size_comes_back_in_range(self, skip: str, normalization: str, size: tuple[int, int]) -> None:
        network = generator(skip=skip, normalization=normalization)
        torch.nn.init.normal_(network.output.weight, std=3.0)
        found = network(torch.rand(2, 3, *size)).detach()
        assert found.shape == (2, 3, *size)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1

    @pytest.mark.parametrize(("skip", "off"), [("add", 0.0), ("scattering", 0.2)])
    def test_a_skip_starts_at_or_near_the_identity(self, skip: str, off: float) -> None:
        image = torch.rand(1, 3, 16, 24)
        assert torch.allclose(generator(skip=skip)(image), image, atol=off)
        assert not torch.allclose(generator()(image), image, atol=0.1)

    def test_a_pixel_out_of_range_can_come_back(self) -> None:
        network = generator(skip="add")
        torch.nn.init.constant_(network.output.bias, -2.0)  # type: ignore[arg-type]
        found = network(torch.rand(1, 3, 8, 8))
        assert float(found.detach().abs().max()) < 1e-6
        found.sum().backward()
        assert float(network.output.bias.grad.abs().min()) > 1  # type: ignore[union-attr]

    def test_the_scattering_skips_are_the_scattering_model_and_its_inverse(self) -> None:
        scene, transmission = 0.3 + 0.4 * torch.rand(1, 3, 16, 16), 0.5
        airlight = 0.8 + 0.06 * torch.tensor([-0.5, 0.0, 0.5])
        bias = [
            -math.log(transmission) / 2 - 0.1,
            logit((0.8 - 0.65) / 0.35),
            *(math.atanh(c) for c in (-0.5, 0.0, 0.5)),
        ]
        hazy = scene * transmission + airlight[:, None, None] * (1 - transmission)
        for direction, before, after in (("dehaze", hazy, scene), ("haze", scene, hazy)):
            network = generator(skip="scattering", direction=direction)
            with torch.no_grad():
                network.output.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr]
                assert torch.allclose(network(before), after, atol=1e-5)

    def test_an_image_does_not_depend_on_its_neighbors_in_the_batch(self) -> None:
        network, images = generator(), torch.rand(3, 3, 16, 16)
        assert torch.allclose(network(images)[1:2], network(images[1:2]), atol=1e-6)

    def test_features_have_the_announced_channels_in_the_asked_order(self) -> None:
        network, image = generator(blocks=2), torch.rand(2, 3, 16, 24)
        found = network.encode(image, (4, 0, 2, 1))
        assert [tuple(f.shape[1:]) for f in found] == [(16, 4, 6), (4, 16, 24), (16, 4, 6), (8, 8, 12)]
        assert [f.shape[1] for f in found] == [network.channels(layer) for layer in (4, 0, 2, 1)]

    def test_features_are_those_that_the_image_is_made_of(self) -> None:
        network, image = generator(), torch.rand(1, 3, 16, 16)
        drawn, features = network.translate(image, (0, 3))
        assert torch.equal(drawn, network(image))
        for one, other in zip(features, network.encode(image, (0, 3)), strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("layer", [-1, 4])
    def test_a_layer_that_is_not_there_is_named(self, layer: int) -> None:
        with pytest.raises(ConfigError, match=f"no layer {layer}: take layers from 0 to 3"):
            generator().encode(torch.rand(1, 3, 8, 8), (0, layer))

    def test_instance_normalization_forgets_global_haze_and_group_normalization_does_not(self) -> None:
        """Uniform haze is one affine map of the whole image: what the configuration's docstring says of both."""
        image = torch.rand(1, 3, 16, 16)
        hazy = 0.4 * image + 0.5
        for kind, same in (("instance", True), ("group", False)):
            one, other = (generator(normalization=kind).encode(x, (0,))[0] for x in (image, hazy))
            assert torch.allclose(one, other, atol=0.02) is same

    def test_the_paper_s_size(self) -> None:
        assert sum(p.numel() for p in Cddgan().parameters()) == 11_378_179


class TestDiscriminator:
    def test_one_score_for_every_patch_of_seventy_pixels(self) -> None:
        """Pixels outside of a 70x70 patch have no say in its score."""
        network = PatchDiscriminator(DiscriminatorConfig(width=2, normalization="none"))
        image = torch.rand(1, 3, 128, 128, requires_grad=True)
        scores = network(image)
        assert scores.shape == (1, 1, 14, 14)
        (gradient,) = torch.autograd.grad(scores[0, 0, 7, 7], image)
        touched = gradient[0].abs().sum(0).nonzero()
        assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [70, 70]

    def test_scores_have_no_bounds(self) -> None:
        network = PatchDiscriminator(DiscriminatorConfig(width=2, layers=1))
        torch.nn.init.constant_(network.body[-1].bias, 30.0)  # type: ignore[arg-type]
        assert float(network(torch.rand(1, 3, 8, 8)).detach().mean()) > 20

    def test_a_crop_that_is_too_small_is_named(self) -> None:
        network = PatchDiscriminator(DiscriminatorConfig(width=2, layers=3))
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 1, 2, 2)
        with pytest.raises(ConfigError, match=r"\(32, 31\) pixels is too small .* raise crop\.size to 32"):
            network(torch.rand(1, 3, 32, 31))


class TestContrast:
    def test_patches_are_the_pixels_under_their_positions(self) -> None:
        feature = torch.arange(2 * 3 * 4 * 8.0).view(2, 3, 4, 8)
        found = sample_patches(feature, torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.25]]))
        expected = [feature[n, :, y, x] for n in range(2) for y, x in ((0, 0), (3, 7), (2, 2))]
        assert torch.equal(found, torch.stack(expected))

    def test_projections_are_on_the_unit_sphere(self) -> None:
        heads = ProjectionHeads([3, 5], 8)
        found = heads([torch.rand(2, 3, 8, 8), 100 * torch.rand(2, 5, 4, 4)], torch.rand(6, 2))
        assert [tuple(f.shape) for f in found] == [(12, 8), (12, 8)]
        assert all(torch.allclose(f.norm(dim=1), torch.ones(12)) for f in found)

    def test_negatives_are_on_the_unit_sphere_and_follow_noise_and_haze(self) -> None:
        torch.manual_seed(0)
        makers = NegativeGenerators(2, CONTRAST)
        hazy, noise = [F.normalize(torch.randn(12, 8), dim=1)] * 2, torch.randn(2, 3, 12, 4)
        found = makers(hazy, noise)
        assert [tuple(f.shape) for f in found] == [(3, 12, 8), (3, 12, 8)]
        assert all(torch.allclose(f.norm(dim=2), torch.ones(3, 12)) for f in found)
        assert not torch.allclose(found[0][0], found[0][1])
        assert not torch.allclose(found[0], makers([-hazy[0], hazy[1]], noise)[0])

    def test_the_queue_evicts_the_oldest(self) -> None:
        queue = NegativeQueue(5, 1)
        for start in (0, 2, 4):
            queue.push(torch.arange(start, start + 2.0)[:, None])
        assert queue.content[:, 0].tolist() == [1, 2, 3, 4, 5]
        queue.push(torch.arange(10.0, 18.0)[:, None])
        assert queue.content[:, 0].tolist() == [13, 14, 15, 16, 17]
        again = NegativeQueue(5, 1)
        again.load_state_dict(reloaded(queue.state_dict()))
        assert torch.equal(again.content, queue.content)

    @pytest.mark.parametrize(("negatives", "near"), [("patch", True), ("image", False)])
    def test_of_patches_they_are_small_changes_to_them(self, negatives: str, near: bool) -> None:
        torch.manual_seed(0)
        makers = NegativeGenerators(1, CONTRAST.model_copy(update={"negatives": negatives}))
        initialize(makers, 0.02)
        hazy = F.normalize(torch.randn(12, 8), dim=1)
        (made,) = makers([hazy], torch.randn(1, 3, 12, 4))
        assert bool(((made * hazy).sum(2) > 0.99).all()) is near

    def test_a_queue_of_none_keeps_none(self) -> None:
        queue = NegativeQueue(0, 2)
        queue.push(torch.ones(3, 2))
        assert queue.content.shape == (0, 2)

    def test_the_queue_holds_no_gradients(self) -> None:
        queue = NegativeQueue(5, 2)
        queue.push(torch.ones(1, 2, requires_grad=True) * 2)
        assert not queue.content.requires_grad


class TestHistory:
    @staticmethod
    def images(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)

    def test_it_gives_new_images_until_it_is_full_and_older_ones_half_of_the_time_after(self) -> None:
        history = ImageHistory(10, seed=0)
        assert torch.equal(history.exchange(self.images(*range(10))), self.images(*range(10)))
        given = history.exchange(self.images(*range(10, 210)))[:, 0, 0, 0].tolist()
        new = sum(value == index for index, value in enumerate(given, start=10))
        assert 70 < new < 130
        assert all(value <= index for index, value in enumerate(given, start=10))
        assert sorted(given + [float(image[0, 0, 0]) for image in history.images]) == list(range(210))

    def test_it_resumes_exactly(self) -> None:
        whole, again = ImageHistory(3, seed=1), ImageHistory(3, seed=2)
        whole.exchange(self.images(*range(8)))
        again.load_state_dict(reloaded(whole.state_dict()))
        rest = self.images(*range(8, 40))
        assert torch.equal(whole.exchange(rest), again.exchange(rest))

    def test_an_empty_one_resumes_and_size_zero_remembers_nothing(self) -> None:
        again = ImageHistory(3, seed=2)
        again.load_state_dict(reloaded(ImageHistory(3, seed=1).state_dict()))
        assert again.images == []
        none = ImageHistory(0, seed=0)
        images = self.images(1, 2).clone().requires_grad_()
        assert torch.equal(none.exchange(images), images)
        assert not none.exchange(images).requires_grad
