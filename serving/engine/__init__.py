"""What a replica does: models, batches, a photograph in and a photograph out. No HTTP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
