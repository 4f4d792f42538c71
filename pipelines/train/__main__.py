"""``python -m pipelines.train``: train a network from a recipe."""

import sys

from pipelines.train.job import main

if __name__ == "__main__":
    sys.exit(main())
