"""What the evaluation does with one photograph: dehaze it with every model, measure, and answer rows. No Ray.

`pipelines.evaluate` runs an `Evaluator` per worker over batches of items; only rows of numbers, and thumbnails of
the few photographs on the contact sheet, travel back.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from models import images, zoo
from models.inference import dehaze
from models.physics import HazeConfig, synthesize
from models.settings import Settings
from pipelines import metrics
from pipelines.corpus import filesystem
from pipelines.metrics import Pixels

if TYPE_CHECKING:  # open_clip takes seconds to import, and a run without a scorer does not need it
    from pseudolabel.clip_scorer import ClipScorer

HAZY = "hazy input"
"""The calibration row of every table: what the photographs score before anything is done to them."""
CLEAR = "clear reference"
"""What the true clear images score, where there are any: a dehazer below their FADE invents contrast."""

REAL, SYNTHETIC = "real", "synthetic"

ITEM_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("image_id", pa.string()),
        ("name", pa.string()),
        ("path", pa.string()),
        ("row_group", pa.int32()),  # of the shard at `path`; null when `path` is the photograph itself
    ]
)
"""What a worker is told: where a photograph is. It reads the bytes itself, so they cross no process border."""
ROW_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("image_id", pa.string()),
        ("name", pa.string()),
        ("model", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *((name, pa.float64()) for name in metrics.METRICS),
        ("seconds", pa.float64()),
        ("thumbnail", pa.binary()),
        ("error", pa.string()),
    ]
)

PLAIN_HAZE = HazeConfig(
    beta=(0.2, 1.5), airlight=(0.6, 1.0), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
)
"""The scattering model alone, at optical depths up to 3 under a light veil: the pairs measure dehazing, not denoising
or brightening, and leave something of every scene to bring back."""


class ModelChoice(Settings):
    """A column of the table: its label, and the zoo name or checkpoint folder behind it."""

    label: str
    source: str


class RowSettings(Settings):
    """How photographs are measured; part of every summary, because the numbers depend on it.

    ``max_side`` bounds real photographs (they are dehazed and measured at that size), ``pair_size`` is the square
    that synthetic pairs are cut to, ``seed`` is added to the seed that each photograph has from its id.
    """

    models: tuple[ModelChoice, ...] = ()
    scorer: str | None = "clip-compact"
    max_side: int = Field(640, ge=metrics.MIN_SIDE)
    pair_size: int = Field(320, ge=metrics.MIN_SIDE)
    haze: HazeConfig = PLAIN_HAZE
    seed: int = Field(0, ge=0)
    thumbnail_side: int = Field(256, ge=16)
    threads: int = Field(1, ge=1)
    device: str = "cpu"


@dataclass(frozen=True)
class Case:
    """One photograph ready to measure: uint8 RGB (H, W, 3), with its clear version of the same size if there is one."""

    hazy: Pixels
    clear: Pixels | None


@lru_cache(maxsize=2)
def stored(path: str, row_group: int) -> dict[str, tuple[bytes, bytes | None]]:
    """Image and depth bytes by image id of one row group; cached, because a batch of items shares it."""
    files, inner = filesystem(path)
    with files.open_input_file(inner) as stream:
        table = pq.ParquetFile(stream).read_row_group(row_group, columns=["image_id", "image", "depth"])
    return {row["image_id"]: (row["image"], row["depth"]) for row in table.to_pylist()}


def photo_seed(image_id: str, seed: int) -> int:
    """The haze of a photograph depends on its content and the run's seed, not on its place in the corpus."""
    return (int(image_id[:8], 16) + seed) % 2**31


def pixels_of(data: bytes) -> Pixels:
    """Decode by the image contract to uint8 RGB (H, W, 3); raises `images.ImageError`."""
    photo = images.decode(data)
    return photo.pixels if photo.pixels.dtype == np.uint8 else images.to_uint8(photo.tensor())[0]


