"""``python -m pipelines.ingest``: make a corpus from photographs."""

import sys

from pipelines.ingest.job import main

if __name__ == "__main__":
    sys.exit(main())
