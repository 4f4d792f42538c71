from .boxes import HeifLayout as HeifLayout
from .boxes import layout as layout
