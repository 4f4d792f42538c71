"""What the contrast of CDD-GAN does: how hard positives and negatives are, and what pulls at the encoder how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models import losses
from pipelines.train.methods.cddgan_players import Translated


@torch.no_grad()
def similarities(made: Translated, negatives: Sequence[Tensor], *, partners: bool) -> dict[str, float]:
    """Return the mean cosine of the queries to their positives and to negatives (K, D), the mean over the layers.

    Where the two are alike the contrast is hard; where the negatives are far below the positives it is done.
    """
    alike = [losses.similarity(*layer, partners=partners) for layer in zip(made.query, made.positives, strict=True)]
    unlike = [losses.similarity(*layer) for layer in zip(made.query, negatives, strict=True)]
    means = torch.stack([torch.stack(alike).mean(), torch.stack(unlike).mean()]).tolist()
    return dict(zip(("similarity_positives", "similarity_negatives"), means, strict=True))


def gradient_norms(parts: Mapping[str, Tensor], weights: list[Tensor]) -> dict[str, float]:
    """Return the norm of each weighted loss's own gradient at ``weights``, of this process; the graph is kept.

    Losses by name, of which those that begin alike (``gan_``, ``contrastive``) count as one.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, part in parts.items():
        groups.setdefault(name.partition("_")[0], []).append(part)
    found = {}
    for name, members in groups.items():
        gradients = torch.autograd.grad(torch.stack(members).sum(), weights, retain_graph=True, allow_unused=True)
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
        found[f"gradient_{name}"] = float(torch.stack(norms).norm()) if norms else 0.0
    return found
