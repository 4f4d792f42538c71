"""CDD-GAN's training: who moves by what, no pairing, exact resuming, and the same weights on every rank."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config import ConfigError
from models.inference.dehazing import dehaze
from models.losses import adversarial as gan_losses
from models.networks.cddgan import Cddgan as Generator
from models.networks.cddgan import CddganConfig
from models.networks.cddgan_parts import ContrastConfig, DiscriminatorConfig, sample_patches
from pipelines.train.methods.cddgan import CddganMethod
from pipelines.train.methods.cddgan_config import CddganTraining, CddganWeights
from pipelines.train.methods.cddgan_diagnosis import gradient_norms, similarities
from pipelines.train.methods.cddgan_players import Translated

LAYERS = (0, 2, 3)
PATCH = {"negatives": "patch", "identity": False}
SAME_PLACE = {"positives": "same_place"}
VARIANTS = [{}, PATCH, SAME_PLACE, {"queue": 0}]


def batch(seed: int = 0, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(count, 3, 16, 16, generator=generator)
    return {"clear": clear, "hazy": torch.rand(count, 3, 16, 16, generator=generator) * 0.4 + 0.5}


SMALL = {"layers": LAYERS, "patches": 8, "projection": 8, "noise": 4, "draws": 2, "queue": 40}


def method(
    steps: int = 20,
    *,
    seed: int = 0,
    network: dict[str, Any] | None = None,
    contrast: dict[str, Any] | None = None,
    **options: Any,
) -> CddganMethod:
    torch.manual_seed(0)
    config = CddganTraining(
        contrast=ContrastConfig(**(SMALL | (contrast or {}))),
        discriminator=DiscriminatorConfig(width=4, layers=1),
        **({"history": 3, "ema": 0.9} | options),
    )
    return CddganMethod(
        Generator(CddganConfig(**{"width": 4, "blocks": 1} | (network or {}))), config=config, steps=steps, seed=seed
    )


def noise_for(made: CddganMethod, images: int = 2, seed: int = 5) -> Tensor:
    contrast = made.config.contrast
    shape = len(LAYERS), contrast.draws, images * contrast.patches, contrast.noise
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(before: list[Tensor], module: nn.Module) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]


POSITIONS = torch.rand(8, 2, generator=torch.Generator().manual_seed(3))


def translated(made: CddganMethod, data: dict[str, Tensor]) -> Translated:
    found: Translated = made.translators.module(data["hazy"], data["clear"], POSITIONS)
    return found


def forget(made: CddganMethod) -> None:
    for queue in made.queues:
        queue.content = queue.content[:0]


class TestAdversaries:
    """Encoder and negative generators pull the same loss in opposite directions, each while the other stands still."""

    @staticmethod
    def infonce(made: CddganMethod, data: dict[str, Tensor], noise: Tensor) -> float:
        with torch.no_grad():
            found = translated(made, data)
            parts = made.contrasts(found, made.negatives.module(found.conditions, noise))
            return float(sum(parts.values())) / len(parts)

    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_the_encoder_descends_the_contrastive_loss(self, variant: dict[str, Any]) -> None:
        only = CddganWeights(gan=0, cycle=0, identity=0, contrastive=1)
        made, data = method(weights=only, generator_rate=2e-3, init_gain=None, contrast=variant), batch()
        noise = noise_for(made)
        still = weights(made.negatives.module)
        before = self.infonce(made, data, noise)
        for step in range(8):
            made._translate(data, translated(made, data), noise, step)
            forget(made)
        assert self.infonce(made, data, noise) < 0.8 * before
        assert not any(moved(still, made.negatives.module))

    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_the_negative_generators_climb_it(self, variant: dict[str, Any]) -> None:
        weighed = CddganWeights(diversity=0)
        made, data = method(weights=weighed, negative_rate=2e-3, init_gain=None, contrast=variant), batch()
        noise = noise_for(made)
        still = weights(made.translators.module)
        before = self.infonce(made, data, noise)
        with torch.no_grad():
            found = translated(made, data)
        for step in range(8):
            made._oppose(found, noise, step)
        assert self.infonce(made, data, noise) > 1.1 * before
        assert not any(moved(still, made.translators.module))

    def test_diversity_keeps_negatives_of_different_noise_apart(self) -> None:
        def apart(weight: float) -> float:
            weighed = CddganWeights(diversity=weight)
            made = method(weights=weighed, negative_rate=5e-3, init_gain=None)
            noise, found = noise_for(made), translated(made, batch())
            for step in range(20):
                made._oppose(found, noise, step)
            first, second = made.negatives.module(found.conditions, noise)[0].detach()
            return float((first - second).norm(dim=1).mean())

        assert apart(5.0) > 1.3 * apart(0.0)

    def test_the_discriminators_learn_to_tell_and_the_others_stand_still(self) -> None:
        made, data = method(discriminator_rate=5e-3), batch()
        with torch.no_grad():
            found = translated(made, data)
        still = [weights(made.translators.module), weights(made.negatives.module)]
        losses = [made._judge(data, found, step)["critic_clear"] for step in range(15)]
        assert losses[-1] < 0.6 * losses[0]
        assert not any(moved(still[0], made.translators.module) + moved(still[1], made.negatives.module))


class TestGradients:
    def test_a_step_moves_every_weight_of_every_player(self) -> None:
        """Without normalization: before one, a convolution's bias has no effect."""
        made = method(network={"normalization": "none"}, init_gain=None)
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
        made._translate(batch(), translated(made, batch()), noise_for(made), 0)
        for player in (made.negatives, made.critics):
            assert all(p.grad is None and p.requires_grad for p in player.module.parameters())

    def test_positives_and_what_negatives_are_made_of_carry_no_gradients(self) -> None:
        made = method()
        found = translated(made, batch())
        assert not any(t.requires_grad for t in (*found.positives, *found.exemplars, *found.conditions))
        assert found.same_query is not None
        assert all(t.requires_grad for t in (*found.query, *found.same_query, found.dehazed, found.hazed))

    def test_gradients_are_clipped(self) -> None:
        made = method(clip_norm=1e-3)
        made.training_step(batch(), 0)
        for player in (made.translators, made.negatives, made.critics):
            norm = torch.cat([p.grad.flatten() for p in player.module.parameters() if p.grad is not None]).norm()
            assert float(norm) == pytest.approx(1e-3, rel=1e-3)
        assert method().config.clip_norm is None

    def test_the_turns_are_those_of_discriminators_negative_generators_and_generators(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, turns = method(), []
        for name in ("translators", "negatives", "critics"):
            player = getattr(made, name)
            monkeypatch.setattr(player, "step", lambda *_, name=name, **__: turns.append(name))
        made.training_step(batch(), 0)
        assert turns == ["critics", "negatives", "translators"]


class TestConditions:
    """What negatives are made of."""

    def test_the_mean_over_an_image_goes_through_the_momentum_copy(self) -> None:
        made, data = method(), batch()
        found = translated(made, data)
        for layer, (head, feature) in enumerate(
            zip(made.modules[0].slow_heads.heads, made.network.encode(data["hazy"], LAYERS), strict=True)
        ):
            mean = torch.stack([sample_patches(one[None], POSITIONS).mean(0) for one in feature])
            expected = F.normalize(head(mean), dim=1).repeat_interleave(len(POSITIONS), 0)
            assert torch.allclose(found.conditions[layer], expected, atol=1e-6)
        with torch.no_grad():
            for p in made.modules[0].heads.parameters():
                p.add_(torch.randn_like(p))
        later = translated(made, data)
        assert all(torch.equal(a, b) for a, b in zip(found.conditions, later.conditions, strict=True))
        assert not any(torch.allclose(a, b) for a, b in zip(found.query, later.query, strict=True))

    def test_the_copy_starts_equal_and_follows_by_its_momentum(self) -> None:
        made = method(contrast={"momentum": 0.75}, generator_rate=1e-2)
        slow, live = made.modules[0].slow_heads, made.modules[0].heads
        before = weights(slow)
        assert not any(moved(before, live))
        made.training_step(batch(), 0)
        for old, now, target in zip(before, slow.parameters(), live.parameters(), strict=True):
            assert torch.allclose(now, 0.75 * old + 0.25 * target, atol=1e-7)
            assert now.grad is None

    def test_the_variant_takes_each_patch_through_the_head_itself(self) -> None:
        made, data = method(contrast=PATCH), batch()
        assert made.modules[0].slow_heads is None
        found = translated(made, data)
        expected = made.modules[0].heads(made.network.encode(data["hazy"], LAYERS), POSITIONS)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.conditions, expected, strict=True))


