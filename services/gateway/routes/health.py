"""Health and metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..keys import BROKER, STORE
from .replies import reply


async def healthz(_: web.Request) -> web.Response:
    """Tell that the process answers."""
    return reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Tell whether store and broker are there."""
    store, broker = await request.app[STORE].ping(), request.app[BROKER].connected
    parts = {"store": "ok" if store else "away", "broker": "ok" if broker else "away"}
    return reply({"status": "ok" if store and broker else "away", **parts}, 200 if store and broker else 503)


async def metrics(_: web.Request) -> web.Response:
    """Show the metrics of this process."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    ("GET", "/healthz", healthz),
    ("GET", "/readyz", readyz),
    ("GET", "/metrics", metrics),
)
