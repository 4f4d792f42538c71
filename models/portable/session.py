"""A network in an ONNX file, run by onnxruntime wherever a ``torch.nn.Module`` is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.config import ConfigError

SUFFIX = ".onnx"
IMAGE, SCENE, TRANSMISSION = "image", "scene", "transmission"
CONFIG = "ray-dehaze.config"
"""Where the file's metadata have the configuration of the network that it was made of, as JSON."""
EXTRA = "pip install 'ray-dehaze[onnx]'"


@dataclass(frozen=True)
class _Output:
    """What :func:`models.inference.as_dehazed` reads."""

    scene: Tensor
    transmission: Tensor | None


class OnnxNetwork(nn.Module):
    """The network of an ONNX file: on the processor, in float32, one image at a time.

    Any file serves that has an input ``image``, 1 x 3 x height x width in [0, 1], and an output ``scene`` of that size,
    and perhaps ``transmission``, 1 x 1 x height x width. Other outputs are ignored. Its buffer is the file itself, so
    that what compares weights notices another one.

    Args:
        file: what :func:`models.portable.export_onnx` or another program wrote.

    Raises:
        ConfigError: onnxruntime is not installed, or the file is missing, damaged or of another shape.
    """

    file: Tensor

    def __init__(self, file: str | os.PathLike[str]) -> None:
        super().__init__()
        path = Path(file)
        try:
            import onnxruntime
        except ImportError as problem:
            raise ConfigError(f"{path} needs onnxruntime ({problem}): {EXTRA}") from problem
        if not path.is_file():
            raise ConfigError(f"no model {str(path)!r}: there is no such file")
        data = path.read_bytes()
        # A copy that can be written, and never empty: frombuffer takes nothing else.
        self.register_buffer("file", torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's kinds have no common parent but this
            raise ConfigError(f"{path} cannot be run by onnxruntime: {_short(problem)}") from problem
        inputs = [(part.name, len(part.shape)) for part in self._session.get_inputs()]
        outputs = [part.name for part in self._session.get_outputs()]
        if inputs != [(IMAGE, 4)] or SCENE not in outputs:
            raise ConfigError(
                f"{path} maps {', '.join(name for name, _ in inputs)} to {', '.join(outputs)}; expected an input "
                f"'{IMAGE}' of four dimensions and an output '{SCENE}'"
            )
        self._names = [name for name in (SCENE, TRANSMISSION) if name in outputs]

    @property
    def config(self) -> dict[str, Any]:
        """Return the config of the checkpoint that it was made of; the network is ``onnx`` where it does not say."""
        text = self._session.get_modelmeta().custom_metadata_map.get(CONFIG, "")
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        known = isinstance(found, Mapping) and isinstance(found.get("network"), Mapping)
        return dict(found) if known else {"network": {"name": "onnx"}}

    def forward(self, image: Tensor) -> _Output:
        """Run the network: N3HW in [0, 1] -> scene N3HW and perhaps transmission N1HW, on the image's device."""
        parts = [self._one(part) for part in torch.split(image.detach().float().cpu(), 1)]
        both = [torch.cat(found).to(image.device) for found in zip(*parts, strict=True)]
        return _Output(both[0], both[1] if len(both) > 1 else None)

    def _one(self, image: Tensor) -> list[Tensor]:
        found = self._session.run(self._names, {IMAGE: image.contiguous().numpy()})
        return [torch.from_numpy(array) for array in found]


def _short(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
