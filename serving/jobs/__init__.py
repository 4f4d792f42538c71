"""Long work: jobs whose photographs are dehazed behind ordinary requests, kept in a folder over restarts. No HTTP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
