"""Features per patch: what an image tower of ``open_clip`` sees at each place, comparable to those of texts.

A trust map of these is dense: it comes with the encoding that gives clearness and quality, while a map by blocks, as
in the paper, needs an encoding per block. Trust is by blocks all the same, because the dense map is another map
rather than a cheaper copy. Labels of 47 real photographs (``corun-compact``, ``clip-compact``;
``benchmarks/trust.py``):

- The rank correlation of the two maps is 0.40 (median of a photograph; lowest -0.11; pooled over all blocks 0.59).
- Against known synthetic haze that of blocks is 0.72 (pooled 0.66), of dense 0.51 (0.48), which is nearer to the truth
  on 18 % of the labels; haze on either half costs trust there on every label with both.
- Scoring takes 0.06 of the time when dense. The teacher takes 2.3 times as long as scoring by blocks, so a label
  worker makes 1.4 times as many labels.
- From an encoding of 224 or 288 pixels dense agrees better (0.46, 0.53) and finds haze little better (0.57, 0.52), for
  0.16 and 0.21 of the time.

So dense is for where scoring holds labels up, as full-size scorers may. No vision transformer was measured; their
patches are known to be aligned worse with texts than the whole, so measure first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.config import ConfigError


def encode_patches(tower: nn.Module, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of the images and of their patches from one pass through `tower`.

    The last layer's tokens (or the places of the last feature map) go one by one through what the tower does to the
    pooled one: final norm and projection. For a convolutional tower with average pooling this is exact: the features
    of the image are the mean of those of its places.

    Args:
        tower: of ``open_clip``: its vision transformer, or one of timm (transformer or convolutional).
        normal: (N, 3, H, W), normalized, in the size and number type that the tower takes.

    Returns:
        features (N, E) and patches (N, E, h, w), neither of unit length. Gradients flow to the images.

    Raises:
        ConfigError: a tower whose patches have no features of their own, such as one with attention pooling.
    """
    if hasattr(tower, "trunk"):
        return _timm(tower, normal)
    if getattr(tower, "proj", None) is None or getattr(tower, "attn_pool", None) is not None:
        raise ConfigError(
            f"trust is 'dense', but the image tower {type(tower).__name__} gives no features per patch; use blocks"
        )
    return _transformer(tower, normal)


def _transformer(tower: Any, normal: Tensor) -> tuple[Tensor, Tensor]:
    found = tower.forward_intermediates(normal, indices=1, normalize_intermediates=True)
    patches: Tensor = torch.einsum("nchw,ce->nehw", found["image_intermediates"][-1], tower.proj)
    return found["image_features"], patches


def _timm(tower: Any, normal: Tensor) -> tuple[Tensor, Tensor]:
    features = tower.trunk.forward_features(normal)
    pooled: Tensor = tower.head(tower.trunk.forward_head(features))
    try:
        places, (rows, columns) = _places(tower.trunk, features, normal)
        patches: Tensor = tower.head(tower.trunk.forward_head(places))
    except (RuntimeError, AttributeError) as problem:  # a pooling that only takes the shape it was made for
        raise ConfigError(
            f"trust is 'dense', but the image tower gives no features per patch ({problem}); use blocks"
        ) from problem
    return pooled, patches.view(len(normal), rows, columns, -1).permute(0, 3, 1, 2)


def _places(trunk: Any, features: Tensor, normal: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return each place as an image of its own, (N h w) of them, so that pooling over it is the identity; and (h,
    w).
    """
    if features.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            rows, columns = features.shape[1:3]
            return features.flatten(0, 2)[:, None, None], (rows, columns)
        rows, columns = features.shape[2:]
        return features.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None], (rows, columns)
    prefix = int(getattr(trunk, "num_prefix_tokens", 0))
    tokens = features[:, prefix:]
    rows, columns = trunk.patch_embed.dynamic_feat_size(normal.shape[-2:])
    # In the place of the class token too: whichever the pooling takes, it is this token.
    return tokens.flatten(0, 1)[:, None].expand(-1, prefix + 1, -1), (rows, columns)


def has_positions(tower: Any) -> bool:
    """Return whether a tower has an embedding per position, and so one size of image."""
    return any(name.rpartition(".")[2] in ("positional_embedding", "pos_embed") for name, _ in tower.named_parameters())
