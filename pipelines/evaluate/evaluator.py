"""What the evaluation does with photographs: dehaze them with every model, measure, and answer rows. No Ray.

`pipelines.evaluate` runs an `Evaluator` per worker over batches of items; rows of numbers, detections and thumbnails
travel back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from models import images, zoo
from models.config import ConfigError, Settings
from models.haze import HazeConfig
from models.inference import EXACT, dehaze
from pipelines.corpus import Location, read_place
from pipelines.evaluate import iqa as evaluate_iqa
from pipelines.evaluate import metrics
from pipelines.evaluate.cases import (
    PLAIN_HAZE,
    Case,
    Haze,
    beside,
    bounded,
    photo_seed,
    pixels_of,
    stored,
    synthetic_case,
    thumbnail,
)
from pipelines.evaluate.detection import Detector
from pipelines.evaluate.metrics import DEFAULT, METRICS, MIN_SIDE, Pixels
from pipelines.evaluate.naturalness import brisque, niqe

if TYPE_CHECKING:  # open_clip takes seconds to import, and a run without a scorer does not need it
    from pseudolabel.scorer import ClipScorer

HAZY = "hazy input"
"""The calibration row of every table: what the photographs score before anything is done to them."""
CLEAR = "clear reference"
"""What the true clear images score, where there are any: a dehazer below their FADE invents contrast."""

Kind = Literal["real", "paired", "synthetic", "unharmed"]
REAL: Kind = "real"
PAIRED: Kind = "paired"
SYNTHETIC: Kind = "synthetic"
UNHARMED: Kind = "unharmed"
"""Clear photographs, given to the models as they are: there is no haze to take, so every change is harm."""


def first_row(kind: str) -> str:
    """Return the row that others of a table of such photographs are compared with: nothing was done to it."""
    return CLEAR if kind == UNHARMED else HAZY


ITEM_SCHEMA = pa.schema(
    [
        ("block", pa.int32()),  # of the batch that it is in
        ("group", pa.string()),  # the table that its rows go to
        ("kind", pa.string()),
        ("image_id", pa.string()),
        ("name", pa.string()),
        ("path", pa.string()),
        ("row_group", pa.int32()),  # of the shard at `path`; null when `path` is the photograph itself
        ("reference", pa.string()),  # path of the clear version, or null
        ("results", pa.list_(pa.string())),  # paths of other programs' results, in the order of `RowSettings.results`
        ("detect", pa.bool_()),  # it is annotated
    ]
)
"""What a worker is told: where a photograph is. It reads the bytes itself, so they cross no process border."""
ROW_SCHEMA = pa.schema(
    [
        ("block", pa.int32()),
        ("group", pa.string()),
        ("kind", pa.string()),
        ("image_id", pa.string()),
        ("name", pa.string()),
        ("model", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *((name, pa.float64()) for name in METRICS),
        ("seconds", pa.float64()),
        ("boxes", pa.binary()),  # detections: float32 (n, 6) as bytes
        ("thumbnail", pa.binary()),
        ("error", pa.string()),
        ("note", pa.string()),  # metrics that failed on it, and why
    ]
)


_LONGEST = 300  # letters of a reason


class ModelChoice(Settings):
    """A column of the table: its label, and the zoo name or checkpoint folder behind it."""

    label: str
    source: str


class RowSettings(Settings):
    """How photographs are measured; part of every summary, because the numbers depend on it.

    ``results`` are labels of other programs' results. ``max_side`` bounds photographs (models dehaze them, and
    everything is measured, at that size; 0 leaves them as they are), ``pair_size`` is the square that synthetic pairs
    are cut to, ``seed`` is added to the seed that each photograph has from its id. ``detector`` is a specification of
    :class:`pipelines.evaluate.detection.Detector`.
    """

    models: tuple[ModelChoice, ...] = ()
    allow_networks: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    metrics: tuple[str, ...] = DEFAULT
    metric_weights: dict[str, str] = Field(default_factory=dict)
    scorer: str | None = "clip-compact"
    detector: str | None = None
    classes: tuple[str, ...] | None = None
    max_side: int = Field(640, ge=0)
    pair_size: int = Field(320, ge=MIN_SIDE)
    haze: HazeConfig = PLAIN_HAZE
    seed: int = Field(0, ge=0)
    thumbnail_side: int = Field(360, ge=0)
    threads: int = Field(1, ge=1)
    device: str = "cpu"


@dataclass(frozen=True)
class PhotoMeasures:
    """A model's picture uint8 RGB (H, W, 3), its transmission (H, W) in [0, 1] if it gives one, and its seconds."""

    pixels: Pixels
    transmission: NDArray[np.float32] | None = None
    seconds: float | None = None


