from .develop import develop as develop
from .develop import exif_block as exif_block
from .develop import is_raw as is_raw
from .develop import probe as probe
from .develop import reads_suffix as reads_suffix
