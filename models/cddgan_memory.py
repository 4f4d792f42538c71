"""What CDD-GAN remembers between steps: a queue of negatives, and images that the generators made before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NegativeQueue:
    """First in, first out: the latest ``size`` negatives of one encoder layer, (K, D) with K up to ``size``."""

    def __init__(self, size: int, dimension: int, device: torch.device | None = None) -> None:
        self.size = size
        self.content = torch.empty(0, dimension, device=device)

    def push(self, negatives: Tensor) -> None:
        """Append (M, D) negatives; the oldest beyond ``size`` leave."""
        self.content = torch.cat([self.content.to(negatives.device), negatives.detach()])[-self.size :]

    def state_dict(self) -> dict[str, Tensor]:
        """The negatives, oldest first."""
        return {"content": self.content}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.content = state["content"].to(self.content.device)


class ImageHistory:
    """Images that a generator made, so that a discriminator does not only see the latest.

    Shrivastava et al. (CVPR 2017), 50 images in CycleGAN: until it is full an image is kept and given back; then, with
    probability 1/2, a kept one is given and replaced. Random numbers are its own.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.images: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(seed)

    def exchange(self, images: Tensor) -> Tensor:
        """N3HW -> N3HW: each image or an older one, on the same device; without gradients. ``size`` 0 gives the images
        back.
        """
        if not self.size:
            return images.detach()
        self.images = [kept.to(images.device) for kept in self.images]  # those of a checkpoint come on the CPU
        return torch.stack([self._one(image.clone()) for image in images.detach()])

    def _one(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if float(torch.rand(1, generator=self.generator)) < 0.5:
            return image
        place = int(torch.randint(self.size, (1,), generator=self.generator))
        older, self.images[place] = self.images[place], image
        return older

    def state_dict(self) -> dict[str, Any]:
        """The images (K, 3, H, W) or None when there are none yet, and the state of the random numbers."""
        return {
            "images": torch.stack(self.images) if self.images else None,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.images = [] if state["images"] is None else list(state["images"])
        self.generator.set_state(state["generator"].cpu())