def bounded(pixels: Pixels, max_side: int) -> Pixels:
    """Shrink so that the longer side is at most ``max_side``; never enlarges."""
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1.0:
        return pixels
    return images.resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def _cover(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Size that makes the shorter side ``size``, and the offsets of the centre square in it."""
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    return wide, high, (wide - size) // 2, (high - size) // 2


def square(pixels: Pixels, size: int) -> Pixels:
    """The centre square of the photograph, its shorter side resized to ``size``."""
    wide, high, left, top = _cover(pixels.shape[1], pixels.shape[0], size)
    return images.resize(pixels, wide, high)[top : top + size, left : left + size]


def square_depth(data: bytes, size: int) -> Tensor:
    """A 16-bit depth PNG as 1x1xSxS in [0, 1] (1 = near), cut as `square` cuts its photograph."""
    with Image.open(io.BytesIO(data)) as picture:
        depth = torch.from_numpy(np.array(picture, dtype=np.float32))[None, None] / 65535.0
    wide, high, left, top = _cover(depth.shape[3], depth.shape[2], size)
    depth = torch.nn.functional.interpolate(depth, size=(high, wide), mode="bilinear", align_corners=False)
    return depth[:, :, top : top + size, left : left + size].clamp(0.0, 1.0)


def synthetic_case(pixels: Pixels, depth: bytes | None, image_id: str, settings: RowSettings) -> Case:
    """Haze a clear photograph at a fixed size; the same photograph and seed give the same pair on every machine."""
    clear = np.ascontiguousarray(square(pixels, settings.pair_size))
    depth_map = None if depth is None else square_depth(depth, settings.pair_size)
    pair = synthesize(images.to_tensor(clear), depth_map, [photo_seed(image_id, settings.seed)], settings.haze)
    return Case(images.to_uint8(pair.hazy)[0], clear)


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """JPEG bytes of the image, at most ``side`` pixels on its longer side."""
    buffer = io.BytesIO()
    Image.fromarray(bounded(pixels, side)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


class Evaluator:
    """Loads the models and the scorer once, then turns items (`ITEM_SCHEMA`) into rows (`ROW_SCHEMA`).

    Args:
        settings: what to measure, with the models in the order of the table.
        references: path of the clear version by the photograph's name, for real pairs.
        sheet: keys ``kind/image_id`` of the photographs whose thumbnails come back.

    Raises:
        ConfigError: a model or the scorer does not exist.
    """

    def __init__(
        self, settings: RowSettings, references: Mapping[str, str] | None = None, sheet: Collection[str] = ()
    ) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.references = dict(references or {})
        self.sheet = frozenset(sheet)
        self.networks = {m.label: zoo.load(m.source).network.to(settings.device) for m in settings.models}
        self.scorer: ClipScorer | None = None
        if settings.scorer is not None:
            from pseudolabel.clip_scorer import load_scorer

            self.scorer = load_scorer(settings.scorer, device=settings.device)

    def __call__(self, items: pa.Table) -> pa.Table:
        rows = [row for item in items.to_pylist() for row in self.rows(item)]
        return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)

    def rows(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of one photograph: the hazy input, each model, and the clear reference if there is one.

        A photograph that cannot be read gives one row with ``error`` and no model; a model that fails raises,
        because that is a fault of the model and not of the photograph.
        """
        base = {key: item[key] for key in ("kind", "image_id", "name")}
        try:
            case = self.case(item)
        except (images.ImageError, OSError) as problem:
            return [{**base, "model": "", "error": str(problem)}]
        versions, seconds = self._versions(case)
        clearness, quality = self._scores(list(versions.values()))
        rows = []
        for index, (model, pixels) in enumerate(versions.items()):
            row = {**base, "model": model, "width": pixels.shape[1], "height": pixels.shape[0]}
            row |= {"seconds": seconds.get(model), "clearness": clearness[index], "quality": quality[index]}
            value = metrics.fade(pixels)
            row["fade"] = value if math.isfinite(value) else None
            if case.clear is not None and model != CLEAR:
                row |= {"psnr": metrics.psnr(pixels, case.clear), "ssim": metrics.ssim(pixels, case.clear)}
            if f"{item['kind']}/{item['image_id']}" in self.sheet:
                row["thumbnail"] = thumbnail(pixels, self.settings.thumbnail_side)
            rows.append(row)
        return rows

    def case(self, item: Mapping[str, Any]) -> Case:
        """Read and size a photograph, with its clear version.

        Raises:
            ImageError, OSError: it cannot be read, is too small to measure, or its reference has another size.
        """
        depth: bytes | None = None
        if item["row_group"] is None:
            data = Path(item["path"]).read_bytes()
        else:
            data, depth = stored(item["path"], item["row_group"])[item["image_id"]]
        pixels = pixels_of(data)
        if min(pixels.shape[:2]) < metrics.MIN_SIDE:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise OSError(f"{item['name']} is {size}; the shortest side that can be measured is {metrics.MIN_SIDE}")
        if item["kind"] == SYNTHETIC:
            return synthetic_case(pixels, depth, item["image_id"], self.settings)
        reference = self.references.get(item["name"])
        if reference is None:
            return Case(bounded(pixels, self.settings.max_side), None)
        clear = pixels_of(Path(reference).read_bytes())
        if clear.shape != pixels.shape:
            sizes = f"{pixels.shape[1]}x{pixels.shape[0]} and its reference {clear.shape[1]}x{clear.shape[0]}"
            raise OSError(f"{item['name']} is {sizes}; a pair needs one size")
        return Case(bounded(pixels, self.settings.max_side), bounded(clear, self.settings.max_side))

    def _versions(self, case: Case) -> tuple[dict[str, Pixels], dict[str, float]]:
        """The photograph by column of the table, all of one size, and the seconds each model took."""
        versions, seconds = {HAZY: case.hazy}, {}
        hazy = images.to_tensor(np.ascontiguousarray(case.hazy)[None]).to(self.settings.device)
        for label, network in self.networks.items():
            started = time.perf_counter()
            versions[label] = images.to_uint8(dehaze(network, hazy).scene)[0]
            seconds[label] = time.perf_counter() - started
        if case.clear is not None:
            versions[CLEAR] = case.clear
        return versions, seconds

    def _scores(self, versions: list[Pixels]) -> tuple[list[float | None], list[float | None]]:
        """Clearness and quality of images of one size, in one encoding; None each without a scorer."""
        if self.scorer is None:
            return [None] * len(versions), [None] * len(versions)
        batch = images.to_tensor(np.stack(versions)).to(self.settings.device)
        with torch.inference_mode():  # not `score`: its trust map costs a hundred times more and is not in the table
            clearness, quality = self.scorer.judge(self.scorer.encode(batch))
        return clearness.tolist(), quality.tolist()
