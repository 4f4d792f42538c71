"""`dehaze models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import portable, zoo
from models.checkpoints import save
from models.networks import Corun, CorunConfig
from models.networks.corun import released_name
from pipelines import cli


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network that exports in a moment, in place of the packaged one."""
    network = nn.Conv2d(3, 3, 1).eval()
    loaded = zoo.Loaded(network, "scale", {"network": {"name": "scale"}})
    monkeypatch.setattr(zoo, "load", lambda *_: loaded)
    return network


def test_export_writes_a_checked_file(scale: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scale.onnx"
    assert cli.main(["models", "export", "scale", str(file)]) == 0
    said = capsys.readouterr().out
    assert "opset 18" in said
    assert said.count(" dB") == 5
    image = torch.rand(1, 3, 21, 34)
    scene = portable.OnnxNetwork(file)(image).scene
    torch.testing.assert_close(scene, scale(image).clamp(0, 1), atol=1e-5, rtol=0)
    assert cli.main(["models", "export", "scale", str(file)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["models", "export", "scale", str(file), "--overwrite"]) == 0


def test_an_export_that_differs_is_not_written(
    scale: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = portable.export_onnx

    def wrong(network: nn.Module, *args: Any) -> Path:
        return write(nn.Conv2d(3, 3, 1).eval(), *args)

    monkeypatch.setattr(portable, "export_onnx", wrong)
    assert cli.main(["models", "export", "scale", str(tmp_path / "scale.onnx")]) == 2
    assert "differs from torch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "why"), [("model.pt", "ends in .onnx"), ("no/model.onnx", "there is no folder")])
def test_a_name_that_cannot_be_is_refused(
    scale: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    assert cli.main(["models", "export", "scale", str(tmp_path / name)]) == 2
    assert why in capsys.readouterr().err


def test_a_checkpoint_of_a_strange_network_asks_for_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "model", nn.Conv2d(3, 3, 1), {"network": {"name": "torch.nn:Identity"}})
    assert cli.main(["models", "export", str(tmp_path / "model"), str(tmp_path / "x.onnx")]) == 2
    assert "--allow-networks torch" in capsys.readouterr().err


def test_released_weights_become_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Corun(CorunConfig(stages=3, dim=2))
    theirs = {released_name(name, 3): value for name, value in network.state_dict().items()}
    torch.save(theirs, tmp_path / "released.pth")
    assert cli.main(["models", "convert", str(tmp_path / "released.pth"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert zoo.config_of(str(tmp_path / "out"))["network"]["stages"] == 3
    assert cli.main(["models", "convert", str(tmp_path / "none.pth"), str(tmp_path / "other")]) == 2
    assert "error: there is no file" in capsys.readouterr().err


def test_a_conversion_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Corun(CorunConfig(stages=3, dim=2))
    torch.save({released_name(name, 3): value for name, value in network.state_dict().items()}, tmp_path / "new.pth")
    out = save(tmp_path / "out", nn.Conv2d(3, 3, 1), {"network": {"name": "corun"}})
    convert = ["models", "convert", str(tmp_path / "new.pth"), str(out)]
    kept = (out / "model.safetensors").read_bytes()
    assert cli.main(convert) == 2
    assert "holds a checkpoint already: choose another folder, or --overwrite" in capsys.readouterr().err
    (out / "state.pt").write_bytes(b"of a training")
    assert cli.main([*convert, "--overwrite"]) == 2
    assert "has more than a converted checkpoint, such as state.pt" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == kept
    (out / "state.pt").unlink()
    assert cli.main([*convert, "--overwrite"]) == 0
    assert zoo.config_of(str(out))["network"]["stages"] == 3
    for place in (tmp_path / "new.pth", "s3://bucket/out"):
        assert cli.main([*convert[:3], str(place)]) == 2
        assert "expected a folder of this machine" in capsys.readouterr().err