class TestPositives:
    def test_of_the_same_place_are_the_hazy_patches_under_the_queries(self) -> None:
        made, data = method(contrast=SAME_PLACE), batch()
        found = translated(made, data)
        expected = made.modules[0].heads(made.network.encode(data["hazy"], LAYERS), POSITIONS)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.positives, expected, strict=True))

    @pytest.mark.parametrize(("variant", "same"), [({}, True), (SAME_PLACE, False)], ids=["exemplars", "same_place"])
    def test_have_an_order_only_where_they_are_of_the_same_place(self, variant: dict[str, Any], same: bool) -> None:
        made = method(contrast=variant)
        found = translated(made, batch())
        fresh = made.negatives.module(found.conditions, noise_for(made))
        mixed = found._replace(positives=[p.flip(0) for p in found.positives])
        one, other = (float(made.contrasts(t, fresh)["contrastive"].detach()) for t in (found, mixed))
        assert (other == pytest.approx(one, rel=1e-5)) is same

    def test_the_identity_pass_is_drawn_to_its_own_clear_crops_with_half_of_the_weight(self) -> None:
        made, data = method(weights=CddganWeights(contrastive=3)), batch()
        found = translated(made, data)
        fresh = made.negatives.module(found.conditions, noise_for(made))
        assert found.same_clear is not None
        query = made.modules[0].heads(made.network.encode(found.same_clear, LAYERS), POSITIONS)
        swapped = made.contrasts(found._replace(query=query, positives=found.exemplars), fresh)["contrastive"]
        parts = made.translation_losses(data, found, fresh)
        assert float(parts["contrastive_identity"].detach()) == pytest.approx(1.5 * float(swapped.detach()), rel=1e-4)
        alone = made.contrasts(found, fresh)["contrastive"]
        assert float(parts["contrastive"].detach()) == pytest.approx(1.5 * float(alone.detach()), rel=1e-4)

    @pytest.mark.parametrize(("weight", "contrasted"), [(0.0, True), (1.0, False), (0.0, False)])
    def test_the_identity_pass_serves_two_losses(self, weight: float, contrasted: bool) -> None:
        made = method(weights=CddganWeights(identity=weight), contrast={"identity": contrasted})
        found = made.training_step(batch(), 0)
        assert ("identity" in found, "contrastive_identity" in found) == (weight > 0, contrasted)