class Measures:
    """The metrics of a run, with the networks that some of them need.

    Raises:
        ConfigError: a metric cannot run, or the scorer does not exist.
    """

    def __init__(self, settings: RowSettings) -> None:
        self.names, self.device = settings.metrics, settings.device
        self.scorer: ClipScorer | None = None
        if settings.scorer is not None and any(METRICS[n].provider == "scorer" for n in self.names):
            from pseudolabel.scorer import load_scorer

            self.scorer = load_scorer(settings.scorer, device=settings.device)
        self.learned: dict[str, Any] = {
            name: evaluate_iqa.load(name, settings.metric_weights.get(name), settings.device)
            for name in self.names
            if METRICS[name].provider in ("lpips", "pyiqa")
        }

    def __call__(
        self, result: PhotoMeasures, case: Case, *, is_clear: bool
    ) -> tuple[dict[str, float | None], list[str]]:
        """Return every metric that the result can have, None where it is not finite; and why others failed on this
        picture.
        """
        found: dict[str, float] = {}
        notes: list[str] = []
        for names, measure in self._measures(result, case, is_clear=is_clear):
            try:
                found |= measure()
            except Exception as problem:  # noqa: BLE001 - whatever somebody else's metric raises, it is named
                notes.append(f"{', '.join(names)}: {_reason(problem)}")
        return {name: value if math.isfinite(value) else None for name, value in found.items()}, notes

    def _measures(
        self, result: PhotoMeasures, case: Case, *, is_clear: bool
    ) -> Iterator[tuple[tuple[str, ...], Callable[[], dict[str, float]]]]:
        """Yield the measurements to make, each with the metrics that it gives."""
        pixels, clear, transmission = result.pixels, case.clear, result.transmission
        if self.scorer is not None:
            own = tuple(name for name in self.names if METRICS[name].provider == "scorer")
            yield own, partial(self._scores, self.scorer, pixels)
        for name in self.names:
            if METRICS[name].needs == "reference":
                if clear is not None and not is_clear:
                    yield (name,), partial(self._one, name, pixels, clear)
            elif METRICS[name].needs == "transmission":
                if transmission is not None:
                    yield (name,), partial(self._one, name, pixels, transmission, case.hazy)
            elif METRICS[name].provider != "scorer":
                yield (name,), partial(self._one, name, pixels)

    def _one(self, name: str, *inputs: Any) -> dict[str, float]:
        own = {"brisque": brisque, "niqe": niqe, "rehaze": metrics.rehazing_error}
        measure: Any = self.learned.get(name) or own.get(name) or getattr(metrics, name)
        return {name: float(measure(*inputs))}

    def _scores(self, scorer: ClipScorer, pixels: Pixels) -> dict[str, float]:
        """Return clearness and quality, from one encoding."""
        batch = images.to_tensor(np.ascontiguousarray(pixels)[None]).to(self.device)
        with torch.inference_mode():  # not `score`: its trust map costs a hundred times more and is not in the table
            clearness, quality = scorer.judge(scorer.encode(batch))
        both = {"clearness": float(clearness[0]), "quality": float(quality[0])}
        return {name: value for name, value in both.items() if name in self.names}


