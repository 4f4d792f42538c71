from .depth import procedural_depth as procedural_depth
from .prior import DarkChannelPrior as DarkChannelPrior
from .scattering import scatter as scatter
from .scattering import transmission_from_depth as transmission_from_depth
from .synthesis import HazeConfig as HazeConfig
from .synthesis import jpeg as jpeg
from .synthesis import kinds_of as kinds_of
from .synthesis import synthesize as synthesize