class TestInitialization:
    @staticmethod
    def is_xavier(module: nn.Module) -> bool:
        layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        for part in layers:
            area = part.weight[0, 0].numel()
            fan = area * (part.weight.shape[0] + part.weight.shape[1])
            std = 0.02 * (2 / fan) ** 0.5
            if part.bias is None or bool(part.bias.any()) or not 0.5 < float(part.weight.detach().std()) / std < 2:
                return False
        return True

    def test_all_networks_start_as_published(self) -> None:
        made = method()
        assert [self.is_xavier(module) for module in made.modules] == [True, False, True]
        assert not any(self.is_xavier(module) for module in method(init_gain=None).modules)

    def test_a_skip_still_starts_at_the_identity(self) -> None:
        made = method(network={"skip": "add"})
        image = torch.rand(1, 3, 16, 16)
        assert torch.allclose(made.network(image), image)
        assert not bool(made.modules[0].hazer.output.weight.any())

    def test_a_generator_that_is_given_stays(self) -> None:
        network = Generator(CddganConfig(width=4, blocks=1))
        before = weights(network)
        config = CddganTraining(contrast=ContrastConfig(**SMALL))
        made = CddganMethod(network, config=config, steps=1, pretrained=True)
        assert not any(moved(before, made.network))
        assert self.is_xavier(made.modules[0].hazer)


class TestUnpaired:
    def test_positives_come_from_clear_exemplars_only(self) -> None:
        made, one, other = method(), batch(1), batch(2)

        first = translated(made, one)
        with_other_haze = translated(made, one | {"hazy": other["hazy"]})
        with_other_clear = translated(made, one | {"clear": other["clear"]})
        for layer in range(len(LAYERS)):
            assert torch.equal(first.positives[layer], with_other_haze.positives[layer])
            assert not torch.allclose(first.positives[layer], with_other_clear.positives[layer])
            assert torch.equal(first.query[layer], with_other_clear.query[layer])
            assert torch.equal(first.conditions[layer], with_other_clear.conditions[layer])

    def test_no_loss_knows_which_clear_image_stands_beside_which_hazy_one(self) -> None:
        """Every loss of the generators, with the clear batch in another order, is the same within rounding."""
        made, data = method(init_gain=None), batch(count=4)
        noise = noise_for(made, images=4)

        def losses(order: list[int]) -> dict[str, float]:
            changed = {"hazy": data["hazy"], "clear": data["clear"][order]}
            drawn = translated(made, changed)
            found = made.translation_losses(changed, drawn, made.negatives.module(drawn.conditions, noise))
            scores, _hazy = made.critics.module([changed["clear"], drawn.dehazed], [])
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
    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_it_is_the_same_as_not_stopping_bit_for_bit(self, variant: dict[str, Any]) -> None:
        whole, half, rest = (method(seed=seed, contrast=variant) for seed in (0, 0, 99))
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

    def test_the_momentum_copy_is_part_of_it(self) -> None:
        made, other = method(), method()
        for one in (made, other):
            one.training_step(batch(), 0)
        state = saved(made)
        module = state["translators"]["module"]
        state["translators"]["module"] = module | {
            name: module[name.removeprefix("slow_")] for name in module if name.startswith("slow_heads")
        }
        other.load_state_dict(state)
        assert made.training_step(batch(1), 1) != other.training_step(batch(1), 1)

    @pytest.mark.parametrize(("size", "lengths"), [(40, (32, 40, 40)), (0, (0, 0, 0))])
    def test_the_queue_fills_and_keeps_its_length(self, size: int, lengths: tuple[int, ...]) -> None:
        made = method(contrast={"queue": size})
        for step, expected in enumerate(lengths):
            made.training_step(batch(step), step)
            assert [len(queue.content) for queue in made.queues] == [expected] * len(LAYERS)


