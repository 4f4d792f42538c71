"""Weights that came back in parts, as a checkpoint folder again.

``python -m benchmarks.gpu.join OUT FOLDER`` joins ``OUT/<stage>.safetensors.00``, ``.01`` ... of every stage into
``FOLDER/<stage>``, which ``--model`` and ``--set init=`` take. The parts are pieces of one safetensors file, which also
says what network it is of.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from models import checkpoints, zoo
from models.config import ConfigError

PART_BYTES = 15 << 20  # below 16 MiB, what many ways to hand on a file allow


def split(folder: Path, name: str, network: nn.Module, config: Mapping[str, Any], *, parts: int) -> list[Path]:
    """Write the weights of a network in at most so many parts, in float16 where float32 needs more.

    Raises:
        ConfigError: they do not fit even so.
    """
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}
    data = b""
    for dtype in (torch.float32, torch.float16):
        some = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        data = save(some, {"config": json.dumps(config)})
        if len(data) <= parts * PART_BYTES:
            break
    else:
        raise ConfigError(f"{name} has {len(data)} bytes in float16, and {parts} parts hold {parts * PART_BYTES}")
    for old in folder.glob(f"{name}.safetensors.*"):
        old.unlink()
    written = []
    for number, start in enumerate(range(0, len(data), PART_BYTES)):
        path = folder / f"{name}.safetensors.{number:02d}"
        path.write_bytes(data[start : start + PART_BYTES])
        written.append(path)
    return written


def join(out: Path, name: str, folder: Path) -> Path:
    """Join the parts of a stage's weights to a checkpoint folder, as float32, and return the folder.

    Raises:
        ConfigError: no parts, or parts that make no whole.
    """
    paths = sorted(out.glob(f"{name}.safetensors.*"))
    if not paths:
        raise ConfigError(f"{out} has no {name}.safetensors.00: no weights of a stage called {name!r}")
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "joined.tmp"
    whole.write_bytes(b"".join(path.read_bytes() for path in paths))
    try:
        with safe_open(whole, "pt") as file:
            config = json.loads((file.metadata() or {})["config"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as problem:  # safetensors raises an error of its own for what is cut
        raise ConfigError(f"the parts {[path.name for path in paths]} make no whole: {problem}") from problem
    finally:
        whole.unlink()
    network = zoo.build(config["network"])
    network.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in state.items()})
    return checkpoints.save(folder, network, config)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 2 where there is nothing to join, or parts make no whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.join", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path, help="what came back")
    parser.add_argument("folder", type=Path, help="of the checkpoints")
    args = parser.parse_args(argv)
    names = sorted({path.name.partition(".")[0] for path in args.out.glob("*.safetensors.*")})
    try:
        for name in names:
            print(join(args.out, name, args.folder / name))
    except ConfigError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    if not names:
        print(f"error: {args.out} has no *.safetensors.00", file=sys.stderr)
    return 0 if names else 2


if __name__ == "__main__":
    sys.exit(main())
