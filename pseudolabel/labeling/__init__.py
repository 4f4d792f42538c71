"""Make pseudo labels: teacher and scorer give candidates, label workers do it in parallel, in rounds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
