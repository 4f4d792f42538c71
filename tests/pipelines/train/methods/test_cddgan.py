"""CDD-GAN's training: who moves by what, no pairing, exact resuming, and the same weights on every rank."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import ConfigError
from models.inference.dehazing import dehaze
from models.losses import adversarial as gan_losses
from models.networks.cddgan import Cddgan as Generator
from models.networks.cddgan import CddganConfig
from models.networks.cddgan_parts import ContrastConfig, DiscriminatorConfig
from pipelines.train.methods.cddgan import CddganMethod, CddganTraining, CddganWeights
from pipelines.train.methods.cddgan_players import Translated

LAYERS = (0, 2, 3)


def batch(seed: int = 0, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(count, 3, 16, 16, generator=generator)
    return {"clear": clear, "hazy": torch.rand(count, 3, 16, 16, generator=generator) * 0.4 + 0.5}


def method(steps: int = 20, *, seed: int = 0, network: dict[str, Any] | None = None, **options: Any) -> CddganMethod:
    torch.manual_seed(0)
    config = CddganTraining(
        contrast=ContrastConfig(layers=LAYERS, patches=8, projection=8, noise=4, draws=2, queue=40),
        discriminator=DiscriminatorConfig(width=4, layers=1),
        **({"history": 3, "ema": 0.9} | options),
    )
    made = CddganMethod(
        Generator(CddganConfig(**{"width": 4, "blocks": 1} | (network or {}))), config=config, steps=steps, seed=seed
    )
    made.configure()
    return made


def noise_for(made: CddganMethod, images: int = 2, seed: int = 5) -> Tensor:
    contrast = made.config.contrast
    shape = len(LAYERS), contrast.draws, images * contrast.patches, contrast.noise
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(before: list[Tensor], module: nn.Module) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small wait for each other's threads more than they compute, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


POSITIONS = torch.rand(8, 2, generator=torch.Generator().manual_seed(3))


class TestAdversaries:
    """Encoder and negative generators pull the same loss in opposite directions, each while the other stands still."""

    @staticmethod
    def infonce(made: CddganMethod, data: dict[str, Tensor], noise: Tensor) -> float:
        with torch.no_grad():
            translated = made.translators.module(data["hazy"], data["clear"], POSITIONS)
            return float(made.contrastive(translated, made.negatives.module(translated.hazy_patches, noise)))

    def test_the_encoder_descends_the_contrastive_loss(self) -> None:
        only = CddganWeights(gan=0, cycle=0, identity=0, contrastive=1)
        made, data = method(weights=only, generator_rate=2e-3), batch()
        noise = noise_for(made)
        still = weights(made.negatives.module)
        before = self.infonce(made, data, noise)
        for step in range(8):
            made._translate(data, POSITIONS, noise, step)
        assert self.infonce(made, data, noise) < 0.8 * before
        assert not any(moved(still, made.negatives.module))

    def test_the_negative_generators_climb_it(self) -> None:
        made, data = method(weights=CddganWeights(diversity=0), negative_rate=2e-3), batch()
        noise = noise_for(made)
        still = weights(made.translators.module)
        before = self.infonce(made, data, noise)
        with torch.no_grad():
            translated = made.translators.module(data["hazy"], data["clear"], POSITIONS)
        for step in range(8):
            made._oppose(translated, noise, step)
            for queue in made.queues:
                queue.content = queue.content[:0]
        assert self.infonce(made, data, noise) > 1.1 * before
        assert not any(moved(still, made.translators.module))

    def test_diversity_keeps_negatives_of_different_noise_apart(self) -> None:
        def apart(weight: float) -> float:
            made = method(weights=CddganWeights(diversity=weight), negative_rate=5e-3)
            noise = noise_for(made)
            translated = made.translators.module(batch()["hazy"], batch()["clear"], POSITIONS)
            for step in range(10):
                made._oppose(translated, noise, step)
            first, second = made.negatives.module(translated.hazy_patches, noise)[0].detach()
            return float((first - second).norm(dim=1).mean())

        assert apart(5.0) > 1.3 * apart(0.0)

    def test_the_discriminators_learn_to_tell_and_the_others_stand_still(self) -> None:
        made, data = method(discriminator_rate=5e-3), batch()
        with torch.no_grad():
            translated = made.translators.module(data["hazy"], data["clear"], POSITIONS)
        still = [weights(made.translators.module), weights(made.negatives.module)]
        losses = [made._judge(data, translated, step)["critic_clear"] for step in range(15)]
        assert losses[-1] < 0.6 * losses[0]
        assert not any(moved(still[0], made.translators.module) + moved(still[1], made.negatives.module))


class TestGradients:
    def test_a_step_moves_every_weight_of_every_player(self) -> None:
        """Without normalization: before one, a convolution's bias has no effect."""
        made = method(network={"normalization": "none"})
        before = [weights(player.module) for player in (made.translators, made.negatives, made.critics)]
        made.training_step(batch(), 0)
        for old, player in zip(before, (made.translators, made.negatives, made.critics), strict=True):
            still = [
                n
                for (n, _p), m in zip(player.module.named_parameters(), moved(old, player.module), strict=True)
                if not m
            ]
            assert still == []

    def test_the_generators_turn_leaves_no_gradients_elsewhere_nor_freezes_anything(self) -> None:
        made = method()
        made._translate(batch(), POSITIONS, noise_for(made), 0)
        for player in (made.negatives, made.critics):
            assert all(p.grad is None and p.requires_grad for p in player.module.parameters())

    def test_positives_and_what_negatives_are_made_of_carry_no_gradients(self) -> None:
        made = method()
        found = made.translators.module(batch()["hazy"], batch()["clear"], POSITIONS)
        assert not any(t.requires_grad for t in (*found.positives, *found.hazy_patches))
        assert all(t.requires_grad for t in (*found.query, found.dehazed, found.hazed))

    def test_gradients_are_clipped(self) -> None:
        made = method(clip_norm=1e-3)
        made.training_step(batch(), 0)
        for player in (made.translators, made.negatives, made.critics):
            norm = torch.cat([p.grad.flatten() for p in player.module.parameters() if p.grad is not None]).norm()
            assert float(norm) == pytest.approx(1e-3, rel=1e-3)


