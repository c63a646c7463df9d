"""The program of the preview service: takes requests from the broker, has them drawn, keeps the cache small."""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
import time
from typing import Final

import structlog
from prometheus_client import Histogram
from pydantic import ValidationError

from shared import tracing
from shared.broker import connect
from shared.broker.topology import topology
from shared.contracts.preview import (
    CACHE_FOLDER,
    PICTURE_REPLY,
    PICTURE_REQUEST,
    CutoutRequest,
    PictureMade,
    PreviewRequest,
)
from shared.contracts.rpc import PREVIEW_RENDER, Refusal
from shared.cores import available_cores
from shared.health import health_app, serve_health
from shared.logging import configure_logging
from shared.metrics import BROKER_CONNECTED, REGISTRY
from shared.settings import PreviewSettings

from .cache import Cache
from .pool import Pool
from .turns import MAX_HELD, Crowded, Turns

_SWEEP_S: Final = 60.0
_GRACE_S: Final = 10.0
_SPARE_S: Final = 2.0  # of the time that the gateway waits, for all but waiting and drawing
_BUSY: Final = Refusal(
    code="busy",
    error="Several of your pictures are being drawn, or wait for it, and this one had no turn. Ask for it again.",
    status="busy",
)
_FULL: Final = Refusal(
    code="full", error="All renderers draw pictures of other users just now; try again later.", status="later"
)

RENDER_SECONDS: Final = Histogram(
    "stdweb_render_seconds",
    "From taking a request for a picture to its reply",
    ["kind", "outcome"],
    buckets=(0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
    registry=REGISTRY,
)

log = structlog.get_logger(__name__)


def main() -> None:
    """Run the service until it is told to stop."""
    settings = PreviewSettings()
    configure_logging(settings, "preview")
    tracing.begin("preview")
    with tempfile.TemporaryDirectory(prefix="stdweb-preview-") as folder:
        try:
            asyncio.run(Service(settings, folder).run())
        finally:
            tracing.end()


class Service:
    """The preview service.

    Parameters
    ----------
    settings
        What it is told.
    folder
        For what libraries keep of their own.
    """

    def __init__(self, settings: PreviewSettings, folder: str) -> None:
        self._settings = settings
        self._slots = settings.slots or available_cores()
        limits = str(settings.preview_memory_bytes), f"{settings.preview_time_s:g}"
        own = {"MPLCONFIGDIR": folder, "XDG_CACHE_HOME": folder, "XDG_CONFIG_HOME": folder, "MPLBACKEND": "Agg"}
        # one more than one user may have, so that the others need not wait for slow pictures
        self._pool = Pool(self._slots + 1, (str(settings.data_dir), *limits), own)
        wait_s = max(1, PREVIEW_RENDER.time_limit_s - settings.preview_time_s - _SPARE_S)
        self._turns = Turns(self._slots + 1, self._slots, wait_s)
        self._working = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def run(self) -> None:
        """Serve until a signal comes."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        settings = self._settings
        worker = f"preview@{socket.gethostname()}:{os.getpid()}"
        broker = connect(
            settings.amqp_url.get_secret_value(),
            worker,
            settle_s=settings.broker_settle_s,
            what=topology(steps=()),
            declares=settings.broker_declares,
        )
        BROKER_CONNECTED.set_function(lambda: broker.connected)
        self._pool.start()
        consuming = asyncio.Event()
        checks = {"broker": lambda: broker.connected, "renderers": self._pool.warm.is_set, "queue": consuming.is_set}
        health = await serve_health(health_app(checks), settings.health_host, settings.health_port)
        log.info("service started", worker=worker, health=[list(address) for address in health.addresses])
        sweeping = asyncio.create_task(self._sweep())
        # a service that cannot keep the cache small ends, for its supervisor to start it again
        sweeping.add_done_callback(lambda _: stopping.set())
        await _first(self._pool.warm, stopping)
        prefetch = self._slots + 1 + 2 * MAX_HELD  # of those that wait somebody may have the next turn
        subscribing = asyncio.create_task(broker.serve(PREVIEW_RENDER, self.answer, prefetch=prefetch))
        subscribing.add_done_callback(lambda task: stopping.set() if task.cancelled() or task.exception() else None)
        subscribing.add_done_callback(lambda _: consuming.set())
        await stopping.wait()
        log.info("service stops")
        sweeping.cancel()
        subscribing.cancel()
        consumer, swept = await asyncio.gather(subscribing, sweeping, return_exceptions=True)
        if not isinstance(consumer, BaseException):
            await consumer.stop()
            await self._drain()
        await broker.close()
        await self._pool.close()
        await health.cleanup()
        for failure in (consumer, swept):
            if isinstance(failure, Exception):
                raise failure

    async def answer(self, body: bytes) -> PictureMade | Refusal:
        """Answer one request."""
        try:
            request = PICTURE_REQUEST.validate_json(body)
        except ValidationError as error:  # of another version of the gateway
            log.warning("request not understood", error=str(error))
            return Refusal(
                code="bad_message", error="The preview service does not understand the request.", status="fault"
            )
        tracing.note(task=request.task_id, kind=request.kind)
        began = time.perf_counter()
        self._working += 1
        self._quiet.clear()
        try:
            reply = await self._drawn(request)
        finally:
            self._working -= 1
            if self._working == 0:
                self._quiet.set()
        seconds = time.perf_counter() - began
        outcome = reply.code if isinstance(reply, Refusal) else "made"
        RENDER_SECONDS.labels(request.kind, outcome).observe(seconds)
        log.info(
            "picture answered",
            request=request.request_id,
            task=request.task_id,
            kind=request.kind,
            outcome=outcome,
            seconds=round(seconds, 4),
        )
        return reply

    async def _drawn(self, request: PreviewRequest | CutoutRequest) -> PictureMade | Refusal:
        try:
            async with self._turns.turn(request.user):
                with tracing.span("draw"):
                    return PICTURE_REPLY.validate_json(await self._pool.ask(request.model_dump_json().encode()))
        except Crowded as error:
            return _BUSY if error.own else _FULL

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), _GRACE_S)

    async def _sweep(self) -> None:
        cache = Cache(self._settings.data_dir / CACHE_FOLDER)
        while True:
            try:
                swept = await asyncio.to_thread(cache.sweep, self._settings.preview_cache_bytes)
            except OSError as error:  # the volume may come back
                log.warning("cache not swept", error=str(error))
            else:
                if swept:
                    log.info("cache swept", files=swept)
            await asyncio.sleep(_SWEEP_S)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
