"""The format of a corpus, its catalogue and its sources: what ingest writes and the other jobs read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
