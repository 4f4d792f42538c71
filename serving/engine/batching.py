"""Work of one size is done together: what runs in the one thread of a replica that computes.

Equal-sized pictures for the same model are stacked where that pays, which is on a GPU. On a CPU they run one after the
other: stacking gives nothing there (the bands of :mod:`models.networks.bands` keep the caches full with one picture),
and a picture's bytes would depend on its neighbors, because sums over bands are rounded in another order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from models.inference import Dehazed, controlled
from models.options import DEFAULT_CONTROLS, Controls

_thread = threading.local()


class InterruptedWorkError(Exception):
    """Nobody waits for the result."""


def make_interruptible(network: nn.Module) -> None:
    """Let all modules of a network ask whether to go on. Not for a network that is compiled: it could not be."""
    for module in network.modules():
        module.register_forward_pre_hook(_ask)


@contextmanager
def interrupted_when(done: Callable[[], bool]) -> Iterator[None]:
    """End networks that this thread runs inside with :class:`InterruptedWorkError`, soon after ``done()`` is true."""
    _thread.done = done
    try:
        yield
    finally:
        _thread.done = None


def _ask(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 - torch's signature
    done = getattr(_thread, "done", None)
    if done is not None and done():
        raise InterruptedWorkError


S = TypeVar("S")
T = TypeVar("T")


class Rater(Protocol):
    """:class:`pseudolabel.scorer.clip.ClipScorer`, as much of it as is used here."""

    def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return clearness and quality, N each in [0, 1], of N pictures (1, 3, H, W) in [0, 1] of any sizes."""


@dataclass
class Work:
    """A picture to compute on.

    Attributes:
        network: of :class:`serving.engine.slots.Network`; None only scores.
        hazy: (1, 3, H, W) in [0, 1].
        controls: of the result, for its score.
        wrap: the picture goes on at its right end where it begins at its left.
        rated: the scorer sees it and its result, where there is one.
        created: when it was made, of ``time.perf_counter``.
        dropped: nobody waits for it any more, so it is not done.
    """

    network: Any
    hazy: Tensor
    controls: Controls = DEFAULT_CONTROLS
    wrap: bool = False
    rated: bool = True
    created: float = field(default_factory=time.perf_counter)
    dropped: bool = False


@dataclass(frozen=True)
class Done:
    """What came of it: scene and transmission (None for a score), seconds that it waited and that the network took;
    where it was scored also the picture as the controls want it, clearness and quality of the input, clearness of the
    result, and the scorer's seconds.
    """

    found: Dehazed | None
    queue_s: float
    model_s: float
    picture: Tensor | None = None
    clearness_before: float | None = None
    quality_before: float | None = None
    clearness_after: float | None = None
    score_s: float = 0.0


class DroppedError(Exception):
    """Work that nobody waits for."""


Outcome = Done | Exception


def run(works: Sequence[Work], scorer: Rater | None, *, stack: bool) -> list[Outcome]:
    """Do a batch.

    Args:
        works: of any sizes and models.
        scorer: None gives no clearness.
        stack: equal sizes as one batch of the network; and one of the scorer for all, whatever their sizes.

    Returns:
        what came of each, in order. What fails alone fails alone: a stack that fails is done again one by one.
    """
    outcomes: list[Outcome] = [DroppedError() for _ in works]
    for group in _groups(works, stack=stack):
        alive = [index for index in group if not works[index].dropped]
        for index, modeled in zip(alive, _each(_modeled, [works[index] for index in alive]), strict=True):
            outcomes[index] = modeled
    if scorer is not None:
        pairs = enumerate(zip(works, outcomes, strict=True))
        wanted = {index: (work, done) for index, (work, done) in pairs if isinstance(done, Done) and work.rated}
        for index, rated in zip(wanted, _each(partial(_rated, scorer), list(wanted.values())), strict=True):
            outcomes[index] = rated
    return outcomes


def _groups(works: Sequence[Work], *, stack: bool) -> list[list[int]]:
    if not stack:
        return [[index] for index in range(len(works))]
    groups: dict[tuple[int, torch.Size, bool], list[int]] = {}
    for index, work in enumerate(works):
        groups.setdefault((id(work.network), work.hazy.shape, work.wrap), []).append(index)
    return list(groups.values())


def _each(do: Callable[[list[S]], Sequence[T]], items: list[S]) -> list[T | Exception]:
    """Call ``do`` on the items together; where that fails, on each by itself, with its result or its error."""
    if not items:
        return []
    try:
        return list(do(items))
    except torch.OutOfMemoryError as problem:
        failure: Exception = MemoryError(str(problem))
    except Exception as problem:  # noqa: BLE001 - handed to the one whose work it is
        failure = problem
    if len(items) == 1:
        return [failure]
    return [outcome for item in items for outcome in _each(do, [item])]


def _modeled(works: list[Work]) -> list[Done]:
    """Run the network that the works share."""
    start = time.perf_counter()
    hazy = works[0].hazy if len(works) == 1 else torch.cat([work.hazy for work in works])
    found = None
    if works[0].network is not None:
        with interrupted_when(lambda: all(work.dropped for work in works)):
            found = works[0].network.run(hazy, wrap=works[0].wrap)
    seconds = (time.perf_counter() - start) / len(works)
    return [Done(_row(found, index), start - work.created, seconds) for index, work in enumerate(works)]


def _row(found: Dehazed | None, index: int) -> Dehazed | None:
    if found is None or len(found.scene) == 1:
        return found
    part = slice(index, index + 1)
    return Dehazed(found.scene[part], None if found.transmission is None else found.transmission[part])


@torch.inference_mode()
def _rated(scorer: Rater, pairs: list[tuple[Work, Done]]) -> list[Done]:
    """Add clearness and quality of the inputs, and clearness of the results, from one call of the scorer."""
    start = time.perf_counter()
    inputs = [work.hazy for work, _ in pairs]
    pictures = [
        None if found is None else controlled(work.hazy, found.scene, found.transmission, work.controls)
        for work, found in ((work, done.found) for work, done in pairs)
    ]
    results = [picture for picture in pictures if picture is not None]
    clearness, quality = (values.tolist() for values in scorer.rate_each([*inputs, *results]))
    after = iter(clearness[len(pairs) :])
    seconds = (time.perf_counter() - start) / len(pairs)
    rated = []
    for (_, done), picture, clear, good in zip(pairs, pictures, clearness, quality, strict=False):
        now = None if picture is None else next(after)
        rated.append(Done(done.found, done.queue_s, done.model_s, picture, clear, good, now, seconds))
    return rated
