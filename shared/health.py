"""`/healthz`, `/readyz` and `/metrics` of a process that serves nothing else."""

from collections.abc import Callable

from aiohttp import web

from .metrics import exposition

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], bool]


def health_app(checks: dict[str, Check], warnings: tuple[str, ...] = ()) -> web.Application:
    """Make the application.

    Parameters
    ----------
    checks
        What must be true for the process to be ready, by name.
    warnings
        What an operator should know, shown by `/readyz`.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        results = {name: check() for name, check in checks.items()}
        ready = all(results.values())
        body = {"status": "ready" if ready else "not ready", "checks": results, "warnings": list(warnings)}
        return web.json_response(body, status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": _METRICS_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def serve_health(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Listen. The caller cleans the runner up; its `addresses` tell the port when `port` was 0."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
