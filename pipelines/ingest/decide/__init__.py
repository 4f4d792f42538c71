"""What becomes of photographs, decided over parts of their catalogue in tasks: no process holds all of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
