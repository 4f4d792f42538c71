"""Take over released weights, and hand models on: as ONNX for other programs, or to the Hugging Face hub.

dehaze models convert CORUN.pth checkpoints/corun
dehaze models export corun-compact corun-compact.onnx
dehaze models push runs/colabator/model me/my-dehazer --license apache-2.0   # then: load("hf://me/my-dehazer")
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.config import ConfigError
from models.imports import add_allow_networks
from models.paths import is_uri
from pipelines.command import run
from pipelines.shown import say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dehaze models", description=__doc__.splitlines()[0], allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    export = verbs.add_parser(
        "export",
        help="write a model as ONNX, for any height and width, and compare it with torch",
        description="Write a model as ONNX, for any height and width, and compare it with torch at five sizes; takes a "
        "minute or two. `dehaze --model FILE.onnx` runs it.",
        allow_abbrev=False,
    )
    export.add_argument("model", help="packaged name, checkpoint folder or its URI")
    export.add_argument("file", type=Path, help="to write, such as model.onnx")
    export.add_argument(
        "--fit", type=Path, help="also write the color fit, by which a small result becomes a large one"
    )
    export.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_allow_networks(export)
    export.set_defaults(act=_export)
    convert = verbs.add_parser(
        "convert",
        help="make a checkpoint of the authors' released weights",
        description="Make a checkpoint of the authors' weights of CORUN or DGUNet, which their names tell apart.",
        allow_abbrev=False,
    )
    convert.add_argument("source", help="the authors' .pth file")
    convert.add_argument("folder", help="checkpoint folder to write")
    convert.add_argument("--overwrite", action="store_true", help="replace a converted checkpoint that is there")
    convert.set_defaults(act=_convert)
    push = verbs.add_parser(
        "push",
        help="send a checkpoint to the Hugging Face hub",
        description="Send a checkpoint and a model card to a repository of the Hugging Face hub, a new one where it is "
        "missing. A token comes from `hf auth login` or HF_TOKEN. Afterwards `hf://NAME` is the model everywhere.",
        allow_abbrev=False,
    )
    push.add_argument("model", help="packaged name, checkpoint folder or its URI")
    push.add_argument("repository", metavar="NAME", help="of the repository, such as me/my-dehazer")
    push.add_argument("--license", help="of the weights, for the card, such as apache-2.0")
    push.add_argument("--private", action="store_true", help="only you can see a repository that is made")
    push.set_defaults(act=_push)
    return parser


def _export(args: argparse.Namespace) -> None:
    for file in filter(None, (args.file, args.fit)):
        if file.suffix != ".onnx":
            raise ConfigError(f"cannot write {file}: expected a name that ends in .onnx")
        if not file.parent.is_dir():
            raise ConfigError(f"cannot write {file}: there is no folder {file.parent}")
        if file.exists() and not args.overwrite:
            raise ConfigError(f"{file} is there already; choose another name, or --overwrite")
    if args.fit == args.file:
        raise ConfigError(f"the model and its color fit cannot both be {args.file}; give --fit another name")
    from models import zoo
    from models.portable import LEAST, OPSET, check_onnx, export_fit, export_onnx

    loaded = zoo.load(args.model, args.allow_networks)
    partial = args.file.with_name(f".{args.file.name}.partial")
    try:
        export_onnx(loaded.network, partial, loaded.config)
        found = check_onnx(partial, loaded.network)
        least = min(found.values())
        if not least >= LEAST:
            raise ConfigError(
                f"{args.model} was not written: the exported network differs from torch, {least:.1f} dB at "
                f"{min(found, key=found.__getitem__)}, and {LEAST:.0f} dB are expected"
            )
        partial.replace(args.file)
        if args.fit is not None:
            export_fit(partial).replace(args.fit)
    finally:
        partial.unlink(missing_ok=True)
    sizes = ", ".join(f"{height}x{width} {decibels:.0f} dB" for (height, width), decibels in found.items())
    say(f"{args.file}: opset {OPSET}, any height and width; against torch: {sizes}")
    if args.fit is not None:
        say(f"{args.fit}: the color fit, from image, small and small_scene to scene")


def _convert(args: argparse.Namespace) -> None:
    from models.checkpoints import CONFIG, MODEL, convert

    folder = Path(args.folder)
    if is_uri(args.folder) or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"cannot write {args.folder}: expected a folder of this machine")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in there if name not in (MODEL, CONFIG)]
    if others:
        raise ConfigError(f"{folder} has more than a converted checkpoint, such as {others[0]}: choose another folder")
    if there and not args.overwrite:
        raise ConfigError(f"{folder} holds a checkpoint already: choose another folder, or --overwrite")
    say(str(convert(args.source, args.folder)))


CARD = """# {title}

