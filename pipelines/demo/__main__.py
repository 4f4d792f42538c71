"""``python -m pipelines.demo``: run the whole path on small data."""

import sys

from pipelines.demo.job import main

if __name__ == "__main__":
    sys.exit(main())
