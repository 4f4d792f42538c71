"""The dehazer as an HTTP service on Ray Serve."""

import models  # noqa: F401 - before torch, see there
