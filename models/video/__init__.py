"""Videos: their files, interlaced frames, a dehazer that does not flicker, and a process for files of strangers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
