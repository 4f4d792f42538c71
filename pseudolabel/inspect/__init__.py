"""Look into a label pool or a snapshot: what is in it, as figures, pictures or files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
