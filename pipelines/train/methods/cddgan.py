"""CDD-GAN (Chen et al., arXiv 2203.07677): dehazing from unpaired hazy and clear photographs.

A CycleGAN whose encoder also minimizes an adversarial contrastive loss. The query is a patch of the dehazed image, the
positives are patches of clear exemplars, the negatives come from negative generators, which maximize that loss in
alternation. Gradients of the contrastive loss flow through the query, not through the positives (as in CUT). Where the
paper is silent the choices are those of NEGCUT (Wang et al., ICCV 2021): the turns are those of the discriminators, of
the negative generators, and of the generators.

Randomness (patch positions, noise, image history) is this method's own and part of its state. With several processes
negatives are gathered, so every rank has the same queue; image histories are per rank. A checkpoint holds rank 0's
histories and random state: one process resumes bit for bit; of several, the others go on with copies and fresh streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from models import losses
from models.ema import MeanTeacher
from models.networks import Cddgan as Generator
from models.networks import ImageHistory, NegativeGenerators, NegativeQueue, initialize
from pipelines.train.methods.cddgan_config import CddganTraining
from pipelines.train.methods.cddgan_diagnosis import gradient_norms, similarities
from pipelines.train.methods.cddgan_players import Critics, Player, Translated, Translators, frozen
from pipelines.train.methods.optimization import Batch, Wrap, identity

ContrastLoss = Callable[..., Tensor]


def _ranks() -> tuple[int, int]:
    """Rank of this process, number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _gathered(vectors: Tensor) -> Tensor:
    """(M, D) of every rank, in the order of the ranks: (ranks * M, D)."""
    _, count = _ranks()
    if count == 1:
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(count)]
    dist.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)


