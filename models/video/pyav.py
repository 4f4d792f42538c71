"""PyAV, or what to install for it."""

from models.config import ConfigError

try:
    import av
    import av.filter
    import av.stream
except ImportError as problem:
    raise ConfigError("videos need PyAV: pip install 'ray-dehaze[video]'") from problem

__all__ = ["av"]
