from .haze import DarkChannelPrior as DarkChannelPrior
from .inference import dehaze as dehaze
from .networks import Cddgan as Cddgan
from .networks import Corun as Corun
from .networks import Dgun as Dgun
from .predictor import Predictor as Predictor
from .zoo import load as load
