"""Keep the best pseudo label of every photograph: entries, store and snapshots; with Ray, actors and their client."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
