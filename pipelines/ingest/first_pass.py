"""The first pass of an ingest over parts: what is known of files is looked up, what is not is found out.

Files go by hash of what has to be opened for them, so that those of an archive stay together; what is found out goes by
hash of the photographs' content, as decisions need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config import ConfigError
from models.paths import child
from pipelines import corpus as catalogue
from pipelines.corpus import EXAMINED, first_rows, split_known
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import BANNED, HELD, ROWS, Banned, Work, by_content, by_text, gather, load, scatter, store
from pipelines.ingest.discover import LISTED, Sorter, SourceFile, expand, left_out, match_depth, no_match
from pipelines.ingest.examine import examine, portions
from pipelines.ingest.publish import Present
from pipelines.ingest.survey import Listing, SourceSurvey
from pipelines.mapping import map_tables
from pipelines.shown import progress

KNOWN = EXAMINED.append(pa.field("catalogued", pa.bool_()))  # by a finished ingest, not by one that was cut off
_PARTS_OF_A_TASK = 1000  # files of 64 rows


@dataclass(frozen=True)
class Spooled:
    """A listing with its containers opened, in files of ``LISTED``: how many are photographs, how many depth maps, an
    example of a photograph's key, and members that are left out, by kind.
    """

    files: list[str]
    photographs: int
    maps: int
    example: str
    left: Counter[str]


@dataclass(frozen=True)
class Known:
    """Files of ``KNOWN`` by part of listings, of ``HELD`` by part of the sheet, and the rows of each shard."""

    files: list[str]
    held: list[str]
    sizes: dict[str, int]


def spool(work: Work, stage: str, listing: Listing) -> Spooled:
    """Write a listing into files of :data:`ROWS` rows, beside those that tasks wrote; its containers are opened in
    tasks, one each.
    """
    files = list(listing.parts)
    example, roles, left = listing.example, Counter(listing.roles), Counter(listing.left)
    for table in _in_rows(_opened(listing, work.alone)):
        for role in ("photograph", "depth"):
            roles[role] += pc.sum(pc.equal(table["role"], role)).as_py() or 0
        left += left_out(table)
        if not example and roles["photograph"]:
            example = table.filter(pc.equal(table["role"], "photograph"))["key"][0].as_py()
        files.append(work.place(stage, len(files)))
        store(files[-1], LISTED, [table])
    return Spooled(files, roles["photograph"], roles["depth"], example, left)


def prepare(
    work: Work, config: IngestConfig, plan: SourceSurvey, before: Present
) -> tuple[Work, Spooled, Known, list[str]]:
    """Spool all that is listed, and cut it and what is known of it into the same parts.

    Returns:
        The work in so many parts, what is spooled, what is known, and files of photographs (:func:`list_photographs`).

    Raises:
        ConfigError: there are no photographs, or depth maps of others only.
    """
    spooled = spool(work, "spooled", plan.photographs)
    if not spooled.photographs:
        raise _no_photographs(config, spooled)
    depth = spooled if plan.depth is None else spool(work, "spooled-depth", plan.depth)
    besides = before.manifest.found if config.append and before.manifest is not None else 0
    work = replace(work, parts=-(-(spooled.photographs + besides) // ROWS))
    pieces = before.catalogue or []
    known = scatter_known(work, pieces, config, examined=before.same_examination, stored=before.same_settings)
    return work, spooled, known, list_photographs(work, spooled, depth)


def _in_rows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of :data:`ROWS` rows each."""
    waiting = LISTED.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= ROWS:
            yield waiting.slice(0, ROWS).combine_chunks()
            waiting = waiting.slice(ROWS)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _opened(listing: Listing, alone: bool) -> Iterator[pa.Table]:
    yield listing.files
    if not listing.containers:
        return
    blocks = [pa.Table.from_pylist([{**asdict(file), "kind": kind}]) for file, kind in listing.containers]
    with progress(len(blocks), "open archives", "files") as bar:
        function = partial(_expand_batch, sorter=listing.sorter)
        for table in map(function, blocks) if alone else map_tables(blocks, function):
            yield table.cast(LISTED)
            bar.update()


def _expand_batch(batch: pa.Table, sorter: Sorter) -> pa.Table:
    """Runs in a task."""
    tables = []
    for row in batch.to_pylist():
        kind = row.pop("kind")
        tables.append(expand(SourceFile(**row), kind, sorter))
    return pa.concat_tables(tables)


