"""From photographs to candidates for the label pool: teacher, scorer, and nothing of Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import images
from models.inference import dehaze
from models.paths import absolute, filesystem
from pseudolabel.coherence import admits
from pseudolabel.labeling.rounds import LabelingConfig, WorkUnit
from pseudolabel.pool import LabelEntry
from pseudolabel.scorer import Scorer

log = logging.getLogger(__name__)

LOWEST_TRANSMISSION = 0.05  # the clamp of CORUN's data step

Pixels = NDArray[np.uint8]
Build = Callable[[LabelingConfig], tuple[nn.Module, Scorer]]


def implied_transmission(hazy: Tensor, scene: Tensor) -> Tensor:
    """Return the transmission that turns `scene` into `hazy` under airlight 1: `P = J T + 1 - T` solved by least
    squares.

    `T = Σ_c (1-P)(1-J) / Σ_c (1-J)²`, clamped to [0.05, 1]. For teachers that estimate none themselves.

    Args:
        hazy, scene: (N, 3, H, W) in [0, 1].

    Returns:
        (N, 1, H, W).
    """
    missing = 1 - scene
    above = ((1 - hazy) * missing).sum(dim=1, keepdim=True)
    below = missing.square().sum(dim=1, keepdim=True)
    # A white scene looks the same at every transmission; 1 claims no haze.
    return torch.where(below > 1e-6, above / below.clamp(min=1e-6), 1.0).clamp(LOWEST_TRANSMISSION, 1)


@dataclass(frozen=True)
class _Guess:
    """What a teacher makes of N photographs.

    Attributes:
        scene: N3HW in [0, 1], rounded to 8 bits, because what is scored is what will be stored.
        transmission: N1HW in [0, 1], its own or the one that its scene implies.
        finite: N; False where it answered with something that is no number.
    """

    scene: Tensor
    transmission: Tensor
    finite: Tensor


def _guess(teacher: nn.Module, hazy: Tensor) -> _Guess:
    output = dehaze(teacher, hazy)
    found = output.transmission
    finite = output.scene.isfinite().flatten(1).all(dim=1)
    if found is not None:
        finite &= found.isfinite().flatten(1).all(dim=1)
    scene = images.to_tensor(images.to_uint8(output.scene.nan_to_num())).to(hazy.device)
    return _Guess(scene, implied_transmission(hazy, scene) if found is None else found.nan_to_num(), finite)


def _dehaze_again(teacher: nn.Module, scorer: Scorer, guess: _Guess, times: int) -> None:
    """Dehaze the scenes of `guess` up to `times` more, each as long as the pool would admit the next over the last.

    Two passes through the scattering model with airlight 1 are one: `(J T2 + 1 - T2) T1 + 1 - T1 = J T + 1 - T` with
    `T = T1 T2`.
    """
    clearness, quality = scorer.rate(guess.scene)
    # Which of the N go on: each pass takes out those that did not get better.
    gaining = guess.finite.nonzero()[:, 0]
    for _ in range(times):
        if not len(gaining):
            return
        again = _guess(teacher, guess.scene[gaining])
        rated = scorer.rate(again.scene)
        held = (clearness[gaining].tolist(), quality[gaining].tolist())
        admitted = torch.as_tensor(admits(*held, *(scores.tolist() for scores in rated)), device=gaining.device)
        better = admitted & again.finite
        gaining = gaining[better]
        guess.scene[gaining] = again.scene[better]
        both = guess.transmission[gaining] * again.transmission[better]
        guess.transmission[gaining] = both.clamp(min=LOWEST_TRANSMISSION)
        clearness[gaining], quality[gaining] = (scores[better] for scores in rated)


@torch.inference_mode()
def label_batch(
    teacher: nn.Module,
    scorer: Scorer,
    photos: Pixels,
    ids: Sequence[str],
    step: int,
    device: str = "cpu",
    *,
    passes: int = 1,
) -> list[LabelEntry]:
    """Make candidates for a batch of photographs.

    What is scored is what will be stored: the label after rounding to 8 bits. Where the teacher's output or the trust
    is not finite the scores are NaN, so that the pool refuses the candidate.

    Args:
        teacher: dehazing network in evaluation mode, on `device`.
        scorer: on `device`.
        photos: (N, H, W, 3) uint8 at label size, not augmented.
        ids: N image identifiers.
        step: training step of the teacher.
        device: where the work is done.
        passes: how often the teacher may dehaze a photograph. A further pass goes over what the last one left, and is
            kept where it is worse neither in clearness nor in quality, which is the pool's own rule.

    Returns:
        N entries, in the order of `photos`.

    Raises:
        ValueError: other pixels than these, or not as many identifiers.
    """
    if len(ids) != len(photos):
        raise ValueError(f"there are {len(photos)} photographs and {len(ids)} identifiers: give each its own")
    guess = _guess(teacher, images.to_tensor(photos).to(device))
    if passes > 1:
        _dehaze_again(teacher, scorer, guess, passes - 1)
    scores = scorer.score(guess.scene)
    labels, levels = images.to_uint8(guess.scene), images.to_uint8(guess.transmission)[..., 0]
    trust = scores.trust.float().cpu().numpy()
    finite = guess.finite & scores.trust.isfinite().flatten(1).all(dim=1)
    clearness = scores.clearness.float().where(finite, torch.nan).tolist()
    quality = scores.quality.float().where(finite, torch.nan).tolist()
    return [
        LabelEntry(image_id, labels[i], levels[i], trust[i], clearness[i], quality[i], step)
        for i, image_id in enumerate(ids)
    ]


def read_unit(
    unit: WorkUnit, size: int, batch_size: int, unreadable: Callable[[str, images.ImageError], None]
) -> Iterator[tuple[str, Pixels]]:
    """Yield the training photographs of one row group, whole, resized to a square; held-out ones are left alone.

    Args:
        unit: which row group.
        size: side of the square in pixels.
        batch_size: rows read at a time; what bounds the memory.
        unreadable: told of each photograph that cannot be decoded.

    Yields:
        `image_id` and its pixels, (size, size, 3) uint8 RGB.

    Raises:
        OSError: the file cannot be read.
    """
    import pyarrow.parquet as pq

    files, path = filesystem(absolute(unit.uri))
    with files.open_input_file(path) as source:
        rows = pq.ParquetFile(source).iter_batches(
            batch_size=batch_size, row_groups=[unit.row_group], columns=["image_id", "image", "split"]
        )
        for row in (row for batch in rows for row in batch.to_pylist() if row["split"] == "train"):
            try:
                pixels = images.eight_bits(images.decode(row["image"]).pixels)
            except images.ImageError as problem:
                unreadable(row["image_id"], problem)
                continue
            yield row["image_id"], images.resize(pixels, size, size)


def load_models(config: LabelingConfig) -> tuple[nn.Module, Scorer]:
    """Load the teacher's network, its weights still to come, and the scorer, as configured.

    Raises:
        models.config.ConfigError: an unknown network or scorer, or a network that is not allowed.
    """
    from models import zoo
    from models.config import parse
    from pseudolabel.scorer import ScorerConfig, load_scorer

    name = config.scorer
    scorer = load_scorer(name if isinstance(name, str) else parse(ScorerConfig, name, "scorer"), config.device)
    return zoo.build(config.network, config.allow_networks), scorer


class Labeler:
    """A teacher and a scorer in one process, that label units of a corpus."""

    def __init__(self, config: LabelingConfig, build: Build | None = None) -> None:
        """Load both.

        Args:
            config: sizes, device, threads and names.
            build: makes network and scorer; by default :func:`load_models`.
        """
        torch.set_num_threads(config.threads)
        self._config = config
        network, self._scorer = (build or load_models)(config)
        self._network = network.to(config.device).eval()
        self.step: int | None = None
        self.unreadable: list[str] = []

    def load(self, state: bytes, step: int) -> None:
        """Take over a teacher's weights.

        Args:
            state: its state dict as safetensors, see :func:`pack_state`.
            step: the training step they are of.

        Raises:
            RuntimeError: they do not fit the network.
        """
        from safetensors.torch import load

        self._network.load_state_dict(load(state))
        self.step = step

    def label(self, unit: WorkUnit) -> Iterator[list[LabelEntry]]:
        """Yield candidates for all photographs of `unit`, a batch at a time; `unreadable` lists those that were
        skipped.

        Raises:
            RuntimeError: no teacher is loaded.
        """
        if self.step is None:
            raise RuntimeError("load a teacher before labeling")
        self.unreadable = []
        config = self._config
        rows = read_unit(unit, config.size, config.worker_batch, self._skip)
        while batch := list(islice(rows, config.worker_batch)):
            ids, photos = [row[0] for row in batch], np.stack([row[1] for row in batch])
            yield label_batch(self._network, self._scorer, photos, ids, self.step, config.device, passes=config.passes)

    def _skip(self, image_id: str, problem: images.ImageError) -> None:
        log.warning("photograph %s is not labeled: %s", image_id, problem)
        self.unreadable.append(image_id)


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a state dict as safetensors, the form in which teachers travel: no pickle, and quick to read."""
    from safetensors.torch import save

    # Cloned, as safetensors refuses tensors that share memory.
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
