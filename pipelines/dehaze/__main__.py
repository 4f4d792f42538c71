"""``python -m pipelines.dehaze``: dehaze a folder on a Ray cluster."""

import sys

from pipelines.dehaze.cluster_job import main

if __name__ == "__main__":
    sys.exit(main())
