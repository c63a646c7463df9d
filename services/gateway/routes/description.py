"""The description of the API: as a document, and as a page to read that needs nothing from elsewhere."""

import asyncio
import functools
import importlib.resources
from typing import Final

from aiohttp import web
from pydantic import Field

from ..domain.errors import Missing
from ..keys import DESCRIPTION, VERSION
from .operation import Operation
from .replies import reply
from .schemas import Answer

_ASSETS: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
_START: Final = 'SwaggerUIBundle({url: "../schema/", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>STDWeb API</title>
<link rel="stylesheet" href="{base}swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="api"></div>
<script src="{base}swagger-ui-bundle.js"></script>
<script src="{base}start.js"></script>
</body>
</html>
"""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'"
)


class Version(Answer):
    """What answers here."""

    name: str = Field(examples=["stdweb"])
    version: str = Field(description="Of the software", examples=["0.1.0"])


async def version(request: web.Request) -> web.Response:
    """Tell the version of the software."""
    return reply({"name": "stdweb", "version": request.app[VERSION]})


async def schema(request: web.Request) -> web.Response:
    """Show the description of the API, OpenAPI 3.1."""
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


async def page(request: web.Request) -> web.Response:
    """Show the description of the API as a page."""
    base = "" if request.path.endswith("/") else "docs/"
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return web.Response(text=_PAGE.format(base=base), content_type="text/html", headers=headers)


@functools.cache
def _read(name: str) -> bytes:
    return (importlib.resources.files("swagger_ui") / "static" / name).read_bytes()


async def asset(request: web.Request) -> web.Response:
    """Send a part of the page."""
    name = request.match_info["asset"]
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"}
    if name == "start.js":
        return web.Response(text=_START, content_type="text/javascript", headers=headers)
    if name not in _ASSETS:
        raise Missing("There is nothing at this address.")
    content = await asyncio.to_thread(_read, name)
    return web.Response(body=content, content_type=_ASSETS[name], charset="utf-8", headers=headers)


ROUTES = (
    Operation("GET", "/api/version", version, reply=Version),
    Operation("GET", "/api/schema", schema, reply=dict[str, object], public=True),
    Operation("GET", "/api/docs", page, media=("text/html",), public=True),
    Operation("GET", "/api/docs/{asset}", asset, media=("text/css", "text/javascript"), public=True),
)
