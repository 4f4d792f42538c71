from .export import LEAST as LEAST
from .export import OPSET as OPSET
from .export import SIZES as SIZES
from .export import check_onnx as check_onnx
from .export import export_fit as export_fit
from .export import export_onnx as export_onnx
from .session import SUFFIX as SUFFIX
from .session import OnnxNetwork as OnnxNetwork
