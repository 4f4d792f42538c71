"""A crew of workers that may die or fall sick: the work that is left to do, who does it, and Ray actors for it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