class TestUnpaired:
    def test_positives_come_from_clear_exemplars_only(self) -> None:
        made, one, other = method(), batch(1), batch(2)

        def translated(hazy: Tensor, clear: Tensor) -> Translated:
            found: Translated = made.translators.module(hazy, clear, POSITIONS)
            return found

        first = translated(one["hazy"], one["clear"])
        with_other_haze = translated(other["hazy"], one["clear"])
        with_other_clear = translated(one["hazy"], other["clear"])
        for layer in range(len(LAYERS)):
            assert torch.equal(first.positives[layer], with_other_haze.positives[layer])
            assert not torch.allclose(first.positives[layer], with_other_clear.positives[layer])
            assert torch.equal(first.query[layer], with_other_clear.query[layer])
            assert torch.equal(first.hazy_patches[layer], with_other_clear.hazy_patches[layer])

    def test_no_loss_knows_which_clear_image_stands_beside_which_hazy_one(self) -> None:
        """Every loss of the generators, with the clear batch in another order, is the same within rounding."""
        made, data = method(), batch(count=4)
        noise = noise_for(made, images=4)

        def losses(order: list[int]) -> dict[str, float]:
            changed = {"hazy": data["hazy"], "clear": data["clear"][order]}
            translated = made.translators.module(changed["hazy"], changed["clear"], POSITIONS)
            found = made.translation_losses(changed, translated, noise)
            scores, _hazy = made.critics.module([changed["clear"], translated.dehazed], [])
            found["critic"] = gan_losses.discriminator_gan(*scores)
            return {name: float(value.detach()) for name, value in found.items()}

        expected = losses([0, 1, 2, 3])
        assert losses([2, 0, 3, 1]) == pytest.approx(expected, rel=1e-5)
        assert losses([0, 0, 1, 1]) != pytest.approx(expected, rel=1e-3)


def saved(made: CddganMethod) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(made.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Any] = torch.load(buffer, weights_only=True)
    return state


class TestResuming:
    def test_it_is_the_same_as_not_stopping_bit_for_bit(self) -> None:
        whole, half, rest = method(), method(), method(seed=99)
        expected = [whole.training_step(batch(step), step) for step in range(8)]
        for step in range(4):
            half.training_step(batch(step), step)
        rest.load_state_dict(saved(half))
        assert [rest.training_step(batch(step), step) for step in range(4, 8)] == expected[4:]
        for one, other in zip(whole.modules, rest.modules, strict=True):
            assert not any(moved(weights(one), other))
        assert not any(moved(weights(whole.export()), rest.export()))

    @pytest.mark.parametrize("lost", ["queues", "histories", "random", "updates"])
    def test_each_part_of_the_state_matters(self, lost: str) -> None:
        half, rest = method(), method(seed=99)
        for step in range(4):
            half.training_step(batch(step), step)
        incomplete = saved(method(seed=99)) | {key: value for key, value in saved(half).items() if key != lost}
        rest.load_state_dict(incomplete)
        for step in range(4, 8):
            one, other = (made.training_step(batch(step), step) for made in (half, rest))
        assert one != other or any(moved(weights(half.export()), rest.export()))

    def test_the_queue_fills_and_keeps_its_length(self) -> None:
        made = method()
        for step, expected in enumerate((32, 40, 40)):
            made.training_step(batch(step), step)
            assert [len(queue.content) for queue in made.queues] == [expected] * len(LAYERS)