A dehazing network of [ray-dehaze](https://pypi.org/project/ray-dehaze/): `{network}`, {parameters:,} parameters,
trained by {origin}.

```python
from models import dehaze, load

network = load("hf://{repository}").network
```

`dehaze photo.jpg --model hf://{repository}` does the same on the command line. `config.json` has the network and the
whole recipe, `model.safetensors` the weights.
"""


def card(repository: str, config: dict[str, Any], parameters: int, license_name: str | None) -> str:
    """Return the model card, with the metadata that the hub reads."""
    from huggingface_hub import ModelCardData

    about = ModelCardData(
        library_name="ray-dehaze", pipeline_tag="image-to-image", tags=["dehazing", "pytorch"], license=license_name
    )
    recipe = config.get("recipe") or {}
    steps = (recipe.get("train") or {}).get("steps")
    origin = f"the method `{recipe['method']}` for {steps:,} steps" if recipe.get("method") and steps else "its owner"
    title, network = repository.rpartition("/")[2], config["network"]
    told = CARD.format(title=title, network=network, parameters=parameters, origin=origin, repository=repository)
    return f"---\n{about.to_yaml()}\n---\n\n{told}"


def _push(args: argparse.Namespace) -> None:
    _require_hub_name(args.repository)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]  # also: nobody there
    from huggingface_hub.errors import LocalTokenNotFoundError

    from models import checkpoints, zoo
    from models.paths import local_copy

    if (args.model in zoo.NAMES and args.model not in zoo.PACKAGED) or args.model.endswith(".onnx"):
        raise ConfigError(f"{args.model} is no checkpoint; expected a packaged name, or a checkpoint folder or its URI")
    config = zoo.config_of(args.model)
    sent = (checkpoints.MODEL, checkpoints.CONFIG, checkpoints.METRICS)
    with local_copy(str(zoo.folder_of(args.model)), sent) as folder:
        parameters = sum(tensor.numel() for tensor in checkpoints.read_weights(folder).values())
        what = f"{config['network']['name']}, {parameters:,} parameters"
        names = [name for name in sent if (folder / name).is_file()]
        about = card(args.repository, config, parameters, args.license).encode()
        files = [CommitOperationAdd(name, str(folder / name)) for name in names]
        files.append(CommitOperationAdd("README.md", about))
        try:
            api = HfApi()
            api.create_repo(args.repository, private=args.private, exist_ok=True)
            api.create_commit(args.repository, files, commit_message=what)
        except (HubError, LocalTokenNotFoundError) as problem:
            raise ConfigError(
                f"{args.model} was not sent to {args.repository}: {' '.join(str(problem).split())}; a token that may "
                "write comes from `hf auth login` or HF_TOKEN"
            ) from problem
    say(f"{', '.join(names)} and README.md are in hf://{args.repository}")


def _require_hub_name(name: str) -> None:
    """Refuse what cannot be a repository of a hub, such as a folder.

    Raises:
        ConfigError: names it, and says what was expected.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is documented

    try:
        validate_repo_id(name)
    except HFValidationError:
        good = False
    else:
        good = "/" in name
    if not good:
        raise ConfigError(
            f"'{name}' is no name of a hub's repository; expected OWNER/NAME, such as me/my-dehazer (a folder or "
            "bucket needs no push: copy the checkpoint's folder there)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what is wrong."""
    return run(lambda args: args.act(args), _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
