"""Dehaze a video: its files, interlaced frames, and a dehazer that does not flicker."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
