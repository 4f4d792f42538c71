from .config import EvaluateConfig as EvaluateConfig
from .job import evaluate as evaluate
from .metrics import METRICS as METRICS
from .metrics import fade as fade
from .metrics import psnr as psnr
from .metrics import ssim as ssim
from .naturalness import brisque as brisque
from .naturalness import niqe as niqe
