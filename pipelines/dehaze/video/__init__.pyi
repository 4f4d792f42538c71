from .clip import VideoOptions as VideoOptions
from .clip import run_video as run_video
from .files import Frame as Frame
from .files import Reader as Reader
from .smoothing import Smoother as Smoother
