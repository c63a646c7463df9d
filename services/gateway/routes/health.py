"""Health and metrics."""

from typing import Final

from aiohttp import web

from shared.metrics import exposition

from ..keys import BROKER, LISTENING, STORE
from .operation import Operation
from .replies import reply

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def healthz(_: web.Request) -> web.Response:
    """Tell that the process answers."""
    return reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Tell whether requests may be sent here: when it has once reached the broker, and as long as the store is there.

    Without a broker most requests are answered all the same, and no other gateway would do better.
    """
    store, broker = await request.app[STORE].ping(), request.app[BROKER].connected
    ready = store and request.app[LISTENING].is_set()
    status = ("ok" if broker else "degraded") if ready else "away"
    parts = {"store": "ok" if store else "away", "broker": "ok" if broker else "away"}
    return reply({"status": status, **parts}, 200 if ready else 503)


async def metrics(_: web.Request) -> web.Response:
    """Show the metrics of this process."""
    return web.Response(body=exposition(), headers={"Content-Type": _METRICS_TYPE})


ROUTES = (
    Operation("GET", "/healthz", healthz),
    Operation("GET", "/readyz", readyz),
    Operation("GET", "/metrics", metrics),
)
