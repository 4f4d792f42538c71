"""Depth maps from photographs alone, by any depth model of ``transformers``.

A folder with a model in it, or a name such as ``depth-anything/Depth-Anything-V2-Small-hf`` whose weights are in the
local cache. Nothing is downloaded, only safetensors are read, and no code that comes with a model is run. Needs the
extra ``ray-dehaze[depth]``. No Ray.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError

from models import images
from models.config import ConfigError, Settings

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_METRIC_TYPES = frozenset({"zoedepth", "glpn", "depth_pro", "prompt_depth_anything"})
_LONGEST_SHAPE = 3.0  # longer ones are squeezed: image processors scale the short side, whatever the long one becomes
_SMALLEST_SIDE = 32


class DepthModelConfig(Settings):
    """Which depth model, and how it runs.

    Attributes:
        model: folder of a model, or its name on the hub.
        device: such as ``cpu`` or ``cuda:0``.
        max_side: longer photographs are reduced before the model's own image processor sees them; the maps have the
            photograph's size all the same.
    """

    model: str = Field(min_length=1)
    device: str = "cpu"
    max_side: int = Field(1024, ge=_SMALLEST_SIDE)


def is_depth_model(text: str) -> bool:
    """Tell whether ``--depth TEXT`` is a model: its folder, or ``organization/name`` where there is no such path."""
    path = Path(text)
    if not path.exists():
        return _HUB_NAME.fullmatch(text) is not None
    config = path / "config.json"
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("model_type"), str)


class DepthModel:
    """A loaded depth model. :meth:`load` makes one.

    Attributes:
        metric: whether the network gives distances, larger = farther, which :meth:`estimate` turns round.
    """

    def __init__(self, network: Any, processor: Any, config: DepthModelConfig) -> None:
        self.network = network
        self.processor = processor
        self.config = config
        self.metric = _gives_distances(network.config)

    @classmethod
    def load(cls, config: DepthModelConfig) -> DepthModel:
        """Read the weights: from a folder, else from the local cache; nothing is downloaded.

        Raises:
            ConfigError: ``transformers`` is not installed, the weights are not at hand, are pickled or incomplete, or
                are no depth model's.
        """
        try:
            processor, network = _pretrained(config)
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            raise _not_at_hand(config, problem) from problem
        try:
            network = network.to(config.device)
        except RuntimeError as problem:  # PyTorch's for a device it does not know or have
            raise ConfigError(f"cannot put {config.model} on device '{config.device}': {_first(problem)}") from problem
        return cls(network.eval().requires_grad_(False), processor, config)

    def estimate(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Estimate the depth of a photograph: (H, W, 3) uint8 to (H, W), larger = nearer, in the model's own unit."""
        import torch

        size = _working_size(pixels.shape[0], pixels.shape[1], self.config.max_side)
        ready = images.resize(pixels, size[1], size[0])
        inputs = self.processor(images=[ready], return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            outputs = self.network(pixel_values=inputs["pixel_values"].to(self.config.device))
        # ZoeDepth's processor pads, and needs the sizes to take that off again.
        extra = {"source_sizes": [size]} if self.network.config.model_type == "zoedepth" else {}
        (found,) = self.processor.post_process_depth_estimation(outputs, target_sizes=[size], **extra)
        depth: NDArray[np.float32] = found["predicted_depth"].reshape(size).cpu().numpy()
        return _resized(-depth if self.metric else depth, pixels.shape)


def _pretrained(config: DepthModelConfig) -> tuple[Any, Any]:
    """Image processor and network."""
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as problem:
        raise ConfigError(
            f"depth model {config.model} needs transformers, which is not installed; pip install 'ray-dehaze[depth]'"
        ) from problem
    options = {"local_files_only": True, "trust_remote_code": False}
    network, loading = AutoModelForDepthEstimation.from_pretrained(
        config.model, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        lacking = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
        raise ConfigError(
            f"{config.model} lacks {len(lacking)} weights of a depth model, such as {lacking[0]}; expected a "
            "checkpoint made for depth estimation, not its backbone"
        )
    processor = AutoImageProcessor.from_pretrained(config.model, **options)  # type: ignore[no-untyped-call]
    return processor, network


def _not_at_hand(config: DepthModelConfig, problem: Exception) -> ConfigError:
    if Path(config.model).is_dir():
        from models.weights_files import reason_of

        reason = reason_of(problem, *Path(config.model).glob("*.safetensors"))
        return ConfigError(
            f"cannot load a depth model from {config.model}: {reason}; expected config.json, "
            "preprocessor_config.json and model.safetensors of a model that transformers knows"
        )
    return ConfigError(
        f"the weights of depth model {config.model} are not at hand ({_first(problem)}); there is no such folder "
        f"either. Fetch them with 'hf download {config.model}' where there is a network, or give the folder of a copy"
    )


def _gives_distances(config: Any) -> bool:
    kind = getattr(config, "depth_estimation_type", None)
    return kind == "metric" or (kind is None and config.model_type in _METRIC_TYPES)


def _working_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Size at which a photograph is given to the image processor."""
    scale = min(1.0, max_side / max(height, width))
    rows, columns = max(_SMALLEST_SIDE, round(height * scale)), max(_SMALLEST_SIDE, round(width * scale))
    least = round(max(rows, columns) / _LONGEST_SHAPE)
    return max(rows, least), max(columns, least)


def _resized(depth: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize bilinearly to the photograph's (H, W)."""
    from PIL import Image

    if depth.shape == shape[:2]:
        return depth
    return np.array(Image.fromarray(depth).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _first(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
