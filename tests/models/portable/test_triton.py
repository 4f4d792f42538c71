"""The configuration for Triton that the docs show: its syntax, and that it describes the exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from torch import Tensor, nn

from models.inference import Dehazed
from models.portable import export_onnx
from tests.documents import ROOT, blocks_of

TEXT, NUMBER, ENUM, MESSAGE = 9, 3, 14, 11  # protobuf's own numbers of types


def model_config() -> Any:
    """As much of Triton's ``ModelConfig`` as the docs use, by the field numbers of its ``model_config.proto``."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in {
        "DataType": {"TYPE_INVALID": 0, "TYPE_FP16": 10, "TYPE_FP32": 11},
        "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
    }.items():
        enum = file.enum_type.add(name=name)
        for word, number in values.items():
            enum.value.add(name=word, number=number)
    tensor = [("name", 1, TEXT, ""), ("data_type", 2, ENUM, "DataType"), ("dims", 3, NUMBER, "*")]
    group = [("name", 1, TEXT, ""), ("count", 2, NUMBER, ""), ("kind", 4, ENUM, "Kind")]
    whole = [
        ("name", 1, TEXT, ""), ("max_batch_size", 4, NUMBER, ""), ("input", 5, MESSAGE, "Tensor*"),
        ("output", 6, MESSAGE, "Tensor*"), ("instance_group", 7, MESSAGE, "Group*"), ("backend", 17, TEXT, ""),
    ]  # fmt: skip
    for name, fields in {"Tensor": tensor, "Group": group, "ModelConfig": whole}.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            label = 3 if of.endswith("*") else 1
            named = {"type_name": f".inference.{of.strip('*')}"} if kind in (ENUM, MESSAGE) else {}
            message.field.add(name=field, number=number, type=kind, label=label, **named)  # type: ignore[arg-type]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


(BLOCK,) = [block for block in blocks_of(ROOT / "docs/how-to/export-to-onnx.md") if block.language == "pbtxt"]


class Small(nn.Module):
    """Scene and transmission, as the networks of this project give them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Dehazed:
        found = self.convolution(image)
        return Dehazed(found[:, :3], found[:, 3:])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the docs name it."""
    return export_onnx(Small().eval(), tmp_path_factory.mktemp("onnx") / "corun-compact.onnx")


def test_it_describes_the_exported_file(exported: Path) -> None:
    config = text_format.Parse(BLOCK.text, model_config())
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])

    def dims(parts: Any) -> dict[str, list[int]]:
        return {part.name: [side if isinstance(side, int) else -1 for side in part.shape] for part in parts}

    assert {part.name: list(part.dims) for part in config.input} == dims(session.get_inputs())
    assert {part.name: list(part.dims) for part in config.output} == dims(session.get_outputs())
    assert {part.type for part in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
    assert config.max_batch_size == 0, "the shapes above have their first dimension in them"


@pytest.mark.parametrize("change", [("input [", "inputs ["), ("TYPE_FP32", "FP32"), ("} ]", "]")])
def test_a_mistake_is_noticed(change: tuple[str, str]) -> None:
    with pytest.raises(text_format.ParseError):
        text_format.Parse(BLOCK.text.replace(*change, 1), model_config())


def test_the_scene_alone_can_be_cut_out(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks_of(ROOT / "docs/how-to/export-to-onnx.md") if "extract_model" in block.text]
    monkeypatch.chdir(exported.parent)
    exec(compile(block.text, str(block), "exec"), {})  # noqa: S102 - our own
    session = onnxruntime.InferenceSession("scene.onnx", providers=["CPUExecutionProvider"])
    assert [part.name for part in session.get_outputs()] == ["scene"]
