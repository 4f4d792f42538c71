from .scores import brisque as brisque
from .scores import niqe as niqe
