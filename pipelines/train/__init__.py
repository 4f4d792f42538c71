"""Train a network from a recipe: Ray Data makes samples, Ray Train runs the method on all workers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
