"""What reports share: pages from Jinja2 templates, and charts that stand in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
