"""Work of one size is done together: what runs in the one thread of a replica that computes.

Equal-sized pictures for the same model are stacked where that pays, which is on a GPU. On a CPU they run one after the
other: stacking gives nothing there (the bands of :mod:`models.execution` keep the caches full with one picture), and a
picture's bytes would depend on its neighbours, because sums over bands are rounded in another order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from models.inference import Dehazed, blend
from serving.interruption import interrupted_when


class Rater(Protocol):
    """:class:`pseudolabel.clip_scorer.ClipScorer`, as much of it as is used here."""

    def rate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Clearness and quality, N each in [0, 1], of N3HW in [0, 1]."""


@dataclass
class Work:
    """A picture to compute on.

    Attributes:
        network: of :class:`serving.slots.Network`; None only scores.
        hazy: (1, 3, H, W) in [0, 1].
        strength: of the dehazing, for the score of the result.
        created: when it was made, of ``time.perf_counter``.
        dropped: nobody waits for it any more, so it is not done.
    """

    network: Any
    hazy: Tensor
    strength: float = 1.0
    created: float = field(default_factory=time.perf_counter)
    dropped: bool = False


@dataclass(frozen=True)
class Done:
    """What came of it: scene and transmission (None for a score), clearness and quality of the input, clearness of
    the result, and seconds: waiting, in the network, in the scorer.
    """

    found: Dehazed | None
    clearness_before: float | None
    quality_before: float | None
    clearness_after: float | None
    queue_s: float
    model_s: float
    score_s: float


class DroppedError(Exception):
    """Work that nobody waits for."""


Outcome = Done | Exception


def run(works: Sequence[Work], scorer: Rater | None, *, stack: bool) -> list[Outcome]:
    """Do a batch.

    Args:
        works: of any sizes and models.
        scorer: None gives no clearness.
        stack: equal sizes as one batch of the network.

    Returns:
        what came of each, in order. What fails alone fails alone: a stack that fails is done again one by one.
    """
    outcomes: list[Outcome] = [DroppedError() for _ in works]
    for group in _groups(works, stack=stack):
        alive = [index for index in group if not works[index].dropped]
        for index, outcome in zip(alive, _run_group([works[index] for index in alive], scorer), strict=True):
            outcomes[index] = outcome
    return outcomes


def _groups(works: Sequence[Work], *, stack: bool) -> list[list[int]]:
    if not stack:
        return [[index] for index in range(len(works))]
    groups: dict[tuple[int, torch.Size], list[int]] = {}
    for index, work in enumerate(works):
        groups.setdefault((id(work.network), work.hazy.shape), []).append(index)
    return list(groups.values())


def _run_group(works: list[Work], scorer: Rater | None) -> list[Outcome]:
    if not works:
        return []
    try:
        return list(_together(works, scorer))
    except Exception as problem:  # noqa: BLE001 - handed to the one whose work it is
        if len(works) == 1:
            return [problem]
    return [outcome for work in works for outcome in _run_group([work], scorer)]


def _together(works: list[Work], scorer: Rater | None) -> list[Done]:
    start = time.perf_counter()
    hazy = works[0].hazy if len(works) == 1 else torch.cat([work.hazy for work in works])
    found = None
    if works[0].network is not None:
        with interrupted_when(lambda: all(work.dropped for work in works)):
            found = works[0].network.run(hazy)
    modelled = time.perf_counter()
    rows = [_rated(work, _row(found, index), scorer) for index, work in enumerate(works)]
    scored = time.perf_counter()
    share = 1 / len(works)
    return [
        Done(_row(found, index), *row, start - work.created, (modelled - start) * share, (scored - modelled) * share)
        for index, (work, row) in enumerate(zip(works, rows, strict=True))
    ]


def _row(found: Dehazed | None, index: int) -> Dehazed | None:
    if found is None or len(found.scene) == 1:
        return found
    part = slice(index, index + 1)
    return Dehazed(found.scene[part], None if found.transmission is None else found.transmission[part])


@torch.inference_mode()
def _rated(work: Work, found: Dehazed | None, scorer: Rater | None) -> tuple[float | None, float | None, float | None]:
    """Clearness and quality of the input, and clearness of the result."""
    if scorer is None:
        return None, None, None
    clearness, quality = scorer.rate(work.hazy)
    after = None
    if found is not None:
        after = float(scorer.rate(blend(work.hazy, found.scene, work.strength))[0])
    return float(clearness), float(quality), after
