"""What the boxes of an AVIF or HEIC file tell beside its pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
