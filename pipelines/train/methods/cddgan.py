"""CDD-GAN (Chen et al., arXiv 2203.07677): dehazing from unpaired hazy and clear photographs.

A CycleGAN whose encoder also minimizes an adversarial contrastive loss. The query is a patch of the dehazed image, the
positives are patches of clear exemplars, the negatives come from negative generators, which maximize that loss in
alternation. Gradients of the contrastive loss flow through the query, not through the positives (as in CUT).

Randomness (patch positions, noise, image history) is this method's own and part of its state. With several processes
negatives are gathered, so every rank has the same queue; image histories are per rank. A checkpoint holds rank 0's
histories and random state: one process resumes bit for bit; of several, the others go on with copies and fresh streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from models import losses
from models.config import Settings
from models.ema import MeanTeacher
from models.networks import Cddgan as Generator
from models.networks import ContrastConfig, DiscriminatorConfig, ImageHistory, NegativeGenerators, NegativeQueue
from pipelines.train.methods.cddgan_players import Critics, Player, Translated, Translators, frozen
from pipelines.train.methods.optimization import Batch, Wrap, identity


class CddganWeights(Settings):
    """Weights of the losses; ``diversity`` is in the negative generators' own."""

    gan: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    identity: float = Field(5.0, ge=0)
    contrastive: float = Field(1.0, ge=0)
    diversity: float = Field(1.0, ge=0)


