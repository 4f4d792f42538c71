"""The data card of a corpus: one HTML page on what is in it and what was left out, with thumbnails.

python -m pipelines.ingest.card.command corpora/hazy

An ingest writes it; this command makes it anew, with other photographs if asked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.config import ConfigError, parse
from models.paths import child, filesystem, replacing
from pipelines.command import run
from pipelines.corpus import CARD, CATALOGUE, DEPTH_REPORT, Corpus, Manifest, open_corpus
from pipelines.ingest.card.data import COLUMNS, CardSettings, Choice, choose, facts
from pipelines.ingest.card.page import Card, Pair, Suspect, card_html
from pipelines.ingest.card.thumbnails import Made, Read, Wish, pictures, read_photograph
from pipelines.reports import Picture, Row
from pipelines.tracking import versions

_PACKAGES = ("numpy", "pillow", "pyarrow", "imagehash", "ray")


def write_card(
    out: str, catalogue: pa.Table, manifest: Manifest, read: Read, suspicious: list[dict[str, Any]], **settings: int
) -> None:
    """Write ``card.html`` into a corpus.

    The settings alone bound how many photographs are read, whatever the size of the corpus; with the default ones the
    page stays under 2 MB.

    Args:
        out: folder of the corpus, as a path or URI.
        catalogue: a row per file found, with :data:`~pipelines.ingest.card.data.COLUMNS`.
        manifest: of the same corpus.
        read: the bytes of a row's photograph; raises OSError. One that cannot be read gets a box that says why.
        suspicious: depth maps with ``uri`` (of the photograph), ``depth``, ``suspicions`` and ``message``.
        settings: of :class:`~pipelines.ingest.card.data.CardSettings`.

    Raises:
        ConfigError: an unknown setting, or one out of range.
    """
    chosen = parse(CardSettings, settings, "card")
    page = card_html(make_card(out, catalogue, manifest, read, suspicious, chosen))
    with replacing(child(out, CARD)) as stream:
        stream.write(page.encode())


def make_card(
    out: str,
    catalogue: pa.Table,
    manifest: Manifest,
    read: Read,
    suspicious: Sequence[Mapping[str, Any]],
    settings: CardSettings,
) -> Card:
    """Count, choose and read what the page shows; arguments as of :func:`write_card`."""
    choice = choose(catalogue, suspicious, settings)
    made = pictures(out, _wishes(choice), read)

    def of(rows: Iterable[Row]) -> list[Picture]:
        return [made[row["uri"], "image"] for row in rows]

    return Card(
        uri=out,
        manifest=manifest,
        facts=facts(catalogue),
        samples=of(choice.samples),
        bands={band: of(rows) for band, rows in choice.bands.items()},
        pairs=[_pair(kept, dropped, made) for kept, dropped in choice.pairs],
        rejects={reason: of(rows) for reason, rows in choice.rejects.items()},
        suspects=[_suspect(said, row, made) for said, row in choice.suspects],
        suspicious=len(suspicious),
        settings=settings,
        versions=versions(_PACKAGES),
    )


def _wishes(choice: Choice) -> Iterable[Wish]:
    for rows in (choice.samples, *choice.bands.values(), *choice.rejects.values()):
        yield from map(Wish, rows)
    for kept, dropped in choice.pairs:
        yield Wish(dropped)
        yield _wish_kept(kept, dropped)
    for _, row in choice.suspects:
        if row is not None:
            yield from (Wish(row), Wish(row, "depth"))


def _wish_kept(kept: Row | None, dropped: Row) -> Wish:
    """What a duplicate is a copy of; one that this corpus does not have belongs to another."""
    return Wish({"uri": dropped["same_as"] or ""}, "elsewhere") if kept is None else Wish(kept)


def _pair(kept: Row | None, dropped: Row, made: Made) -> Pair:
    wish = _wish_kept(kept, dropped)
    return Pair(made[wish.row["uri"], wish.what], made[dropped["uri"], "image"])


def _suspect(said: Mapping[str, Any], row: Row | None, made: Made) -> Suspect:
    if row is None:
        missing = Picture(str(said["uri"]), {}, problem="the catalogue does not have it")
        return Suspect(missing, missing, said)
    return Suspect(made[row["uri"], "image"], made[row["uri"], "depth"], said)


def read_catalogue(corpus: Corpus) -> pa.Table:
    """The columns of a corpus's catalogue that a card needs.

    Raises:
        ConfigError: there is none, it is damaged, or it belongs to another state of the corpus.
    """
    uri = child(corpus.uri, CATALOGUE)
    remedy = "run `python -m pipelines.ingest` with the corpus's sources again"
    files, path = filesystem(uri)
    if files.get_file_info(path).type != pafs.FileType.File:
        raise ConfigError(f"there is no {uri}, which a card is made from; {remedy}")
    try:
        with files.open_input_file(path) as stream:
            catalogue = pq.ParquetFile(stream).read(columns=list(COLUMNS))
    except pa.ArrowException as problem:
        raise ConfigError(f"{uri} is damaged ({problem}); {remedy}") from problem
    missing = [column for column in COLUMNS if column not in catalogue.column_names]
    if missing:
        raise ConfigError(f"{uri} has no columns {', '.join(missing)}; {remedy}")
    if catalogue.num_rows != corpus.manifest.found:
        raise ConfigError(
            f"{uri} has {catalogue.num_rows} files, but {corpus.manifest.found} were found by the manifest; {remedy}"
        )
    return catalogue


def read_suspicious(corpus: Corpus) -> list[dict[str, Any]]:
    """What ``rejects/depth.jsonl`` says; nothing when there is no such file."""
    files, path = filesystem(child(corpus.uri, DEPTH_REPORT))
    if files.get_file_info(path).type != pafs.FileType.File:
        return []
    with files.open_input_stream(path) as stream:
        return [json.loads(line) for line in stream.read().decode().splitlines() if line.strip()]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ingest.card.command",
        description="The data card of a corpus, anew.",
        allow_abbrev=False,
    )
    parser.add_argument("corpus", metavar="CORPUS", help="folder of the corpus; path or URI")
    for name, what in (
        ("samples", "photographs at random"), ("pairs", "pairs of duplicates"), ("rejects", "rejected files"),
        ("seed", "chooses which ones are shown"),
    ):  # fmt: skip
        default = CardSettings.model_fields[name].default
        parser.add_argument(f"--{name}", type=int, metavar="N", default=default, help=f"{what} (default {default})")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> None:
    settings = vars(args)
    corpus = open_corpus(settings.pop("corpus"))
    catalogue, suspicious = read_catalogue(corpus), read_suspicious(corpus)
    write_card(corpus.uri, catalogue, corpus.manifest, read_photograph, suspicious, **settings)
    print(child(corpus.uri, CARD))


if __name__ == "__main__":
    sys.exit(main())
