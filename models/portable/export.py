"""Networks to ONNX files, with any height and width, checked against torch.

The graph takes what :func:`models.inference.dehaze` gives a network, and pads and crops as it does: it is the network
on all pixels. What is done around the network is not in it: the smaller version in which large photographs are seen,
gray photographs that stay gray, tiles. The color fit that carries the result over to the large photograph
(:mod:`models.inference.guided`) is a graph of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ConfigError
from models.inference import EXACT, applied, as_dehazed, coefficients, dehaze
from models.portable.session import CONFIG, EXTRA, IMAGE, SCENE, TRANSMISSION, OnnxNetwork

OPSET = 18
"""Of the file: the first whose Resize can smooth while it shrinks; runtimes since 2023 read it."""
SIZES = ((200, 264), (64, 64), (97, 131), (33, 250), (8, 9))
"""Heights and widths at which an export is compared with torch: multiples of 8 and others, the least among them."""
LEAST = 60.0
"""PSNR in dB of the exported scene and transmission to torch's, below which an export is refused."""
_MULTIPLE = 8  # of the sides that networks are given
_TRACED = (13 * _MULTIPLE, 17 * _MULTIPLE)  # unlike each other and the widths of layers


class _Clamped(nn.Module):
    """A network with what :func:`models.inference.dehaze` does to its output, as tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = as_dehazed(self.network(image))
        parts = (found.scene,) if found.transmission is None else (found.scene, found.transmission)
        return tuple(part.clamp(0.0, 1.0) for part in parts)


def export_onnx(network: nn.Module, file: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> Path:
    """Write a network as ONNX: ``image`` 1 x 3 x height x width in [0, 1] to ``scene`` and perhaps ``transmission``.

    Args:
        network: in evaluation mode, on the CPU.
        file: to write.
        config: goes into the file's metadata, as JSON.

    Raises:
        ConfigError: the packages of the extra are not installed, or the network cannot be exported for every size.
    """
    _require_packages()
    import onnx

    model = _any_size(_core(network))
    onnx.helper.set_model_props(model, {CONFIG: json.dumps(config or {}, sort_keys=True, default=str)})
    onnx.checker.check_model(model)
    path = Path(file)
    path.write_bytes(model.SerializeToString())
    return path


def export_fit(file: str | os.PathLike[str]) -> Path:
    """Write the color fit as ONNX: what was done to a small photograph is done to the large one.

    It takes ``image`` 1 x 3 x H x W, ``small`` 1 x 3 x h x w, the same smaller, and ``small_scene``, which a network
    made of that; it gives ``scene`` 1 x 3 x H x W. All are in [0, 1], with sides from 9 pixels on. The same as
    :func:`models.inference.enlarged`.

    Raises:
        ConfigError: the packages of the extra are not installed.
    """
    _require_packages()
    random = torch.Generator().manual_seed(0)
    sizes = (200, 304), (96, 120), (96, 120)  # a tensor that is there twice would be one input
    large, small, target = (torch.rand(1, 3, *size, generator=random) for size in sizes)
    dims = [
        {axis: torch.export.Dim(f"{of}{name}", min=9) for axis, name in ((2, "height"), (3, "width"))}
        for of in ("", "small_")
    ]
    example = {IMAGE: large, "small": small, "target": target}
    sides = {IMAGE: dims[0], "small": dims[1], "target": dims[1]}
    with torch.no_grad(), _quiet():
        model = _traced(_Fit().eval(), example, sides, [IMAGE, "small", f"small_{SCENE}"], [SCENE])
    path = Path(file)
    path.write_bytes(model.SerializeToString())
    return path


class _Fit(nn.Module):
    """The color fit of :mod:`models.inference.guided`, all rows at once."""

    def forward(self, image: Tensor, small: Tensor, target: Tensor) -> Tensor:
        fields = coefficients(small, target)
        maps = F.interpolate(fields.flatten(1, 2), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return applied(maps.view(*fields.shape[:3], *image.shape[-2:]), image)


def _solved(matrices: Tensor, right: Tensor, **_options: bool) -> tuple[Tensor, ...]:
    """Solve equations as ``aten._linalg_solve_ex`` does, for ONNX, which has no solver.

    By Gauss-Jordan elimination, without pivots: matrices (..., K, K) are positive definite here. In float64, as
    differences lose digits.

    Returns:
        x (..., K, M) of ``matrices x = right``, and three tensors that nobody reads.
    """
    both = torch.cat([matrices, right], dim=-1).double()
    for _ in range(matrices.shape[-1]):
        # The first row has its turn, and goes behind the others without its first column.
        row = both[..., :1, 1:] / both[..., :1, :1]
        both = torch.cat([both[..., 1:, 1:] - both[..., 1:, :1] * row, row], dim=-2)
    none = torch.zeros((), dtype=torch.int32)
    return both.to(right.dtype), matrices, none, none


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as problem:
        raise ConfigError(f"the export needs onnx and onnxscript ({problem}): {EXTRA}") from problem


def _traced(
    module: nn.Module, example: Mapping[str, Tensor], sides: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Return the ONNX model of a module for the sides that may change; None where torch gives none."""
    from onnxscript import ir

    # By itself: from within the exporter to ONNX, a branch that depends on one size is taken without an error.
    traced = torch.export.export(module, tuple(example.values()), dynamic_shapes=sides)
    known = torch.export.default_decompositions()
    known[torch.ops.aten._linalg_solve_ex.default] = _solved  # noqa: SLF001
    known[torch.ops.prims.copy_strided.default] = lambda tensor, _strides: tensor.clone()  # ONNX knows no layouts
    traced = traced.run_decompositions(known)
    program = torch.onnx.export(
        traced, dynamo=True, opset_version=OPSET, verbose=False, input_names=inputs, output_names=outputs
    )
    if program is None:
        return None
    # The exporter notes stack traces at the nodes: paths and source of this machine, and half of the file.
    ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _core(network: nn.Module) -> Any:
    """Return the network's own graph, for sides that are multiples of 8: ``padded`` to ``whole_scene`` and so on."""
    clamped = _Clamped(network).eval()
    image = torch.rand(1, 3, *_TRACED, generator=torch.Generator().manual_seed(0))
    sides = {2: _MULTIPLE * torch.export.Dim("rows", min=2), 3: _MULTIPLE * torch.export.Dim("columns", min=2)}
    try:
        with torch.no_grad(), _quiet():
            names = (SCENE, TRANSMISSION)[: len(clamped(image))]
            model = _traced(
                clamped, {"image": image}, {"image": sides}, ["padded"], [f"whole_{name}" for name in names]
            )
    except Exception as problem:  # the exporter's kinds have no common parent but this
        reason = " ".join(str(problem.__cause__ or problem).split())[:300]
        raise ConfigError(f"{type(network).__name__} cannot be exported for every size: {reason}") from problem
    if model is None:
        raise ConfigError(f"{type(network).__name__} cannot be exported: torch returned nothing")
    return model


