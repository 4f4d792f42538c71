"""What tells a client that its job has ended: one POST, signed as https://www.standardwebhooks.com says."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from models.config import ConfigError
from models.paths import require_writable
from serving.errors import refused
from serving.jobs_config import JobsConfig

log = logging.getLogger(__name__)

_PREFIX = "whsec_"
_SHORTEST = 24  # bytes, as the standard says
_PAUSES = (1.0, 5.0, 30.0, 120.0)  # seconds between two tries
_WITHIN_S = 10.0


def require_allowed(url: str, origins: Sequence[str]) -> None:
    """A webhook goes only to hosts of the configuration, by the same scheme and port.

    Raises:
        ProblemError: 403 for any other, 400 for what is no address.
    """
    try:
        parts = urlsplit(url)
        httpx.URL(url)  # which refuses more
    except (ValueError, httpx.InvalidURL) as problem:
        raise refused(400, f"webhook: {url[:200]!r} is no address: {problem}") from problem
    if f"{parts.scheme}://{parts.netloc}".lower() not in origins:
        raise refused(403, f"webhook: this service calls no '{url[:200]}'", "not_allowed")


def secret_of(config: JobsConfig) -> bytes | None:
    """The key by which webhooks are signed, of the environment: base64, perhaps after ``whsec_``; None without any.

    Raises:
        ConfigError: there are webhooks, and no key or a bad one.
    """
    if not config.webhooks:
        return None
    variable = config.webhook_secret_env
    text = os.environ.get(variable, "").strip().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) < _SHORTEST:
        raise ConfigError(
            f"jobs.webhooks need a secret in ${variable}: {_SHORTEST} bytes or more in base64, as of "
            "`openssl rand -base64 32`"
        )
    return key


def require_jobs(config: JobsConfig) -> None:
    """Find out that jobs could not be kept, or their webhooks not be signed, where the message is one line.

    Raises:
        ConfigError: so it is.
    """
    secret_of(config)
    if config.folder is not None:
        require_writable(config.folder)


def signed(key: bytes, message: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers of a message with this id, at this time."""
    text = f"{message}.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {"webhook-id": message, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{signature}"}


async def tell(key: bytes, url: str, job: str, content: Mapping[str, Any]) -> str:
    """Send it, some times where nobody takes it, without following redirections.

    Returns:
        what came of it, in a word.
    """
    body = json.dumps(content).encode()
    outcome = ""
    async with httpx.AsyncClient(timeout=_WITHIN_S, follow_redirects=False) as client:
        for pause in (*_PAUSES, None):
            headers = {"Content-Type": "application/json"} | signed(key, job, int(time.time()), body)
            try:
                answer = await client.post(url, content=body, headers=headers)
            except httpx.HTTPError as problem:
                outcome = type(problem).__name__
            else:
                outcome = str(answer.status_code)
                if answer.is_success:
                    return outcome
            if pause is not None:
                await asyncio.sleep(pause)
    log.warning("job %s: its webhook was not taken: %s", job, outcome)
    return outcome
