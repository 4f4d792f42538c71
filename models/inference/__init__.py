"""Dehaze one image of any size: bands, tiles and the memory that they take."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
