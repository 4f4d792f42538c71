"""The networks (CORUN, DGUN, CDD-GAN), their blocks, and the names of the released weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
