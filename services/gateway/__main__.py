"""Start the gateway: `python -m services.gateway`."""

import asyncio
import signal
import ssl
import sys

import structlog
import uvloop
from aiohttp import web

from shared import tracing
from shared.broker import connect, delays_for
from shared.logging import configure_logging
from shared.settings import GatewaySettings

from .app import build_app
from .connections import Runner
from .storage import Store

_SHUTDOWN_S = 10.0  # for requests that are being answered


async def main(settings: GatewaySettings) -> int:
    """Serve until told to stop. Returns the exit code: 1 after a failure, to be started again."""
    stop, broken = asyncio.Event(), asyncio.Event()

    def give_up() -> None:
        broken.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store(settings.mongo_url.get_secret_value())
    broker = connect(
        settings.amqp_url.get_secret_value(),
        "gateway",
        settle_s=settings.broker_settle_s,
        delays_s=delays_for(settings.lease_poll_s),
        declares=settings.broker_declares,
    )
    try:
        runner = Runner(build_app(settings, store, broker, give_up), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, ssl_context=_tls(settings))
        await site.start()
        structlog.get_logger().info("serving", host=settings.host, port=settings.port)
        await stop.wait()
        await runner.cleanup()
    finally:
        await broker.close()
    return int(broken.is_set())


def _tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


if __name__ == "__main__":
    settings = GatewaySettings()
    configure_logging(settings, "gateway")
    tracing.begin("gateway")
    try:
        code = uvloop.run(main(settings))
    finally:
        tracing.end()
    sys.exit(code)