class TestStep:
    def test_the_losses_are_named_and_the_total_is_that_of_the_generators(self) -> None:
        found = method().training_step(batch(), 0)
        parts = {"gan_dehazed", "gan_hazed", "cycle", "identity", "contrastive", "contrastive_identity"}
        others = {"negatives_contrastive", "diversity", "critic_clear", "critic_hazy"}
        others |= {"similarity_positives", "similarity_negatives"}
        assert set(found) == {"loss", "learning_rate"} | parts | others
        assert found["learning_rate"] == method().config.generator_rate
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
        with pytest.raises(FloatingPointError, match=r"images are not finite at step 3; lower cddgan\.generator_rate"):
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


class TestDiagnosis:
    def test_similarities_are_mean_cosines_over_layers(self) -> None:
        for variant, partners in (({}, False), (SAME_PLACE, True)):
            found = translated(method(contrast=variant), batch())
            negatives = [F.normalize(torch.randn(5, 8), dim=1) for _ in LAYERS]
            cosines = [q @ p.T for q, p in zip(found.query, found.positives, strict=True)]
            alike = [float((c.diagonal() if partners else c).mean().detach()) for c in cosines]
            unlike = [float((q @ n.T).mean().detach()) for q, n in zip(found.query, negatives, strict=True)]
            shown = similarities(found, negatives, partners=partners)
            assert shown["similarity_positives"] == pytest.approx(sum(alike) / len(alike), abs=1e-5)
            assert shown["similarity_negatives"] == pytest.approx(sum(unlike) / len(unlike), abs=1e-5)

    def test_gradients_are_each_loss_s_own_at_the_encoder(self) -> None:
        made, data = method(diagnose_every=2), batch()
        assert not any(name.startswith("gradient") for name in made.training_step(data, 0))
        shown = made.training_step(data, 1)
        assert {name for name in shown if name.startswith("gradient")} == {
            f"gradient_{name}" for name in ("gan", "cycle", "contrastive", "identity")
        }
        made.translators.optimizer.zero_grad()
        found = translated(made, data)
        parts = made.translation_losses(data, found, made.negatives.module(found.conditions, noise_for(made)))
        norms = gradient_norms(parts, list(made.network.encoder.parameters()))
        (parts["contrastive"] + parts["contrastive_identity"]).backward()  # type: ignore[no-untyped-call]
        own = torch.cat([p.grad.flatten() for p in made.network.encoder.parameters() if p.grad is not None]).norm()
        assert norms["gradient_contrastive"] == pytest.approx(float(own), rel=1e-4)

    def test_looking_changes_nothing(self) -> None:
        looked, blind = method(diagnose_every=1), method(diagnose_every=0)
        for made in (looked, blind):
            for step in range(3):
                made.training_step(batch(step), step)
        assert not any(moved(weights(looked.modules[0]), blind.modules[0]))


def _rank(rank: int, folder: str) -> None:
    """One of two processes: three steps on its own data, then what it holds goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    made = method(network={"skip": "scattering"})
    fresh = CddganMethod(made.network, config=made.config, steps=20, wrap=DistributedDataParallel)
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
        assert player != "translators" or any(n.startswith("slow_heads") for n in one["state"][player]["module"])
        for name, value in one["state"][player]["module"].items():
            assert torch.equal(value, other["state"][player]["module"][name]), (player, name)
    assert all(torch.equal(value, other["state"]["teacher"][name]) for name, value in one["state"]["teacher"].items())
    assert all(torch.equal(a, b) for a, b in zip(one["gradients"], other["gradients"], strict=True))
    for a, b in zip(one["state"]["queues"], other["state"]["queues"], strict=True):
        assert torch.equal(a["content"], b["content"])
    assert not torch.equal(one["state"]["random"], other["state"]["random"])
    histories = [state["state"]["histories"]["clear"]["images"] for state in (one, other)]
    assert not torch.equal(*histories)
