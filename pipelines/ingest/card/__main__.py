"""``python -m pipelines.ingest.card corpora/hazy``: write the data card of a corpus anew, with other photographs if
asked: one HTML page on what is in it and what was left out, with thumbnails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from models.config import typed
from models.paths import child
from pipelines.command import run
from pipelines.corpus import CARD, open_corpus
from pipelines.ingest.card.data import CardSettings
from pipelines.ingest.card.page import write_card
from pipelines.ingest.card.tables import read_catalogue, read_suspicious
from pipelines.ingest.card.thumbnails import read_photograph


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog=typed("pipelines.ingest.card", "card"), description="The data card of a corpus, anew.", allow_abbrev=False
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
    catalogue, suspicious = read_catalogue(corpus), read_suspicious(corpus.uri)
    write_card(corpus.uri, catalogue, corpus.manifest, read_photograph, suspicious, **settings)
    print(child(corpus.uri, CARD))


if __name__ == "__main__":
    sys.exit(main())