class TestStep:
    def test_the_losses_are_named_and_the_total_is_that_of_the_generators(self) -> None:
        found = method().training_step(batch(), 0)
        parts = {"gan_dehazed", "gan_hazed", "cycle", "identity", "contrastive"}
        others = {"negatives_contrastive", "diversity", "critic_clear", "critic_hazy"}
        assert set(found) == {"loss"} | parts | others
        assert found["loss"] == pytest.approx(sum(found[name] for name in parts), rel=1e-5)

    def test_half_precision_is_near_full_and_leaves_weights_and_queues_whole(self) -> None:
        full, half = method(), method(precision="bfloat16")
        exact, found = (made.training_step(batch(), 0) for made in (full, half))
        assert found["cycle"] == pytest.approx(exact["cycle"], rel=0.05)
        assert found != exact
        assert all(value.dtype == torch.float32 for value in weights(half.network))
        assert half.queues[0].content.dtype == torch.float32

    def test_without_the_identity_loss_there_is_none(self) -> None:
        assert "identity" not in method(weights=CddganWeights(identity=0)).training_step(batch(), 0)

    @pytest.mark.parametrize("domain", ["hazy", "clear"])
    def test_a_loss_that_is_not_finite_is_an_error_and_moves_nothing(self, domain: str) -> None:
        made = method()
        before = [weights(module) for module in made.modules]
        with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3; lower cddgan\.generator_rate"):
            made.training_step(batch() | {domain: torch.full((2, 3, 16, 16), float("nan"))}, 3)
        assert not any(any(moved(old, module)) for old, module in zip(before, made.modules, strict=True))

    def test_rates_stay_and_then_fall_in_a_line(self) -> None:
        made = method(steps=100, constant_share=0.5, generator_rate=1e-3)
        assert [made.rate_share(step) for step in (0, 49, 50)] == [1.0, 1.0, 50 / 51]
        assert made.rate_share(75) == pytest.approx(25 / 51)
        assert 0 < made.rate_share(99) < 0.05
        made.training_step(batch(), 75)
        assert made.translators.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 25 / 51)

    def test_the_average_of_g_is_exported(self) -> None:
        made = method(network={"skip": "scattering"}, ema=0.5)
        made.training_step(batch(), 0)
        exported = made.export()
        assert exported is not made.network
        assert not exported.training
        assert dehaze(exported, torch.rand(1, 3, 21, 13)).scene.shape == (1, 3, 21, 13)

    def test_a_layer_that_the_generator_lacks_is_named_at_once(self) -> None:
        with pytest.raises(ConfigError, match="no layer 5: take layers from 0 to 3"):
            CddganMethod(Generator(CddganConfig(width=4, blocks=1)), steps=1, config=CddganTraining())


def _rank(rank: int, folder: str) -> None:
    """One of two processes: three steps on its own data, then what it holds goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    made = method(network={"skip": "scattering"})
    fresh = CddganMethod(made.network, config=made.config, steps=20)
    fresh.configure(DistributedDataParallel)
    for step in range(3):
        fresh.training_step(batch(10 * rank + step), step)
    fresh.load_state_dict(fresh.state_dict() if rank == 0 else copy.deepcopy(fresh.state_dict()))
    fresh.training_step(batch(10 * rank + 3), 3)
    gradients = [p.grad for p in fresh.critics.module.parameters()]
    torch.save({"state": fresh.state_dict(), "gradients": gradients}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_hold_the_same_weights_and_queues(tmp_path: Path) -> None:
    """Different data on each rank; without averaged gradients the weights would part at the first step."""
    import torch.multiprocessing as mp

    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for player in ("translators", "negatives", "critics"):
        for name, value in one["state"][player]["module"].items():
            assert torch.equal(value, other["state"][player]["module"][name]), (player, name)
    assert all(torch.equal(value, other["state"]["teacher"][name]) for name, value in one["state"]["teacher"].items())
    assert all(torch.equal(a, b) for a, b in zip(one["gradients"], other["gradients"], strict=True))
    for a, b in zip(one["state"]["queues"], other["state"]["queues"], strict=True):
        assert torch.equal(a["content"], b["content"])
    assert not torch.equal(one["state"]["random"], other["state"]["random"])
    histories = [state["state"]["histories"]["clear"]["images"] for state in (one, other)]
    assert not torch.equal(*histories)
