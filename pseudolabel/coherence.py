"""Coherence of pseudo labels: the admission rule of the pool, blocks, and trust maps. Pure functions.

The functions on images import torch only when they are called: the pool's actors need the admission rule alone and
must stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

TrustRule = Literal["mean", "product"]


@overload
def admits(
    old_clearness: float | None, old_quality: float | None, new_clearness: float, new_quality: float
) -> bool: ...
@overload
def admits(
    old_clearness: ArrayLike | None, old_quality: ArrayLike | None, new_clearness: ArrayLike, new_quality: ArrayLike
) -> bool | NDArray[np.bool_]: ...
def admits(
    old_clearness: ArrayLike | None,
    old_quality: ArrayLike | None,
    new_clearness: ArrayLike,
    new_quality: ArrayLike,
) -> bool | NDArray[np.bool_]:
    """Decide whether a candidate may take the place of what the pool holds (CORUN+Colabator, section 3.2).

    A candidate is admitted when nothing is held yet, or when it is not worse in clearness *and* not worse in quality:
    both global coherences must agree, so each of them only ever rises. A tie is admitted, because a later teacher's
    label of equal score is the fresher one.

    Args:
        old_clearness, old_quality: scores held, in [0, 1]; None (or NaN within an array) where nothing is held.
        new_clearness, new_quality: scores of the candidate. One that is not finite is never admitted.

    Returns:
        bool for scalars, a boolean array (broadcast) for arrays.
    """
    old_c = np.asarray(np.nan if old_clearness is None else old_clearness, dtype=np.float64)
    old_q = np.asarray(np.nan if old_quality is None else old_quality, dtype=np.float64)
    new_c, new_q = np.asarray(new_clearness, dtype=np.float64), np.asarray(new_quality, dtype=np.float64)
    # NaN stands for nothing held: it would compare as false with every candidate.
    usable = np.isfinite(new_c) & np.isfinite(new_q)
    vacant = np.isnan(old_c) | np.isnan(old_q)
    answer = usable & (vacant | ((new_c >= old_c) & (new_q >= old_q)))
    return bool(answer) if answer.ndim == 0 else answer


def blocks(images: Tensor, size: int) -> Tensor:
    """Cut images into square blocks.

    Args:
        images: (N, 3, H, W); H and W at least `size`.
        size: side of a block in pixels (32 in the paper).

    Returns:
        (N, gh, gw, 3, size, size) with gh = H // size, gw = W // size. Pixels beyond the last full block on the
        right and at the bottom belong to no block, so label sizes are best multiples of `size`.

    Raises:
        ValueError: the images are smaller than a block, or `size` is not positive.
    """
    count, channels, height, width = images.shape
    if size < 1 or height < size or width < size:
        raise ValueError(f"cannot cut {height}x{width} images into blocks of {size} pixels")
    gh, gw = height // size, width // size
    # From N3(gh s)(gw s) to N3 gh s gw s; then the two counts come forward.
    whole = images[:, :, : gh * size, : gw * size]
    return whole.reshape(count, channels, gh, size, gw, size).permute(0, 2, 4, 1, 3, 5).contiguous()


def trust_from_blocks(clearness: Tensor, quality: Tensor, rule: TrustRule = "mean") -> Tensor:
    """Trust per block: the mean of its clearness and its quality, high where the label is free of haze.

    Their product instead trusts a block no more than the worse of the two.

    The released program inverts its CLIP map twice and so trusts hazy blocks more; the paper does not, nor does this.

    Args:
        clearness, quality: (N, gh, gw), in [0, 1], higher is better.
        rule: how one comes of the two.

    Returns:
        (N, gh, gw) in [0, 1].
    """
    return (clearness * quality if rule == "product" else (clearness + quality) / 2).clamp(0, 1)


def upsample_trust(trust: Tensor, size: tuple[int, int]) -> Tensor:
    """Trust per pixel, bilinear between the centers of the blocks.

    Args:
        trust: (N, gh, gw) in [0, 1].
        size: (H, W) of the label.

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    import torch.nn.functional as F

    return F.interpolate(trust.unsqueeze(1), size=size, mode="bilinear", align_corners=False).clamp(0, 1)
