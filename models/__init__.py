"""Networks, physics and the image contract: everything that has weights or equations, in plain torch."""

import os

import lazy_loader

# Threads that wait for each other sleep. They would spin, and where other programs want the same cores that makes
# dehazing several times as slow. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
