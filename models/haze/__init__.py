"""The physics of haze: the scattering model, haze on clear photographs, depth maps for it, the dark channel prior."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
