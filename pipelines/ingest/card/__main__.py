"""``python -m pipelines.ingest.card``: write the data card of a corpus anew."""

import sys

from pipelines.ingest.card.command import main

if __name__ == "__main__":
    sys.exit(main())
