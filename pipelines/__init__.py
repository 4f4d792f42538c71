"""Ray jobs, one file per job: ``python -m pipelines.<job> --help``."""

import models  # noqa: F401 - before torch, see there
