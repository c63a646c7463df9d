"""What a stack consists of: which processes, with which settings, and when each can be used."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from shared.broker.rights import rights_of
from shared.contracts.rpc import RPCS
from shared.contracts.steps import STEPS
from shared.settings import PREFIX

from ..settings import StackSettings, StackState
from .processes import marked
from .rabbit import VHOST, RabbitNode
from .store import EmbeddedStore
from .supervisor import Component

_INFRASTRUCTURE: Final = 0
_SERVICES: Final = 1
_PROBE_S: Final = 3.0

SERVICES: Final = tuple(dict.fromkeys(step.service for step in STEPS.values()))
"""The step services, in the order of the step table."""

ANSWERING: Final = tuple(dict.fromkeys(rpc.service for rpc in RPCS.values() if rpc.service not in SERVICES))
"""The services that do no steps, but answer at once."""


def broker_node(state: StackState) -> RabbitNode:
    """Describe the stack's own RabbitMQ node."""
    return RabbitNode(
        folder=state.folder / "rabbitmq",
        port=state.ports["amqp"],
        dist_port=state.ports["dist"],
        epmd_port=state.ports["epmd"],
        password=state.broker_password,
        cookie=state.cookie,
        services={service: rights_of(service) for service in (*SERVICES, *ANSWERING)},
        metrics_port=state.ports.get("broker_metrics"),  # not of a stack that an older version has started
    )


def store(state: StackState) -> EmbeddedStore:
    """Describe the stack's own store."""
    return EmbeddedStore(folder=state.folder / "store", port=state.ports["store"])


def resolve(state: StackState, settings: StackSettings) -> None:
    """Write into `state` where broker, store and API are."""
    state.amqp_url = settings.amqp_url.get_secret_value() if settings.amqp_url else broker_node(state).url
    state.mongo_url = settings.mongo_url.get_secret_value() if settings.mongo_url else store(state).url
    state.mirror_dir = (settings.mirror_dir or state.folder / "mirror").resolve()
    host = "localhost" if settings.host in {"127.0.0.1", "0.0.0.0"} else settings.host  # noqa: S104 - compared only
    state.base_url = f"http://{host}:{settings.port}/api"


def components(state: StackState, settings: StackSettings) -> list[Component]:
    """List the processes of a stack.

    Parameters
    ----------
    state
        With ports chosen and addresses resolved.
    settings
        What the environment says. Its other `STDWEB_` settings are handed on to the services.
    """
    common = dict(os.environ) | marked(state.mark)
    for name in ("HOST", "PORT", "AMQP_URL", "MONGO_URL", "MIRROR_DIR", "SLOTS", "TLS_CERTIFICATE", "TLS_KEY"):
        common.pop(PREFIX + name, None)
    data_dir = (settings.data_dir or state.volume).resolve()
    for folder in (data_dir, state.mirror_dir):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    common[f"{PREFIX}DATA_DIR"] = str(data_dir)

    parts = []
    if settings.amqp_url is None:
        node = broker_node(state)
        env = dict(os.environ) | node.environment | marked(state.mark)
        node.prepare()
        parts.append(Component("rabbitmq", node.command, env, _ready(node.accepts), _INFRASTRUCTURE))
    if settings.mongo_url is None:
        own = store(state)
        own.folder.mkdir(parents=True, exist_ok=True)
        env = own.environment | marked(state.mark)
        parts.append(Component("store", own.command, env, _ready(own.accepts), _INFRASTRUCTURE))
    gateway_env = common | {
        f"{PREFIX}AMQP_URL": state.amqp_url,
        f"{PREFIX}MONGO_URL": state.mongo_url,
        f"{PREFIX}HOST": settings.host,
        f"{PREFIX}PORT": str(settings.port),
        "MOTOR_MAX_WORKERS": "64",
    }
    parts.append(program("gateway", gateway_env, settings.port))
    slots = settings.slots or len(os.sched_getaffinity(0))
    for service in SERVICES:
        env = common | _of_service(service, state, settings, slots) | {f"{PREFIX}MIRROR_DIR": str(state.mirror_dir)}
        parts.append(program(service, env, state.ports[service]))
    for service in ANSWERING:
        env = common | _of_service(service, state, settings, slots)
        parts.append(program(service, env, state.ports[service]))
    return parts


def _of_service(service: str, state: StackState, settings: StackSettings, slots: int) -> dict[str, str]:
    """Say where its health is asked, and how it talks to the broker: to the stack's own with few rights."""
    own = {f"{PREFIX}SLOTS": str(slots), f"{PREFIX}HEALTH_PORT": str(state.ports[service])}
    if settings.amqp_url is not None:
        return own | {f"{PREFIX}AMQP_URL": state.amqp_url}
    url = broker_node(state).url_of(VHOST, service)
    return own | {f"{PREFIX}AMQP_URL": url, f"{PREFIX}BROKER_DECLARES": "false"}


def program(service: str, env: Mapping[str, str], port: int, *, name: str = "") -> Component:
    """Describe a process of ours.

    Parameters
    ----------
    service
        Which one.
    env
        Its environment, but for what Python needs.
    port
        Where its health is asked.
    name
        Its name, where there are several of the service.
    """
    argv = [sys.executable, "-m", f"services.{service}"]
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    return Component(name or service, argv, {**env, **here}, lambda: _http_ready(port), _SERVICES)


def _ready(accepts: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    return lambda: asyncio.to_thread(accepts)


async def _http_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