def list_photographs(work: Work, spooled: Spooled, depth: Spooled | None) -> list[str]:
    """List the photographs of a listing by part, with the places of their depth maps: those of ``depth``, which may be
    the listing itself.

    Raises:
        ConfigError: there are depth maps, and none is of a photograph.
    """
    if depth is None or not depth.maps:
        jobs = [{"listed": uri, "out": work.place("listed", n)} for n, uri in enumerate(spooled.files)]
        work.run(partial(_by_container, parts=work.parts), jobs)
        return [job["out"] for job in jobs]
    sources: dict[str, list[str]] = {}
    for role, files in (("photograph", spooled.files), ("depth", depth.files)):
        jobs = [{"listed": uri, "out": work.place(f"named-{role}", n)} for n, uri in enumerate(files)]
        work.run(partial(_by_name, role=role, parts=work.parts), jobs)
        sources[role] = [job["out"] for job in jobs]
    if not sum(work.run(partial(_match, sources=sources, parts=work.parts), work.jobs(out="listed"))):
        raise no_match(depth.maps, spooled.example)
    return work.places("listed")


def _by_container(listed: str, out: str, parts: int) -> None:
    table = load(listed)
    _scatter_places(out, table.filter(pc.equal(table["role"], "photograph")), parts)


def _scatter_places(out: str, table: pa.Table, parts: int) -> None:
    containers = pc.replace_substring_regex(table["place"], r"^[^|]*\|[^|]*\|[^|]*\|", "")
    scatter(out, table, by_text(containers, parts), parts)


def _by_name(listed: str, out: str, role: str, parts: int) -> None:
    table = load(listed)
    table = table.filter(pc.equal(table["role"], role))
    scatter(out, table, by_text(pc.replace_substring_regex(table["key"], r"(?s)^.*/", ""), parts), parts)


def _match(part: int, out: str, sources: dict[str, list[str]], parts: int) -> int:
    photographs, maps = (gather(sources[role], part) for role in ("photograph", "depth"))
    found = match_depth(photographs, maps)
    uris, own = photographs["uri"].to_pylist(), photographs["depth"].to_pylist()
    places = [found.get(uri, place) for uri, place in zip(uris, own, strict=True)]
    column = photographs.schema.get_field_index("depth")
    _scatter_places(out, photographs.set_column(column, "depth", pa.array(places, pa.string())), parts)
    return len(found)


def scatter_known(
    work: Work, pieces: Sequence[catalogue.Piece], config: IngestConfig, examined: bool, stored: bool
) -> Known:
    """Write what is known from the present catalogue and from an ingest that was cut off, by part.

    Args:
        work: where it goes.
        pieces: of the catalogue.
        config: of this ingest.
        examined: whether the catalogue's files were examined as they would be now.
        stored: whether its shards were made as they would be now.
    """
    jobs: list[dict[str, Any]] = [
        {"piece": piece, "known": work.place("known", n), "held": work.place("held", n)}
        for n, piece in enumerate(pieces)
    ]
    sizes: Counter[str] = Counter()
    for counts in work.run(partial(_of_catalogue, examined=examined, stored=stored, parts=work.parts), jobs):
        if counts is None:  # a catalogue that is damaged counts as none
            return scatter_known(work, [], config, examined, stored)
        sizes.update(counts)
    parts = list(catalogue.stored_parts(config.out, config.examining()))
    more: list[dict[str, Any]] = [
        {"uris": parts[first : first + _PARTS_OF_A_TASK], "known": work.place("known", len(pieces) + first)}
        for first in range(0, len(parts), _PARTS_OF_A_TASK)
    ]
    work.run(partial(_of_stored_parts, parts=work.parts), more)
    return Known([job["known"] for job in [*jobs, *more]], [job["held"] for job in jobs], dict(sizes))


def _of_catalogue(
    piece: catalogue.Piece, known: str, held: str, examined: bool, stored: bool, parts: int
) -> dict[str, int] | None:
    try:
        table = catalogue.read_piece(piece)
    except pa.ArrowException:
        return None
    mine = table.filter(pc.equal(table["status"], "accepted")) if stored else table.slice(0, 0)
    scatter(held, mine.select(HELD.names).cast(HELD), by_text(mine["image_id"], parts), parts)
    table = catalogue.as_examined(table) if examined else EXAMINED.empty_table()
    _scatter_places(known, table.append_column("catalogued", pa.array(np.ones(table.num_rows, bool))), parts)
    return dict(Counter(mine["shard"].to_pylist()))