class Evaluator:
    """Loads models, scorer and detector once, then turns items (`ITEM_SCHEMA`) into rows (`ROW_SCHEMA`).

    Of a batch it holds the photographs; results are measured and let go one by one.

    Args:
        settings: what to measure, with the models in the order of the table.

    Raises:
        ConfigError: a model, the scorer, the detector or a metric's weights do not exist.
    """

    def __init__(self, settings: RowSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.networks: dict[str, nn.Module] = {
            m.label: zoo.load(m.source, settings.allow_networks).network.to(settings.device) for m in settings.models
        }
        self.measures = Measures(settings)
        self.detector = (
            Detector(settings.detector, settings.classes, settings.device) if settings.detector is not None else None
        )

    def __call__(self, items: pa.Table) -> pa.Table:
        rows = [row for item in items.to_pylist() for row in self.rows(item)]
        return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)

    def rows(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of one photograph: the hazy input, each model, each result, and the clear reference if there
        is one.

        A clear photograph that is to stay as it is comes first as its own reference, measured against itself.

        A photograph that cannot be read gives one row with ``error`` and no model; a metric that fails is noted in the
        row.

        Raises:
            ConfigError: a model fails, which is a fault of the model and not of the photograph.
        """
        base = {key: item[key] for key in ("block", "group", "kind", "image_id", "name")}
        try:
            case = self.case(item)
        except (images.ImageError, OSError) as problem:
            return [{**base, "model": "", "error": str(problem)}]
        rows = [self._row(first_row(item["kind"]), PhotoMeasures(case.hazy), case, item)]
        hazy = images.to_tensor(np.ascontiguousarray(case.hazy)[None]).to(self.settings.device)
        for label, network in self.networks.items():
            torch.manual_seed(photo_seed(item["image_id"], self.settings.seed))  # for networks that draw numbers
            try:
                result = _dehazed(network, hazy)
            except Exception as problem:
                size = f"{case.hazy.shape[1]}x{case.hazy.shape[0]}"
                raise ConfigError(f"model '{label}' fails on {item['name']} ({size}): {_reason(problem)}") from problem
            rows.append(self._row(label, result, case, item))
        rows += [self._row(label, PhotoMeasures(pixels), case, item) for label, pixels in case.results.items()]
        if case.clear is not None and item["kind"] != UNHARMED:
            rows.append(self._row(CLEAR, PhotoMeasures(case.clear), case, item))
        return [base | row for row in rows]

    def _row(self, model: str, result: PhotoMeasures, case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
        height, width = result.pixels.shape[:2]
        row: dict[str, Any] = {"model": model, "width": width, "height": height, "seconds": result.seconds}
        is_clear = model == CLEAR and item["kind"] != UNHARMED
        measured, notes = self.measures(result, case, is_clear=is_clear)
        row |= measured | {"note": "; ".join(notes)}
        if self.detector is not None and item["detect"]:
            row["boxes"] = self.detector(result.pixels).astype("<f4").tobytes()
        if self.settings.thumbnail_side:
            row["thumbnail"] = thumbnail(result.pixels, self.settings.thumbnail_side)
        return row

    def case(self, item: Mapping[str, Any]) -> Case:
        """Read and size a photograph, with its clear version and other programs' results.

        Raises:
            ImageError, OSError: one of them cannot be read, is too small to measure, or has another size.
        """
        depth: bytes | None = None
        if item["row_group"] is None:
            data = read_place(Location(item["path"]))
        else:
            data, depth = stored(item["path"], item["row_group"])[item["image_id"]]
        pixels = pixels_of(data)
        side = self.settings.max_side
        hazy = pixels if item["kind"] == SYNTHETIC else bounded(pixels, side)
        if min(hazy.shape[:2]) < MIN_SIDE:
            size = f"{hazy.shape[1]}x{hazy.shape[0]}{' at --max-side' if hazy is not pixels else ''}"
            raise OSError(f"{item['name']} is {size}; the shortest side that can be measured is {MIN_SIDE}")
        if item["kind"] == SYNTHETIC:
            own = self.settings
            return synthetic_case(pixels, depth, item["image_id"], Haze(own.haze, own.pair_size, own.seed))
        if item["kind"] == UNHARMED:
            return Case(hazy, hazy, {})
        clear = None if item["reference"] is None else beside(item["reference"], pixels, "reference")
        results = {
            label: bounded(beside(path, pixels, f"result of '{label}'"), side)
            for label, path in zip(self.settings.results, item["results"] or (), strict=True)
        }
        return Case(hazy, None if clear is None else bounded(clear, side), results)


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:_LONGEST]}"


def _dehazed(network: nn.Module, hazy: Tensor) -> PhotoMeasures:
    """Return a network's result for 13HW in [0, 1], with the transmission where it has one.

    Raises:
        ValueError: it is no picture; and whatever the network raises.
    """
    started = time.perf_counter()
    found = dehaze(network, hazy, EXACT)
    if not found.scene.isfinite().all():
        raise ValueError("the scene has values that are no numbers")
    pixels = images.to_uint8(found.scene)[0]
    seconds = time.perf_counter() - started
    transmission = None if found.transmission is None else found.transmission[0, 0].cpu().numpy()
    return PhotoMeasures(pixels, transmission, seconds)
