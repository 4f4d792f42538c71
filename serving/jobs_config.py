"""What jobs are configured by."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from models.config import Settings
from models.paths import is_uri


class JobsConfig(Settings):
    """Long work. There are jobs only where ``folder`` is given.

    Attributes:
        folder: folder or URI in which jobs are kept: what was sent, how far they are, and their results. All ingresses
            must reach it; it is for one service alone.
        keep_s: seconds for which a job that has ended, with its result, is kept.
        max_jobs: jobs that are kept, those that have ended too, but none that was deleted; further ones get 503.
        max_per_client: jobs of one client (a token, else an address) that have not ended; further ones get 429.
        max_files: photographs in a job.
        max_frames: frames of a video; 27,000 are a quarter of an hour.
        max_frame_pixels: pixels of a video's frame.
        max_bytes: bytes of what is sent for a job, packed and unpacked.
        store_bytes: bytes that all jobs together may take in the folder; while a result is packed, twice its size.
        read_timeout_s: seconds in which the body has to arrive; not above ``requests.read_timeout_s`` and
            ``requests.batch_timeout_s`` together.
        parallel: photographs and frames of all jobs that an ingress has worked on at a time.
        yield_s: longest time in seconds for which a photograph or a frame of a job waits because ordinary requests are
            worked on.
        prefixes: folders or URIs below which jobs may read photographs and write results; none by default.
        webhooks: addresses without a path, as in ``https://hooks.example.org``, to which a job may tell that it has
            ended; none by default.
        webhook_secret_env: environment variable with the secret, in base64, by which those messages are signed.
    """

    folder: str | None = None
    keep_s: float = Field(86_400.0, gt=0)
    max_jobs: int = Field(100, ge=1)
    max_per_client: int = Field(10, ge=1)
    max_files: int = Field(10_000, ge=1)
    max_frames: int = Field(27_000, ge=1)
    max_frame_pixels: int = Field(4096 * 2160, ge=1)
    max_bytes: int = Field(1 << 30, ge=1)
    store_bytes: int = Field(10 << 30, ge=1)
    read_timeout_s: float = Field(300.0, gt=0)
    parallel: int = Field(1, ge=1)
    yield_s: float = Field(30.0, ge=0)
    prefixes: tuple[str, ...] = ()
    webhooks: tuple[str, ...] = ()
    webhook_secret_env: str = "DEHAZE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable

    @field_validator("prefixes")
    @classmethod
    def _absolute(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not is_uri(prefix) and not prefix.startswith("/"):
                raise ValueError(f"'{prefix}' is neither a URI nor an absolute path")
        return prefixes

    @field_validator("webhooks")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if urlsplit(origin)[2:] != ("", "", "") or urlsplit(origin).scheme not in ("https", "http"):
                raise ValueError(f"'{origin}' is no address without a path, as in https://hooks.example.org")
        return tuple(origin.lower() for origin in origins)
