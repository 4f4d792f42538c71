"""The page at ``/`` and the API's description at ``/docs``: a fixed list of files, open to everyone without a token.

Nothing in them comes from another host. The data that they show comes from the API, which asks for the token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

_OWN = Path(__file__).parents[1] / "web"
_PAGES = {"/": "index.html", "/docs": "docs.html"}
_SCRIPTS = ("api.js", "app.js", "docs.js", "gallery.js", "messages.js", "photo.js", "stage.js", "strip.js")
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")  # of the package fastapi-swagger
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PATHS = frozenset({*_PAGES, *(f"/web/{name}" for name in ("favicon.svg", "style.css", *_SCRIPTS, *_SWAGGER))})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file; 304 to who has it already.

        Browsers keep it but ask each time whether it is still the same, so an updated service is seen at once.
        """
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def read_assets() -> dict[str, Asset]:
    """All files by their paths; no request reads any other."""
    return {path: _read(_PAGES.get(path) or path.removeprefix("/web/")) for path in sorted(PATHS)}


def _read(name: str) -> Asset:
    folder = files("fastapi_swagger") / "resources" if name in _SWAGGER else _OWN
    content = (folder / name).read_bytes()
    return Asset(content, _TYPES[Path(name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def add_page(app: FastAPI) -> None:
    """Routes for :data:`PATHS`."""
    assets = read_assets()

    async def asset(request: Request) -> Response:
        return assets[request.scope["route"].path].answer(request)

    for path in assets:
        app.add_api_route(path, asset, methods=["GET"], include_in_schema=False)