class CddganTraining(Settings):
    """All of CDD-GAN's training that is not the generator, the crops or the loop.

    Attributes:
        generator_rate, discriminator_rate, negative_rate: learning rates of Adam.
        beta: Adam's first moment.
        constant_share: share of the steps at the full rate; then it falls in a line to 0.
        clip_norm: longest gradient of each player.
        ema: momentum of the averaged generator that is exported.
        history: images in each discriminator's history buffer.
        precision: of the networks' forward passes, through autocast; weights, losses and queues stay float32.
    """

    weights: CddganWeights = CddganWeights()
    contrast: ContrastConfig = ContrastConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    generator_rate: float = Field(2e-4, gt=0)
    discriminator_rate: float = Field(2e-4, gt=0)
    negative_rate: float = Field(2e-4, gt=0)
    beta: float = Field(0.5, ge=0, lt=1)
    constant_share: float = Field(0.5, ge=0, le=1)
    clip_norm: float = Field(10.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    history: int = Field(50, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"


ContrastLoss = Callable[..., Tensor]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _gathered(vectors: Tensor) -> Tensor:
    """(M, D) of every rank, in the order of the ranks: (ranks * M, D)."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)


def _branch(generator: torch.Generator, rank: int) -> None:
    """Give every rank but the first a stream of its own."""
    if rank:
        generator.manual_seed(int(torch.randint(2**40, (1,), generator=generator)) + rank)


class CddganMethod:
    """Generators, negative generators and discriminators, in turn."""

    def __init__(
        self,
        network: Generator,
        *,
        config: CddganTraining | None = None,
        steps: int,
        seed: int = 0,
        pretrained: bool = False,
    ) -> None:
        self.config, self.steps, self.pretrained = config or CddganTraining(), steps, pretrained
        contrast, device = self.config.contrast, next(network.parameters()).device
        self.network = network
        modules = (
            Translators(network, contrast, identity=self.config.weights.identity > 0),
            NegativeGenerators(len(contrast.layers), contrast),
            Critics(self.config.discriminator),
        )
        self.modules: tuple[nn.Module, ...] = modules
        for module in self.modules:
            module.to(device).to(memory_format=torch.channels_last)
        self.queues = [NegativeQueue(contrast.queue, contrast.projection, device) for _ in contrast.layers]
        self.random = torch.Generator().manual_seed(seed)
        self.histories = {"clear": ImageHistory(self.config.history, seed + 1)}
        self.histories["hazy"] = ImageHistory(self.config.history, seed + 2)
        self.translators: Player
        self.negatives: Player
        self.critics: Player
        self.teacher: MeanTeacher

    def configure(self, wrap: Wrap = identity) -> None:
        """Make optimizers and the averaged generator, and give each rank its random stream."""
        config = self.config
        rates = (config.generator_rate, config.negative_rate, config.discriminator_rate)
        self.translators, self.negatives, self.critics = (
            Player(module, rate, beta=config.beta, clip_norm=config.clip_norm, wrap=wrap)
            for module, rate in zip(self.modules, rates, strict=True)
        )
        self.teacher = MeanTeacher(self.network, config.ema, warm_up=not self.pretrained)
        self._branch()

    def _branch(self) -> None:
        for generator in (self.random, *(history.generator for history in self.histories.values())):
            _branch(generator, _rank())

    def rate_share(self, step: int) -> float:
        """Share of the learning rates at ``step``: 1, then in a line towards 0 (CycleGAN's schedule)."""
        start = self.config.constant_share * self.steps
        return 1.0 if step < start else max(0.0, (self.steps - step) / (self.steps - start + 1))

    def training_step(self, batch: Batch, step: int) -> dict[str, float]:
        """``hazy`` and ``clear`` N3HW in [0, 1], unpaired -> losses.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        device = batch["hazy"].device
        contrast, images = self.config.contrast, len(batch["hazy"])
        positions = torch.rand(contrast.patches, 2, generator=self.random).to(device)
        shape = len(contrast.layers), contrast.draws, images * contrast.patches, contrast.noise
        noise = torch.randn(shape, generator=self.random).to(device)
        made, found = self._translate(batch, positions, noise, step)
        found |= self._oppose(made, noise, step)
        return found | self._judge(batch, made, step)

    def contrastive(
        self, made: Translated, fresh: list[Tensor], loss: ContrastLoss = losses.adversarial_contrastive
    ) -> Tensor:
        """``loss`` against the queue and ``fresh`` negatives (draws, M, D), the mean over the layers."""
        temperature = self.config.contrast.temperature
        parts = [
            loss(query, positives, torch.cat([queue.content, negatives.flatten(0, 1)]), temperature=temperature)
            for query, positives, queue, negatives in zip(made.query, made.positives, self.queues, fresh, strict=True)
        ]
        return torch.stack(parts).mean()

    def translation_losses(self, batch: Batch, made: Translated, noise: Tensor) -> dict[str, Tensor]:
        """Weighted losses of generators and projections; discriminators and negative generators stand still."""
        weights = self.config.weights
        with frozen(self.critics.module) as critics:
            (clear,), (hazy,) = self._run(critics, [made.dehazed], [made.hazed])
        with torch.no_grad():
            fresh = self._run(self.negatives.module, made.hazy_patches, noise)
        cycles = losses.cycle(made.hazy_again, batch["hazy"]) + losses.cycle(made.clear_again, batch["clear"])
        parts = {
            "gan_dehazed": weights.gan * losses.generator_gan(clear),
            "gan_hazed": weights.gan * losses.generator_gan(hazy),
            "cycle": weights.cycle * cycles,
            "contrastive": weights.contrastive * self.contrastive(made, fresh),
        }
        if made.same_clear is not None and made.same_hazy is not None:
            same = losses.identity(made.same_clear, batch["clear"])
            same = same + losses.identity(made.same_hazy, batch["hazy"])
            parts["identity"] = weights.identity * same
        return parts

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        """A forward pass in the precision asked for; what comes out is float32."""
        device = next(module.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            out = module(*inputs)
        return tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) else leaf, out)

    def _translate(
        self, batch: Batch, positions: Tensor, noise: Tensor, step: int
    ) -> tuple[Translated, dict[str, float]]:
        """The generators' turn: they and the projections minimize."""
        made = self._run(self.translators.wrapped, batch["hazy"], batch["clear"], positions)
        parts = self.translation_losses(batch, made, noise)
        total = torch.stack(list(parts.values())).sum()
        where = f"at step {step}; lower cddgan.generator_rate"
        self.translators.step(total, share=self.rate_share(step), where=where)
        self.teacher.update(self.network)
        return made, {"loss": float(total.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def _oppose(self, made: Translated, noise: Tensor, step: int) -> dict[str, float]:
        """The negative generators' turn: they maximize what the encoder minimizes, and keep apart."""
        made = made._replace(query=[query.detach() for query in made.query])
        fresh = self._run(self.negatives.wrapped, made.hazy_patches, noise)
        contrastive = self.contrastive(made, fresh, losses.negatives_contrastive)
        pairs = [losses.diversity(vectors[0], vectors[1], z[0], z[1]) for vectors, z in zip(fresh, noise, strict=True)]
        diversity = self.config.weights.diversity * torch.stack(pairs).mean()
        where = f"at step {step}; lower cddgan.negative_rate"
        self.negatives.step(diversity + contrastive, share=self.rate_share(step), where=where)
        for queue, vectors in zip(self.queues, fresh, strict=True):
            queue.push(_gathered(vectors.detach().flatten(0, 1)))
        return {"negatives_contrastive": float(contrastive.detach()), "diversity": float(diversity.detach())}

    def _judge(self, batch: Batch, made: Translated, step: int) -> dict[str, float]:
        """The discriminators' turn, on images of now and before."""
        dehazed = self.histories["clear"].exchange(made.dehazed)
        hazed = self.histories["hazy"].exchange(made.hazed)
        clear, hazy = self._run(self.critics.wrapped, [batch["clear"], dehazed], [batch["hazy"], hazed])
        parts = {
            "critic_clear": losses.discriminator_gan(*clear),
            "critic_hazy": losses.discriminator_gan(*hazy),
        }
        where = f"at step {step}; lower cddgan.discriminator_rate"
        self.critics.step(torch.stack(list(parts.values())).sum(), share=self.rate_share(step), where=where)
        return {name: float(part.detach()) for name, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """All players, the averaged generator, queues, histories and the state of the random numbers."""
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
        """The averaged G: hazy to clear."""
        return self.teacher.network
