"""What an ingest would do, and what that costs: everything is listed and looked up, a sample is examined and written
into a temporary folder, and nothing else is written. In this process, without Ray.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import left_out_text
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Work, load
from pipelines.ingest.examine import examine
from pipelines.ingest.first_pass import look_up, prepare
from pipelines.ingest.publish import Present, check_settings, present
from pipelines.ingest.survey import SourceSurvey, survey
from pipelines.ingest.tree import complete
from pipelines.ingest.write import SHARD_COLUMNS, write_shard

_SAMPLE, _BYTES = 32, 256 << 20  # photographs to time, and bytes of them
_TOP_KINDS = 8


@dataclass(frozen=True)
class Estimate:
    """What would be done. ``seconds`` of a processor, and ``stored`` bytes, are those of the sample as far as all new
    photographs are like it; the second pass writes new ones only.
    """

    found: int
    kinds: Counter[str]
    left: Counter[str]
    new: int
    listed_bytes: int
    new_bytes: int
    sample: int
    seconds: float
    stored: float
    unchanged: bool


def dry_run(config: IngestConfig) -> Estimate:
    """List and look up what an ingest would, and estimate its cost.

    Raises:
        ConfigError: as the ingest would before it reads photographs.
    """
    plan, before = survey(config), present(config)
    check_settings(config, before)
    with tempfile.TemporaryDirectory() as folder:
        return _estimate(config, plan, before, Work(folder, alone=True))


def _estimate(config: IngestConfig, plan: SourceSurvey, before: Present, work: Work) -> Estimate:
    plan = complete(work, plan)
    unchanged = before.of(plan.fingerprint, config.append) is not None
    work, spooled, known, listed = prepare(work, config, plan, before)
    jobs, counts = look_up(work, config, listed, known.files)
    kinds: Counter[str] = Counter()
    total = 0
    for uri in spooled.files:
        table = load(uri)
        table = table.filter(pc.equal(table["role"], "photograph"))
        kinds.update(PurePosixPath(uri).suffix[1:].upper() or "ROWS OF TABLES" for uri in table["uri"].to_pylist())
        total += pc.sum(table["size"]).as_py() or 0
    fresh_bytes, chosen = 0, []
    for job in jobs:
        fresh = load(job["fresh"])
        fresh_bytes += pc.sum(fresh["listed"]).as_py() or 0
        rows = np.unique(np.linspace(0, fresh.num_rows - 1, min(-(-_SAMPLE // work.parts), fresh.num_rows)).astype(int))
        chosen.append(fresh.take(pa.array(rows)))
    sample, seconds, stored = _tried(pa.concat_tables(chosen), config, work.root)
    new = sum(count for _, count in counts)
    each = new / sample if sample else 0.0
    found = sum(count for count, _ in counts)
    return Estimate(
        found, kinds, spooled.left, new, total, fresh_bytes, sample, seconds * each, stored * each, unchanged
    )  # fmt: skip


def _tried(files: pa.Table, config: IngestConfig, folder: str) -> tuple[int, float, float]:
    """Examine and write some files: return their number, the processor seconds that it took, and the bytes written."""
    files = files.slice(0, max(1, int(np.searchsorted(np.cumsum(files["listed"].to_numpy()), _BYTES))))
    began = time.process_time()
    table = examine(files, config.accepted())
    table = table.filter(pc.equal(table["reason"], ""))
    table = table.append_column("pair_id", pa.nulls(table.num_rows, pa.string())).select(SHARD_COLUMNS)
    stored = 0
    if table.num_rows:
        name = "train-00000-00000000.parquet"
        write_shard(name, table, config.model_copy(update={"out": folder}))
        stored = (Path(folder) / name).stat().st_size
    return files.num_rows, time.process_time() - began, stored


def told(found: Estimate, config: IngestConfig) -> str:
    """Return an estimate as a short table."""
    if found.unchanged:
        return f"{config.out}: unchanged since the last ingest; nothing would be done (dry run, nothing was written)"
    shards = max(1, round(found.stored / (config.shard_mb * 2**20))) if found.new else 0
    rows: list[tuple[str, Any]] = [("photographs", f"{found.found:,}")]
    rows += [(f"  {kind}", f"{count:,}") for kind, count in found.kinds.most_common(_TOP_KINDS)]
    rows += [
        ("  bytes listed", _bytes(found.listed_bytes)),
        ("known from before", f"{found.found - found.new:,}"),
        ("new, to examine", f"{found.new:,}"),
        ("CPU hours, about", f"{found.seconds / 3600:,.3g}"),
        ("bytes to read, twice", _bytes(2 * found.new_bytes)),
        ("bytes to write, at most", _bytes(found.stored)),
        ("files opened to read", f"{2 * found.new:,}"),
        ("shards to write, about", f"{shards:,}"),
    ]
    lines = [f"would make a {config.domain} corpus in {config.out} (dry run, nothing was written)"]
    lines += [f"  {name:<26}{value:>12}" for name, value in rows]
    lines.append(f"  estimated from {found.sample} of the new photographs, as if all were kept")
    if found.left:
        lines.append(f"  left out: {left_out_text(found.left)}")
    if config.estimates_depth():
        lines.append("  without the depth model's time")
    return "\n".join(lines)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
