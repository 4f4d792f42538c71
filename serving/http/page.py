"""The page at ``/`` and the API's description at ``/docs``, open to everyone without a token.

Nothing in them comes from another host. The data that they show comes from the API, which asks for the token. Browsers
keep the files but ask each time whether they are still the same, so that an updated service is seen at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

_WEB = Path(__file__).parents[1] / "web"
_PAGES = {"/": "index.html", "/docs": "docs.html"}
FOLDER = "/web"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def is_page(path: str) -> bool:
    """Return whether a path is one of the page's files: no token is asked for, and :data:`POLICY` holds."""
    return path in _PAGES or path.startswith(f"{FOLDER}/")


class _Files(StaticFiles):
    def file_response(self, *args: Any, **options: Any) -> Response:
        """As Starlette's, asked for again each time."""
        answer = super().file_response(*args, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def add_page(app: FastAPI) -> None:
    """Add routes for all that :func:`is_page`; Swagger UI comes from the package fastapi-swagger."""
    web = _Files(directory=_WEB, packages=[("fastapi_swagger", "resources")])
    app.mount(FOLDER, web)

    async def page(request: Request) -> Response:
        return await web.get_response(_PAGES[request.url.path], request.scope)

    for path in _PAGES:
        app.add_api_route(path, page, methods=["GET"], include_in_schema=False)
