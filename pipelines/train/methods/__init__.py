"""Training methods without Ray: supervised, Colabator, CDD-GAN, the scorer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
