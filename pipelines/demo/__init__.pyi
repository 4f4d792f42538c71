from .samples import BROKEN as BROKEN
from .samples import SOURCES as SOURCES
from .samples import make_samples as make_samples