def _any_size(core: Any) -> Any:
    """Return a model that pads its image for the graph, by reflection at right and bottom, and crops the results."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    names = [part.name.removeprefix("whole_") for part in core.graph.output]
    # ONNX's Pad wants the beginnings of all four axes, then their ends: six zeros, then two
    # numbers.
    numbers = {"multiple": [_MULTIPLE] * 2, "unpadded": [0] * 6, "origin": [0, 0], "axes": [2, 3]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), f"image_{name}") for name, value in numbers.items()]
    before = [
        helper.make_node("Shape", [IMAGE], ["image_size"], start=2),
        helper.make_node("Neg", ["image_size"], ["image_negative"]),
        helper.make_node("Mod", ["image_negative", "image_multiple"], ["image_missing"]),
        helper.make_node("Concat", ["image_unpadded", "image_missing"], ["image_pads"], axis=0),
        helper.make_node("Pad", [IMAGE, "image_pads"], ["padded"], mode="reflect"),
    ]
    after = [
        helper.make_node("Slice", [f"whole_{name}", "image_origin", "image_size", "image_axes"], [name])
        for name in names
    ]

    def described(name: str) -> Any:
        shape = [1, 1 if name == TRANSMISSION else 3, "height", "width"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [*before, *core.graph.node, *after],
        "dehaze",
        [described(IMAGE)],
        [described(name) for name in names],
        [*constants, *core.graph.initializer],
    )
    return helper.make_model(
        graph,
        opset_imports=core.opset_import,
        functions=core.functions,
        ir_version=core.ir_version,
        producer_name="ray-dehaze",
    )


def check_onnx(
    file: str | os.PathLike[str], network: nn.Module, sizes: Sequence[tuple[int, int]] = SIZES
) -> dict[tuple[int, int], float]:
    """Compare an ONNX file with the network that it was made of, by onnxruntime, on random images.

    Returns:
        the lower PSNR in dB of scene and transmission, by height and width.

    Raises:
        ConfigError: the file cannot be run.
    """
    exported = OnnxNetwork(file)
    found: dict[tuple[int, int], float] = {}
    for size in sizes:
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
        ours = dehaze(network, image, EXACT.model_copy(update={"precision": "float32"}))
        theirs = as_dehazed(exported(image))
        pairs = [(ours.scene, theirs.scene)]
        if ours.transmission is not None and theirs.transmission is not None:
            pairs.append((ours.transmission, theirs.transmission))
        found[size] = min(_psnr(one, other) for one, other in pairs)
    return found


def _psnr(one: Tensor, other: Tensor) -> float:
    """Return the PSNR of two tensors in [0, 1], in dB; infinite where they are equal, and below 0 without end where one
    holds what is no number, so that the least of several tells it.
    """
    error = float((one.double() - other.double()).square().mean())
    if math.isnan(error):
        return -math.inf
    return -10.0 * math.log10(error) if error else math.inf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and log lines of the exporter, which concern its own authors."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
