"""``python -m pipelines.evaluate``: measure models on test photographs."""

import sys

from pipelines.evaluate.job import main

if __name__ == "__main__":
    sys.exit(main())