class CddganMethod:
    """Discriminators, negative generators and generators, in turn.

    Args:
        network: G.
        config: see there.
        steps: of the whole run, for the rates.
        seed: of this method's random numbers.
        pretrained: G has good weights already: they are not drawn anew, and its average needs no warm-up.
        wrap: makes a module distributed.
    """

    def __init__(
        self,
        network: Generator,
        *,
        config: CddganTraining,
        steps: int,
        seed: int = 0,
        pretrained: bool = False,
        wrap: Wrap = identity,
    ) -> None:
        self.config, self.steps = config, steps
        contrast, device = config.contrast, next(network.parameters()).device
        self.network = network
        identity_pass = config.weights.identity > 0 or contrast.identity
        translators = Translators(network, contrast, identity=identity_pass)
        negatives, critics = NegativeGenerators(len(contrast.layers), contrast), Critics(config.discriminator)
        self.modules = (translators, negatives, critics)
        if config.init_gain is not None:
            drawn = [*([] if pretrained else [network]), translators.hazer, translators.heads, critics]
            for module in drawn:
                initialize(module, config.init_gain)
            translators.follow(0.0)
        for module in self.modules:
            module.to(device).to(memory_format=torch.channels_last)
        self.queues = [NegativeQueue(contrast.queue, contrast.projection, device) for _ in contrast.layers]
        self.random = torch.Generator().manual_seed(seed)
        self.histories = {name: ImageHistory(config.history, seed + k) for k, name in enumerate(("clear", "hazy"), 1)}
        rates = (config.generator_rate, config.negative_rate, config.discriminator_rate)
        self.translators, self.negatives, self.critics = (
            Player(module, rate, beta=config.beta, clip_norm=config.clip_norm, wrap=wrap)
            for module, rate in zip(self.modules, rates, strict=True)
        )
        self.teacher = MeanTeacher(network, config.ema, warm_up=not pretrained)
        self._branch()

    def _branch(self) -> None:
        """Give every rank but the first streams of its own."""
        rank, _ = _ranks()
        if not rank:
            return
        for generator in (self.random, *(history.generator for history in self.histories.values())):
            generator.manual_seed(int(torch.randint(2**40, (1,), generator=generator)) + rank)

    def rate_share(self, step: int) -> float:
        """Return the share of the learning rates at ``step``: 1, then in a line towards 0 (CycleGAN's schedule)."""
        start = self.config.constant_share * self.steps
        return 1.0 if step < start else max(0.0, (self.steps - step) / (self.steps - start + 1))

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take a step on ``hazy`` and ``clear`` N3HW in [0, 1], unpaired -> losses.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        device = batch["hazy"].device
        contrast, images = self.config.contrast, len(batch["hazy"])
        positions = torch.rand(contrast.patches, 2, generator=self.random).to(device)
        shape = len(contrast.layers), contrast.draws, images * contrast.patches, contrast.noise
        noise = torch.randn(shape, generator=self.random).to(device)
        made = self._run(self.translators.wrapped, batch["hazy"], batch["clear"], positions)
        if not torch.isfinite(made.dehazed.sum() + made.hazed.sum()):
            raise FloatingPointError(
                f"the generators' images are not finite at step {step}; lower cddgan.generator_rate"
            )
        found = self._judge(batch, made, step) | self._oppose(made, noise, step)
        return self._translate(batch, made, noise, step) | found

    def contrasts(
        self, made: Translated, fresh: list[Tensor], loss: ContrastLoss = losses.adversarial_contrastive
    ) -> dict[str, Tensor]:
        """Return ``loss`` against the queue and ``fresh`` negatives (draws, M, D), the mean over the layers; for
        dehazed crops and, where there is one, for the identity pass. The mean of the two enters the objective.
        """
        contrast = self.config.contrast
        sides = {"contrastive": (made.query, made.positives)}
        if made.same_query is not None:
            sides["contrastive_identity"] = (made.same_query, made.exemplars)
        options: Any = {"temperature": contrast.temperature, "partners": contrast.positives == "same_place"}
        negatives = self._against(fresh)
        return {
            name: torch.stack([loss(*layer, **options) for layer in zip(*side, negatives, strict=True)]).mean()
            for name, side in sides.items()
        }

    def _against(self, fresh: list[Tensor]) -> list[Tensor]:
        """Return all negatives of each layer, (K, D)."""
        return [torch.cat([q.content, made.flatten(0, 1)]) for q, made in zip(self.queues, fresh, strict=True)]

    def translation_losses(self, batch: Batch, made: Translated, fresh: list[Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of generators and projections; discriminators and negative generators stand
        still.
        """
        weights = self.config.weights
        with frozen(self.critics.module) as critics:
            (clear,), (hazy,) = self._run(critics, [made.dehazed], [made.hazed])
        cycles = losses.cycle(made.hazy_again, batch["hazy"]) + losses.cycle(made.clear_again, batch["clear"])
        parts = {
            "gan_dehazed": weights.gan * losses.generator_gan(clear),
            "gan_hazed": weights.gan * losses.generator_gan(hazy),
            "cycle": weights.cycle * cycles,
        }
        contrasts = self.contrasts(made, fresh)
        parts |= {name: weights.contrastive / len(contrasts) * part for name, part in contrasts.items()}
        if weights.identity and made.same_clear is not None and made.same_hazy is not None:
            same = losses.identity(made.same_clear, batch["clear"])
            same = same + losses.identity(made.same_hazy, batch["hazy"])
            parts["identity"] = weights.identity * same
        return parts

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        """Run a forward pass in the precision asked for; the outputs are float32."""
        device = next(module.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            out = module(*inputs)
        return tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) else leaf, out)

    def _translate(self, batch: Batch, made: Translated, noise: Tensor, step: int) -> dict[str, float]:
        """Take the generators' turn: they and the projections minimize; then the negatives of this step join the
        queue.
        """
        with torch.no_grad():
            fresh = self._run(self.negatives.module, made.conditions, noise)
        parts = self.translation_losses(batch, made, fresh)
        total = torch.stack(list(parts.values())).sum()
        found = {"loss": float(total.detach()), **{name: float(part.detach()) for name, part in parts.items()}}
        found |= self._diagnosis(parts, made, fresh, step)
        share, where = self.rate_share(step), f"at step {step}; lower cddgan.generator_rate"
        found["learning_rate"] = self.config.generator_rate * share
        self.translators.step(total, share=share, where=where)
        self.modules[0].follow(self.config.contrast.momentum)
        self.teacher.update(self.network)
        for queue, vectors in zip(self.queues, fresh, strict=True):
            queue.push(_gathered(vectors.flatten(0, 1)))
        return found

    def _diagnosis(
        self, parts: dict[str, Tensor], made: Translated, fresh: list[Tensor], step: int
    ) -> dict[str, float]:
        """Return the likeness of a query to positives and negatives; now and then also the losses' gradients at the
        encoder.
        """
        every, partners = self.config.diagnose_every, self.config.contrast.positives == "same_place"
        found = similarities(made, self._against(fresh), partners=partners)
        if every and (step + 1) % every == 0:
            found |= gradient_norms(parts, list(self.network.encoder.parameters()))
        return found

    def _oppose(self, made: Translated, noise: Tensor, step: int) -> dict[str, float]:
        """Take the negative generators' turn: they maximize the encoder's objective, and keep apart."""
        same = made.same_query
        made = made._replace(
            query=[query.detach() for query in made.query],
            same_query=None if same is None else [query.detach() for query in same],
        )
        fresh = self._run(self.negatives.wrapped, made.conditions, noise)
        contrasts = self.contrasts(made, fresh, losses.negatives_contrastive)
        contrastive = torch.stack(list(contrasts.values())).mean()
        pairs = [losses.diversity(vectors[0], vectors[1], z[0], z[1]) for vectors, z in zip(fresh, noise, strict=True)]
        diversity = self.config.weights.diversity * torch.stack(pairs).mean()
        where = f"at step {step}; lower cddgan.negative_rate"
        self.negatives.step(diversity + contrastive, share=self.rate_share(step), where=where)
        return {"negatives_contrastive": float(contrastive.detach()), "diversity": float(diversity.detach())}

    def _judge(self, batch: Batch, made: Translated, step: int) -> dict[str, float]:
        """Take the discriminators' turn, on images of now and before."""
        dehazed = self.histories["clear"].exchange(made.dehazed)
        hazed = self.histories["hazy"].exchange(made.hazed)
        clear, hazy = self._run(self.critics.wrapped, [batch["clear"], dehazed], [batch["hazy"], hazed])
        parts = {"critic_clear": losses.discriminator_gan(*clear), "critic_hazy": losses.discriminator_gan(*hazy)}
        where = f"at step {step}; lower cddgan.discriminator_rate"
        self.critics.step(torch.stack(list(parts.values())).sum(), share=self.rate_share(step), where=where)
        return {name: float(part.detach()) for name, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all players, the averaged generator, queues, histories and the state of the random numbers."""
        return {
            "translators": self.translators.state_dict(),
            "negatives": self.negatives.state_dict(),
            "critics": self.critics.state_dict(),
            "teacher": self.teacher.network.state_dict(),
            "updates": self.teacher.updates,
            "queues": [queue.state_dict() for queue in self.queues],
            "histories": {name: history.state_dict() for name, history in self.histories.items()},
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; ranks but the first branch off into random streams of their own."""
        for name in ("translators", "negatives", "critics"):
            getattr(self, name).load_state_dict(state[name])
        self.teacher.network.load_state_dict(state["teacher"])
        self.teacher.updates = int(state["updates"])
        for queue, kept in zip(self.queues, state["queues"], strict=True):
            queue.load_state_dict(kept)
        for name, history in self.histories.items():
            history.load_state_dict(state["histories"][name])
        self.random.set_state(state["random"].cpu())
        self._branch()

    def export(self) -> nn.Module:
        """Return the averaged G: hazy to clear."""
        return self.teacher.network
