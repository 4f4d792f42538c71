from .clip import run_video as run_video
from .files import Reader as Reader
from .files import VideoFrame as VideoFrame
from .smoothing import Smoother as Smoother
