"""Turn files into RGB and back: codec, color, metadata and limits, the same for training, command line and HTTP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
