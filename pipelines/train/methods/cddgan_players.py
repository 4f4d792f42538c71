"""The three players of CDD-GAN, and what moves them.

Each player is one module with one forward and one backward per turn: that is what DistributedDataParallel averages
gradients for. A player that is not to move is called by its bare module, frozen, so that the distributed wrapper
neither waits for its gradients nor sends them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.networks import Cddgan, ContrastConfig, DiscriminatorConfig, PatchDiscriminator, ProjectionHeads
from pipelines.train.methods.optimization import Wrap


class Translated(NamedTuple):
    """What the generators made of a batch: images N3HW in [0, 1]; unit vectors (N * P, D) layer by layer.

    ``positives``, ``exemplars`` and ``conditions`` (what negatives are made of) carry no gradients; ``same_*`` are None
    without an identity pass, ``same_query`` also without a contrast on it.
    """

    dehazed: Tensor
    hazed: Tensor
    hazy_again: Tensor
    clear_again: Tensor
    same_clear: Tensor | None
    same_hazy: Tensor | None
    query: list[Tensor]
    same_query: list[Tensor] | None
    positives: list[Tensor]
    exemplars: list[Tensor]
    conditions: list[Tensor]


class Translators(nn.Module):
    """G (hazy to clear), F (clear to hazy), the projection heads on G's encoder, and their momentum copy if it is used.

    Args:
        dehazer: G.
        contrast: what is compared.
        identity: whether G sees clear crops and F hazy ones.
    """

    def __init__(self, dehazer: Cddgan, contrast: ContrastConfig, *, identity: bool) -> None:
        super().__init__()
        self.contrast, self.layers, self.identity = contrast, contrast.layers, identity
        self.dehazer = dehazer
        self.hazer = Cddgan(dehazer.config.model_copy(update={"direction": "haze"}))
        self.heads = ProjectionHeads([dehazer.channels(layer) for layer in self.layers], contrast.projection)
        self.slow_heads = copy.deepcopy(self.heads).requires_grad_(False) if contrast.negatives == "image" else None

    def forward(self, hazy: Tensor, clear: Tensor, positions: Tensor) -> Translated:
        """Translate two unpaired batches N3HW in [0, 1] at patch positions (P, 2) in [0, 1) -> everything that losses
        need.
        """
        dehazed, hazy_features = self.dehazer.translate(hazy, self.layers)
        hazed = self.hazer(clear)
        same_clear = self.dehazer(clear) if self.identity else None
        contrasted = same_clear if self.contrast.identity else None
        exemplars = self.exemplars(clear, positions)
        return Translated(
            dehazed=dehazed,
            hazed=hazed,
            hazy_again=self.hazer(dehazed),
            clear_again=self.dehazer(hazed),
            same_clear=same_clear,
            same_hazy=self.hazer(hazy) if self.identity else None,
            query=self._patches(dehazed, positions),
            same_query=None if contrasted is None else self._patches(contrasted, positions),
            positives=exemplars if self.contrast.positives == "exemplars" else self._hazy(hazy_features, positions),
            exemplars=exemplars,
            conditions=self._conditions(hazy_features, positions),
        )

    def _patches(self, image: Tensor, positions: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.heads(self.dehazer.encode(image, self.layers), positions)
        return found

    @torch.no_grad()
    def _hazy(self, features: list[Tensor], positions: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.heads(features, positions)
        return found

    @torch.no_grad()
    def _conditions(self, features: list[Tensor], positions: Tensor) -> list[Tensor]:
        if self.slow_heads is None:
            return self._hazy(features, positions)
        return self.slow_heads.of_images(features, positions)

    @torch.no_grad()
    def exemplars(self, clear: Tensor, positions: Tensor) -> list[Tensor]:
        """Return projections (N * P, D) of clear photographs, without any part of a hazy one."""
        return self._patches(clear, positions)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the momentum copy of the heads towards them; 0 makes it equal."""
        if self.slow_heads is not None:
            for slow, live in zip(self.slow_heads.parameters(), self.heads.parameters(), strict=True):
                slow.lerp_(live, 1.0 - momentum)


class Critics(nn.Module):
    """The two discriminators."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.clear, self.hazy = PatchDiscriminator(config), PatchDiscriminator(config)

    def forward(self, clear: Sequence[Tensor], hazy: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Score batches N3HW of either domain."""
        return [self.clear(images) for images in clear], [self.hazy(images) for images in hazy]


class Player:
    """A module with its distributed form and its optimizer: Adam with CycleGAN's moments, clipping, a given rate."""

    def __init__(self, module: nn.Module, rate: float, *, beta: float, clip_norm: float | None, wrap: Wrap) -> None:
        self.module, self.rate, self.clip_norm = module, rate, clip_norm
        self.wrapped = wrap(module)
        moving = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(moving, lr=rate, betas=(beta, 0.999))

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
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizer."""
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Yield ``module`` with gradients for its inputs but not for its weights."""
    module.requires_grad_(False)
    try:
        yield module
    finally:
        module.requires_grad_(True)
