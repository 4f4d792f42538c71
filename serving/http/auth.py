"""Bearer tokens: several, compared in constant time, replaced without a restart; and when none are needed."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import threading
import time
from pathlib import Path

from models.config import ConfigError
from serving.config import AuthConfig

log = logging.getLogger(__name__)

WORDS = "anyone who can reach this service may use it"
_SHORTEST = 16  # characters; `openssl rand -hex 32` gives 64
_LOOK_EVERY_S = 1.0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _words(text: str) -> list[str]:
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [word for line in lines for word in line.replace(",", " ").split()]


def _checked(tokens: list[str], where: str) -> frozenset[bytes]:
    if not all(token.isascii() for token in tokens):  # no header could hold it
        raise ConfigError(
            f"{where} has a token with characters other than ASCII; expected such as `openssl rand -hex 32`"
        )
    short = [token for token in tokens if len(token) < _SHORTEST]
    if short:
        raise ConfigError(f"{where} has a token of {len(short[0])} characters; expected {_SHORTEST} or more")
    return frozenset(map(_digest, tokens))


class Tokens:
    """The tokens that are valid now. Safe to use from several threads.

    Raises:
        ConfigError: the file cannot be read or is empty, or a token is shorter than 16 characters.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._file = config.token_file
        self._fixed = _checked(_words(os.environ.get(config.token_env, "")), f"${config.token_env}")
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._seen: tuple[int, ...] | None = None
        self._current = self._fixed
        if self._file is not None:
            try:
                self._read(self._file)
            except OSError as problem:
                raise ConfigError(f"auth.token_file {self._file} cannot be read: {problem.strerror}") from problem
            if self._current == self._fixed:
                raise ConfigError(f"auth.token_file {self._file} has no token; write one on a line of its own")

    @property
    def required(self) -> bool:
        """Say whether requests need a token."""
        return self._file is not None or bool(self._fixed)

    def owner(self, authorization: str) -> str | None:
        """Return the sender of an ``Authorization`` header: a name for the token that says nothing about it, or None.

        All tokens are compared, each in constant time, whether or not one was equal.
        """
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        found = [hmac.compare_digest(given, known) for known in self._valid()]
        if scheme.lower() != "bearer" or not any(found):
            return None
        return hashlib.sha256(b"client" + given).hexdigest()[:12]

    def _valid(self) -> frozenset[bytes]:
        with self._lock:
            if self._file is not None and time.monotonic() - self._looked >= _LOOK_EVERY_S:
                self._looked = time.monotonic()
                self._read_again(self._file)
            return self._current

    def _read_again(self, file: Path) -> None:
        try:
            self._read(file)
        except (OSError, ConfigError) as problem:
            if self._current != self._fixed:
                log.error("no token of %s is valid until it can be read: %s", file, problem)  # noqa: TRY400
            self._current, self._seen = self._fixed, None

    def _read(self, file: Path) -> None:
        state = file.stat()
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen != self._seen:
            self._current = self._fixed | _checked(_words(file.read_text("utf-8-sig", "surrogateescape")), str(file))
            self._seen = seen


def is_loopback(host: str) -> bool:
    """Say whether the host is a loopback address of this machine, or ``localhost``."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_protection(host: str, config: AuthConfig) -> None:
    """Refuse to listen where others could reach a service that asks for no token.

    Raises:
        ConfigError: the host is no loopback address, there is no token, and nobody said in words that it is meant; or
            the tokens cannot be read.
    """
    required = Tokens(config).required
    if is_loopback(host) or required or config.without_token:
        return
    raise ConfigError(
        f"host '{host}' is not a loopback address and there is no token: set auth.token_file or ${config.token_env}, "
        f"use 127.0.0.1, or set auth.without_token to '{WORDS}'"
    )
