"""The stack that the campaign torments: three gateways, two workers of a kind, and a proxy at every connection."""

import asyncio
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aio_pika

from shared.broker.rights import rights_of
from shared.broker.topology import PARKING_QUEUE
from shared.settings import PREFIX
from stdweb.stack import processes
from stdweb.stack.components import program
from stdweb.stack.rabbit import VHOST, RabbitNode
from stdweb.stack.store import EmbeddedStore
from stdweb.stack.supervisor import Component, Report, Supervisor

from .proxy import Proxy

ROOT: Final = Path(__file__).parents[2]
GATEWAYS: Final = ("gateway-1", "gateway-2", "gateway-3")
WORKERS: Final = tuple(f"{name}-{number}" for name in ("inspect", "photometry", "subtraction") for number in (1, 2))
PREVIEWS: Final = ("preview-1", "preview-2")
SERVICES: Final = (*WORKERS, *PREVIEWS)
USER: Final = "chaos"
VOLUME_BYTES: Final = 512 * 2**20
RESERVE_BYTES: Final = 8 * 2**20
_START_S: Final = 300.0

SHORT_LEASES: Final = {
    "HEARTBEAT_S": "1",
    "LEASE_S": "6",
    "LEASE_POLL_S": "2",
    "SILENT_AFTER_S": "12",
    "REPUBLISH_AFTER_S": "20",
    "RECONCILE_EVERY_S": "1",
    "BROKER_SETTLE_S": "8",
    "EVENTS_HEARTBEAT_S": "2",
}
"""Everything that waits for the dead waits less; the default settings apply where the campaign is told so."""


