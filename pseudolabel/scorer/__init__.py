"""Score clearness, quality and trust of photographs with CLIP: packaged, open_clip, DA-CLIP, MUSIQ."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
