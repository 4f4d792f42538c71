from .dehazing import DEFAULT_CONFIG as DEFAULT_CONFIG
from .dehazing import Dehazed as Dehazed
from .dehazing import InferenceConfig as InferenceConfig
from .dehazing import as_dehazed as as_dehazed
from .dehazing import blend as blend
from .dehazing import dehaze as dehaze
from .memory import peak_bytes as peak_bytes
from .panorama import goes_round as goes_round
