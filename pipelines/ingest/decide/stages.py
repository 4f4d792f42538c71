"""From what was found out about files to what becomes of each: the sheet, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.corpus import EXAMINED
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide.banned import Banned, ban
from pipelines.ingest.decide.parts import Work, gather, load, store
from pipelines.ingest.decide.rows import SHEET, accepted, changed, filtered, undecided, unequal
from pipelines.ingest.decide.similar import find_similar

HELD = pa.schema([("image_id", pa.string()), ("depth", pa.string()), ("shard", pa.string())])


def decide(
    work: Work, config: IngestConfig, examined: Sequence[str], held: Sequence[str] = (), bans: Sequence[Banned] = ()
) -> None:
    """Write the sheet: what becomes of every file. Filters, held-out photographs, equal files, photographs that look
    the same.

    Of equal files the first by uri is kept, with a depth map if one has it, of similar photographs the largest; what
    the corpus holds already comes before both, so that adding photographs moves none.

    Args:
        work: where the tables are; ``sheet`` is written.
        config: what is asked of photographs.
        examined: files of ``EXAMINED``, cut by :func:`~pipelines.ingest.decide.parts.by_content`.
        held: files of ``HELD``, cut likewise: what the corpus holds.
        bans: what must not get in.
    """
    jobs = work.jobs(sheet="sheet")
    counts = work.run(partial(_undecided, examined=examined, held=held, config=config), jobs)
    ban(work, bans, config.holdout_bits, sum(counts))
    work.run(partial(_unequal, held=held if config.append else ()), jobs)
    if config.near_duplicates >= 0:
        verdicts = find_similar(work, config.near_duplicates)
        work.run(partial(_apply, verdicts=verdicts), jobs if verdicts else [])
        work.clear_stage("verdicts")


def _undecided(part: int, sheet: str, examined: Sequence[str], held: Sequence[str], config: IngestConfig) -> int:
    table = gather(examined, part) if examined else EXAMINED.empty_table()
    settled = (gather(held, part) if held else HELD.empty_table())["image_id"]
    table = filtered(undecided(table, config, settled), config)
    store(sheet, SHEET, [table])
    return len(accepted(table))


def _unequal(part: int, sheet: str, held: Sequence[str]) -> None:
    store(sheet, SHEET, [unequal(load(sheet), gather(held, part) if held else HELD.empty_table())])


def _apply(part: int, sheet: str, verdicts: Sequence[str]) -> None:
    table, said = load(sheet), gather(verdicts, part)
    rows = said["row"].to_numpy() & 0xFFFFFFFF
    fresh = ~np.asarray(table["old"])[rows]  # what the corpus holds already stays
    same_as = np.array(said["same_as"].to_pylist(), dtype=object)
    values = {"same_as": same_as[fresh], "distance": said["distance"].to_numpy()[fresh]}
    store(sheet, SHEET, [changed(table, rows[fresh], status="duplicate", reason="near", **values)])
