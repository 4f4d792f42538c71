"""The three players of CDD-GAN, and what moves them.

Each player is one module with one forward and one backward per turn: that is what DistributedDataParallel averages
gradients for. A player that is not to move is called by its bare module, frozen, so that the distributed wrapper
neither waits for its gradients nor sends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.networks import Cddgan, ContrastConfig, DiscriminatorConfig, PatchDiscriminator, ProjectionHeads
from pipelines.train.methods.optimization import Wrap


class Translated(NamedTuple):
    """What the generators made of a batch: images N3HW in [0, 1]; unit vectors (N * P, D) layer by layer.

    ``positives`` and ``hazy_patches`` carry no gradients; ``same_*`` are None without the identity loss.
    """

    dehazed: Tensor
    hazed: Tensor
    hazy_again: Tensor
    clear_again: Tensor
    same_clear: Tensor | None
    same_hazy: Tensor | None
    query: list[Tensor]
    positives: list[Tensor]
    hazy_patches: list[Tensor]


class Translators(nn.Module):
    """G (hazy to clear), F (clear to hazy) and the projection heads on G's encoder."""

    def __init__(self, dehazer: Cddgan, contrast: ContrastConfig, *, identity: bool) -> None:
        super().__init__()
        self.layers, self.identity = contrast.layers, identity
        self.dehazer = dehazer
        self.hazer = Cddgan(dehazer.config.model_copy(update={"direction": "haze"}))
        self.heads = ProjectionHeads([dehazer.channels(layer) for layer in self.layers], contrast.projection)

    def forward(self, hazy: Tensor, clear: Tensor, positions: Tensor) -> Translated:
        """Two unpaired batches N3HW in [0, 1] and patch positions (P, 2) in [0, 1) -> everything that losses need."""
        dehazed, hazy_features = self.dehazer.translate(hazy, self.layers)
        hazed = self.hazer(clear)
        query = self.heads(self.dehazer.encode(dehazed, self.layers), positions)
        with torch.no_grad():
            hazy_patches = self.heads(hazy_features, positions)
        return Translated(
            dehazed=dehazed,
            hazed=hazed,
            hazy_again=self.hazer(dehazed),
            clear_again=self.dehazer(hazed),
            same_clear=self.dehazer(clear) if self.identity else None,
            same_hazy=self.hazer(hazy) if self.identity else None,
            query=query,
            positives=self.exemplars(clear, positions),
            hazy_patches=hazy_patches,
        )

    @torch.no_grad()
    def exemplars(self, clear: Tensor, positions: Tensor) -> list[Tensor]:
        """The positives: projections (N * P, D) of clear photographs, which no hazy one has a part in."""
        found: list[Tensor] = self.heads(self.dehazer.encode(clear, self.layers), positions)
        return found


class Critics(nn.Module):
    """The two discriminators."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.clear, self.hazy = PatchDiscriminator(config), PatchDiscriminator(config)

    def forward(self, clear: Sequence[Tensor], hazy: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Batches N3HW of either domain -> their scores."""
        return [self.clear(images) for images in clear], [self.hazy(images) for images in hazy]


class Player:
    """A module with its distributed form and its optimizer: Adam with CycleGAN's moments, clipping, a given rate."""

    def __init__(self, module: nn.Module, rate: float, *, beta: float, clip_norm: float, wrap: Wrap) -> None:
        self.module, self.rate, self.clip_norm = module, rate, clip_norm
        self.wrapped = wrap(module)
        self.optimizer = torch.optim.Adam(module.parameters(), lr=rate, betas=(beta, 0.999))

    def step(self, loss: Tensor, *, share: float, where: str) -> None:
        """Descend along ``loss`` at ``share`` of the rate.

        Raises:
            FloatingPointError: the loss is NaN or infinite; nothing has moved then.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss.detach())} {where}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer."""
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` with gradients for what goes in but not for its weights."""
    module.requires_grad_(False)
    try:
        yield module
    finally:
        module.requires_grad_(True)
