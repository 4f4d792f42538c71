"""Networks and losses of one's own by their import path, ``package.module:name``, from packages that somebody named.

To import a module is to run it. A path that a user wrote himself, in code or in a recipe, is his wish; one that stands
in a checkpoint or in a registry is that of whoever wrote there, so its package must be allowed by name.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from models.config import ConfigError

if TYPE_CHECKING:  # torch takes seconds that --help need not
    from torch import nn

FLAG = "--allow-networks"


def package_of(network: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the package that a network's configuration names, to be allowed; nothing for the project's own
    networks.
    """
    module, colon, _ = str(network.get("name", "")).partition(":")
    return (module.partition(".")[0],) if colon else ()


def network_class(path: str, allow: Collection[str]) -> type[nn.Module]:
    """Return the class that an import path names. Nothing is imported from packages that are not allowed, and nothing
    called.

    Args:
        path: ``package.module:Class``.
        allow: top-level packages; the class must be defined in one of them too, wherever it is imported from.

    Raises:
        ConfigError: the package is not allowed, or there is no such class.
    """
    from torch import nn

    module, _ = _parts(path, "network")
    _require(path, module, allow)
    found = named(path, "network")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{path!r} is a {kind}; expected a class that is derived from torch.nn.Module")
    # The module may have it from a package that is not allowed.
    _require(path, found.__module__, allow)
    return found


def named(path: str, kind: str) -> Any:
    """Import what a user named himself, also from the current folder: to import a module is to run it.

    Args:
        path: ``package.module:name``.
        kind: what it is to be, for errors.

    Raises:
        ConfigError: it is no import path, or there is nothing of that name.
    """
    module, name = _parts(path, kind)
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.append("")  # the current folder, which an installed command lacks; last, so that it hides nothing
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise ConfigError(f"cannot build {kind} {path!r}: {problem}") from problem


def _parts(path: str, kind: str) -> tuple[str, str]:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(f"cannot build {kind} {path!r}: expected package.module:name")
    return module, name


def _require(path: str, module: str, allow: Collection[str]) -> None:
    package = module.partition(".")[0]
    if package not in allow:
        known = f"allowed are {', '.join(sorted(allow))}" if allow else "none is allowed"
        raise ConfigError(
            f"the network {path!r} is code of the package '{package}', and {known}: if you trust it, allow it by name, "
            f"with {FLAG} {package} (allow_networks in the configuration of the service)"
        )


def add_allow_networks(parser: Any) -> None:
    """Add the flag of all commands that load checkpoints; ``allow_networks`` is then a list of packages."""
    parser.add_argument(
        FLAG,
        type=_packages,
        action="extend",
        default=[],
        metavar="PACKAGE",
        help="package of yours whose networks checkpoints may name, as in 'mypackage.nets:Net'; repeat it, or use "
        "commas (default: none, as a checkpoint could run any code)",
    )


def _packages(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    wrong = next((name for name in names if not name.isidentifier()), None)
    if wrong is not None:
        raise argparse.ArgumentTypeError(f"{wrong!r} is no package; expected a name without dots, such as mypackage")
    return names
