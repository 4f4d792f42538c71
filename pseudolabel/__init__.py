"""What Colabator adds: the scorer, trust maps, and the shared pool of the best label of every photograph."""

import lazy_loader

import models  # noqa: F401 - before torch, see there

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