def _of_stored_parts(uris: Sequence[str], known: str, parts: int) -> None:
    table = pa.concat_tables([EXAMINED.empty_table(), *map(catalogue.read_part, uris)])
    _scatter_places(known, table.append_column("catalogued", pa.array(np.zeros(table.num_rows, bool))), parts)


def look_up(
    work: Work, config: IngestConfig, listed: Sequence[str], known: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Look up all that is listed: what is known goes into the file ``out`` of a job for each part, the rest
    into ``fresh``. Return the jobs with how many files each has, and how many of them are fresh.
    """
    jobs = work.jobs(out="examined", fresh="fresh")
    return jobs, work.run(partial(_look_up, listed=listed, known=known, append=config.append, parts=work.parts), jobs)


def first_pass(work: Work, config: IngestConfig, listed: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Examine all that is listed, and return files of ``EXAMINED``, cut for the sheet; with ``append`` also of
    photographs that only the catalogue has.
    """
    jobs, counts = look_up(work, config, listed, known)
    examined = [job["out"] for job in jobs]
    total, fresh = (sum(count[i] for count in counts) for i in (0, 1))
    if fresh < total:
        print(f"{total - fresh} of {total} {what} are known from before", flush=True)
    with progress(fresh, f"examine {what}", "files") as bar:
        for job, (_, count) in zip(jobs, counts, strict=True):
            if count:
                tables = [EXAMINED.empty_table()]
                function = partial(_examine_batch, config=config)
                for table in map_tables(list(portions(load(job["fresh"]))), function, config.concurrency):
                    tables.append(table.cast(EXAMINED))
                    bar.update(table.num_rows)
                examined.append(work.place("examined", work.parts + job["part"]))
                table = pa.concat_tables(tables)
                scatter(examined[-1], table, by_content(table, work.parts), work.parts)
    return examined


def _look_up(
    part: int, out: str, fresh: str, listed: Sequence[str], known: Sequence[str], append: bool, parts: int
) -> list[int]:
    files = first_rows(gather(listed, part), "uri")
    table = gather(known, part) if known else KNOWN.empty_table()
    rows, unknown = split_known(files, first_rows(table, catalogue.FILE_KEYS).drop_columns(["catalogued"]))
    if append:
        besides = pc.and_not(table["catalogued"], pc.is_in(table["uri"], value_set=files["uri"].combine_chunks()))
        rows = pa.concat_tables([table.filter(besides).select(EXAMINED.names), rows])
    scatter(out, rows, by_content(rows, parts), parts)
    store(fresh, unknown.schema, [unknown])
    return [files.num_rows, unknown.num_rows]


def _examine_batch(batch: pa.Table, config: IngestConfig) -> pa.Table:
    """Runs in a task."""
    table = examine(batch, config.accepted())
    catalogue.store_part(config.out, config.examining(), table)
    return table


def held_out(work: Work, config: IngestConfig, listing: Listing, stage: str) -> Banned:
    """Examine the held-out photographs and ban them."""
    own = Work(child(work.root, stage), work.parts, work.concurrency)
    spooled = spool(own, "spooled", listing)
    known = scatter_known(own, [], config, examined=False, stored=False)
    config_ = config.model_copy(update={"append": False})
    examined = first_pass(own, config_, list_photographs(own, spooled, None), known.files, "held-out photographs")
    jobs = [{"examined": uri, "out": own.place("banned", n)} for n, uri in enumerate(examined)]
    hashes = sum(own.run(partial(_as_banned, parts=work.parts), jobs))
    return Banned("held_out", [job["out"] for job in jobs], hashes)


def _as_banned(examined: str, out: str, parts: int) -> int:
    tables = [load(examined, part) for part in range(parts)]
    seen = [pc.greater(table["width"], 0) for table in tables]
    hashes = [pc.if_else(good, table["phash"], None) for good, table in zip(seen, tables, strict=True)]
    columns = [[t["image_id"], t["uri"], phash] for t, phash in zip(tables, hashes, strict=True)]
    store(out, BANNED, [pa.table(three, schema=BANNED) for three in columns])
    return sum(pc.sum(good).as_py() or 0 for good in seen)


def _no_photographs(config: IngestConfig, spooled: Spooled) -> ConfigError:
    """Return the error when archives hold no photographs."""
    passed = f"; left out: {catalogue.left_out_text(spooled.left)}" if spooled.left else ""
    return ConfigError(f"there are no photographs in the archives of {', '.join(config.sources)}{passed}")
