"""The files of the pages, and the headers of every answer: no script but their own, no page around them."""

from __future__ import annotations

from importlib import resources

from aiohttp import web

from numa_service.rpc.exposition import Handler

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def add_page(app: web.Application, page: str) -> None:
    """Serve a page of ``static/`` ("index.html") at /, with all scripts, styles and pictures beside it.

    Every answer of the application gets the security headers, also those that aiohttp itself makes.
    """
    for file in (resources.files(__package__) / "static").iterdir():
        ending = "." + file.name.rpartition(".")[2]
        if ending not in _TYPES or (ending == ".html" and file.name != page):
            continue
        path = "/" if file.name == page else f"/{file.name}"
        app.router.add_get(path, _answering(file.read_bytes(), _TYPES[ending]))
    app.on_response_prepare.append(_protect)


def _answering(body: bytes, content_type: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": content_type})

    return answer


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
