"""The program of a step service.

A service's `__main__` calls `main` with its steps. The same program, called with `--fork-server`, is the process that
imports what the steps need; it never imports what moves messages, and this one never imports what the steps need.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .gently import work_gently
from .request import RequestSpec
from .step import StepSpec

if TYPE_CHECKING:
    from ..broker import Consumer
    from ..settings import WorkerSettings

GRACE_S: Final = 15.0  # for what is stopped after the time to drain to report back


def main(service: str, specs: Iterable[StepSpec], requests: Iterable[RequestSpec] = ()) -> None:
    """Run a service until it is told to stop.

    Parameters
    ----------
    service
        Its name.
    specs
        Its steps.
    requests
        What it is asked beside them; each kind has its own queue and slot.
    """
    from .pool import FORK_SERVER

    steps = {spec.step.name: spec for spec in specs}
    asked = {spec.rpc.name: spec for spec in requests}
    if FORK_SERVER in sys.argv:
        from .forkserver import run_fork_server

        run_fork_server(int(sys.argv[sys.argv.index(FORK_SERVER) + 1]), service, {**steps, **asked})
        return
    from .. import tracing
    from ..logging import configure_logging
    from ..settings import WorkerSettings

    settings = WorkerSettings()
    configure_logging(settings, service)
    tracing.begin(service)
    work_gently()
    if only := set(settings.only):
        if unknown := only - {*steps, *asked}:
            sys.exit(f"STDWEB_ONLY: {service} has no {', '.join(sorted(unknown))}, but {', '.join((*steps, *asked))}")
        steps = {name: spec for name, spec in steps.items() if name in only}
        asked = {name: spec for name, spec in asked.items() if name in only}
    try:
        asyncio.run(_serve(service, steps, asked, settings))
    finally:
        tracing.end()


async def _serve(
    service: str, specs: dict[str, StepSpec], asked: dict[str, RequestSpec], settings: "WorkerSettings"
) -> None:
    import structlog

    from ..broker import connect, delays_for
    from ..broker.topology import CONTROL_EXCHANGE, topology
    from ..cores import available_cores
    from ..health import health_app, serve_health
    from ..metrics import BROKER_CONNECTED, WORKER_SLOTS, begin
    from .handler import StepHandler
    from .pool import Pool
    from .requests import RequestHandler

    log = structlog.get_logger(__name__)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    worker = f"{service}@{socket.gethostname()}:{os.getpid()}"
    steps = [spec.step for spec in specs.values()]
    broker = connect(
        settings.amqp_url.get_secret_value(),
        worker,
        settle_s=settings.broker_settle_s,
        what=topology(delays_for(settings.lease_poll_s), steps),
        declares=settings.broker_declares,
    )
    threads = max(1, available_cores() // settings.slots)
    pool = Pool(_own_command(), len(asked) + settings.slots * bool(steps), threads, _cache_environment())
    await pool.start()
    consumers: list[Consumer] = []
    checks = {
        "broker": lambda: broker.connected,
        "children": pool.warm.is_set,
        "queues": lambda: len(consumers) == len(steps) * settings.slots + len(asked),
    }
    begin(specs)
    BROKER_CONNECTED.set_function(lambda: broker.connected)
    health = await serve_health(health_app(checks), settings.health_host, settings.health_port)
    log.info("service started", worker=worker, health=[list(address) for address in health.addresses])

    async def subscribe() -> None:
        await pool.warm.wait()
        await broker.listen(CONTROL_EXCHANGE, [""], handler.control)
        # one consumer a slot, so that the broker can tell the gateway how many steps are worked on at once
        for step in [step for step in steps for _ in range(settings.slots)]:
            consumer = await broker.consume(step.queue, handler.handle, prefetch=1)
            consumers.append(consumer)
            WORKER_SLOTS.labels(step.name).inc()
        for requests in answering:
            consumer = await broker.serve(requests.spec.rpc, requests.answer, prefetch=1)
            consumers.append(consumer)
        log.info("service ready")

    handler = StepHandler(broker, pool, settings, specs, worker)
    answering = [RequestHandler(pool, settings, spec) for spec in asked.values()]
    subscribing = asyncio.create_task(subscribe())
    # a service that cannot subscribe ends, for its supervisor to start it again
    subscribing.add_done_callback(lambda task: stopping.set() if not task.cancelled() and task.exception() else None)
    await stopping.wait()
    log.info("service stops")
    WORKER_SLOTS.clear()
    subscribing.cancel()
    (failure,) = await asyncio.gather(subscribing, return_exceptions=True)
    for consumer in consumers:
        await consumer.stop()
    drain_s = settings.drain_s
    await asyncio.gather(handler.stop(drain_s, GRACE_S), *(requests.stop(drain_s, GRACE_S) for requests in answering))
    await broker.close()
    await pool.close()
    await health.cleanup()
    if isinstance(failure, Exception):
        raise failure


def _own_command() -> list[str]:
    """Give the command that runs this program once more."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        msg = "a service is started as a module: python -m services.<name>"
        raise RuntimeError(msg)
    return [sys.executable, "-m", spec.name.removesuffix(".__main__")]


def _cache_environment() -> dict[str, str]:
    """Point libraries that keep files of their own to a folder of this host, where nobody else did."""
    folder = Path(tempfile.gettempdir()) / f"stdweb-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="stdweb-cache-"))
    own = {
        "XDG_CACHE_HOME": folder,
        "XDG_CONFIG_HOME": folder / "config",
        "MPLCONFIGDIR": folder / "matplotlib",
        "NUMBA_CACHE_DIR": folder / "numba",
    }
    chosen = {name: Path(os.environ.get(name, path)) for name, path in own.items()}
    for path in chosen.values():
        path.mkdir(parents=True, exist_ok=True)
    return {**{name: str(path) for name, path in chosen.items()}, "MPLBACKEND": "Agg"}