@dataclass
class Stack:
    """A running stack.

    Parameters
    ----------
    folder
        Where everything of it is.
    settings
        Of its processes, without the prefix.
    """

    folder: Path
    settings: dict[str, str]
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    ports: dict[str, int] = field(default_factory=dict)
    proxies: dict[tuple[str, str], Proxy] = field(default_factory=dict)
    _supervisor: Supervisor | None = None
    _running: asyncio.Task[None] | None = None

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def mirror(self) -> Path:
        return self.folder / "mirror"

    @property
    def node(self) -> RabbitNode:
        return RabbitNode(
            self.folder / "rabbitmq",
            self.ports["broker"],
            self.ports["dist"],
            self.ports["epmd"],
            password=self.mark,
            cookie=self.mark,
            services={service: rights_of(service) for service in {_service(name) for name in SERVICES}},
        )

    @property
    def store(self) -> EmbeddedStore:
        return EmbeddedStore(self.folder / "store", self.ports["store"])

    @property
    def gateways(self) -> list[str]:
        return [f"http://127.0.0.1:{self.ports[name]}" for name in GATEWAYS]

    def pid(self, name: str) -> int | None:
        """Process id of a component; None while it is down."""
        report = Report.read(self.folder)
        return report.components[name].pid if report else None

    def ready(self, name: str | None = None) -> bool:
        """Tell whether a component, or all of them, can be used."""
        report = Report.read(self.folder)
        if report is None:
            return False
        return report.ready if name is None else report.components[name].state == "ready"

    def pids(self) -> dict[str, int]:
        """Give the process ids of all components that are up."""
        report = Report.read(self.folder)
        found = report.components.items() if report else ()
        return {name: health.pid for name, health in found if health.pid is not None}

    def deaths(self) -> dict[str, int]:
        """Tell how often each component has died."""
        report = Report.read(self.folder)
        return {name: health.deaths for name, health in report.components.items()} if report else {}

    # ---- life

    async def start(self) -> None:
        """Start everything, and wait until it can be used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.volume, self.mirror, self.store.folder if self.ports else self.folder / "store"):
            place.mkdir(exist_ok=True)
        names = ("broker", "dist", "epmd", "store", *GATEWAYS, *SERVICES)
        ways = [(name, server) for name in GATEWAYS for server in ("broker", "store")]
        ways += [(name, "broker") for name in SERVICES]
        free = _free_ports(len(names) + len(ways))  # at once, so that nobody is given the port of another
        self.ports = dict(zip(names, free, strict=False))
        for (name, server), port in zip(ways, free[len(names) :], strict=True):
            self.proxies[name, server] = Proxy(self.ports[server], port)
            await self.proxies[name, server].start()
        self.node.prepare()
        (self.folder / "mark").write_text(self.mark)
        self._supervisor = Supervisor(self._components(), self.folder)
        self._running = asyncio.create_task(self._supervisor.run())
        deadline = time.monotonic() + _START_S
        while not self.ready():
            if time.monotonic() > deadline or self._running.done():
                raise RuntimeError(f"the stack does not start: see {self.folder / 'logs'}")
            await asyncio.sleep(0.1)

    async def stop(self) -> list[str]:
        """End everything; gives what had to be killed."""
        if self._supervisor is not None and self._running is not None:
            self._supervisor.stop()
            await self._running
        for proxy in self.proxies.values():
            await proxy.close()
        left = [_command(pid) for pid in await self._left()]
        await asyncio.to_thread(processes.end, self.mark, 2.0)
        return left

    async def _left(self) -> list[int]:
        """List processes that outlive the stack: but for the port mapper, which serves all nodes of a host."""
        deadline = time.monotonic() + 5
        while True:
            pids = [pid for pid in await asyncio.to_thread(processes.members, self.mark) if "epmd" not in _command(pid)]
            if not pids or time.monotonic() > deadline:
                return pids
            await asyncio.sleep(0.1)

    def _components(self) -> list[Component]:
        broker, store = self.node, self.store
        base = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        base |= processes.marked(self.mark) | {"XDG_CACHE_HOME": str(self.folder / "cache")}
        common = base | {f"{PREFIX}{name}": value for name, value in self.settings.items()}
        common |= {f"{PREFIX}DATA_DIR": str(self.volume)}
        parts = [
            Component("broker", broker.command, base | broker.environment, _asked(broker.accepts), 0),
            Component("store", store.command, base, _asked(store.accepts), 0),
        ]
        for name in (*GATEWAYS, *SERVICES):
            own = self._of_gateway(name) if name in GATEWAYS else self._of_service(name)
            env = common | {f"{PREFIX}{key}": value for key, value in own.items()} | {"MOTOR_MAX_WORKERS": "64"}
            parts.append(program(_service(name), env, self.ports[name], name=name))
        return parts

    def _of_gateway(self, name: str) -> dict[str, str]:
        """Settings of a gateway."""
        return {
            "AMQP_URL": self._near(name).url,
            "MONGO_URL": replace(self.store, port=self.proxies[name, "store"].port).url,
            "PORT": str(self.ports[name]),
            "RESERVE_BYTES": str(RESERVE_BYTES),
            "CALLBACK_ALLOW": "127.0.0.0/8",
            "CALLBACK_RETRY_S": "1",
        }

    def _of_service(self, name: str) -> dict[str, str]:
        """Settings of a service; it has few rights at the broker, as everywhere."""
        own = {
            "AMQP_URL": self._near(name).url_of(VHOST, _service(name)),
            "BROKER_DECLARES": "false",
            "SLOTS": "1",
            "HEALTH_PORT": str(self.ports[name]),
        }
        return own if name in PREVIEWS else own | {"MIRROR_DIR": str(self.mirror)}

    def _near(self, name: str) -> RabbitNode:
        """Give the node as a process sees it, through its proxy."""
        return replace(self.node, port=self.proxies[name, "broker"].port)

    # ---- asking the broker, not through our own code

    async def rabbitmqctl(self, *arguments: str) -> str:
        """Run RabbitMQ's own tool on our node."""
        process = await asyncio.create_subprocess_exec(
            "/usr/lib/rabbitmq/bin/rabbitmqctl",
            "-q",
            *arguments,
            env=dict(os.environ) | self.node.environment | {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {output.decode()}")
        return output.decode()

    async def queues(self) -> list[dict[str, object]]:
        """List all queues with their messages and consumers."""
        columns = ("name", "messages_ready", "messages_unacknowledged", "consumers", "exclusive")
        return list(json.loads(await self.rabbitmqctl("list_queues", "-p", VHOST, "--formatter", "json", *columns)))

    async def letters(self) -> list[dict[str, object]]:
        """Read the parking queue, and leave it as it is."""
        connection = await aio_pika.connect(self.node.url)
        async with connection, connection.channel() as channel:
            queue = await channel.get_queue(PARKING_QUEUE, ensure=False)
            found = []
            while (message := await queue.get(fail=False)) is not None:
                found.append(json.loads(message.body))
            return found


def _asked(question):
    return lambda: asyncio.to_thread(question)


def _service(name: str) -> str:
    return name.partition("-")[0]


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
