"""A RabbitMQ node for tests, with a virtual host for each of them."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from shared.broker.rights import rights_of
from shared.contracts.messages import StepMessage
from stdweb.stack.components import ANSWERING, SERVICES
from stdweb.stack.rabbit import USER, RabbitNode

VHOSTS = tuple(f"test{number}" for number in range(64))


def step_message(number: int) -> StepMessage:
    """Make a message that asks for an `inspect`, of a task and a step of that number."""
    return StepMessage(
        task_id=number,
        run_id="r",
        at=datetime.now(UTC),
        step_id=f"s{number}",
        step="inspect",
        attempt=1,
        seq=1,
        position=1,
        total=1,
        config={},
    )


def free_ports(count: int) -> list[int]:
    """Find ports of the loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class TestBroker:
    """A node that can be killed and started again.

    Parameters
    ----------
    folder
        Where it keeps everything.
    """

    __test__ = False

    def __init__(self, folder: Path) -> None:
        port, dist_port, epmd_port = free_ports(3)
        rights = {service: rights_of(service) for service in (*SERVICES, *ANSWERING)}
        self.node = RabbitNode(folder, port, dist_port, epmd_port, "secret", "cookie", VHOSTS, rights)
        self.node.prepare()
        self._vhosts = iter(VHOSTS)
        self.process: subprocess.Popen[bytes] = self.node.start()

    def wait_ready(self) -> None:
        """Wait until it can be used."""
        self.node.wait_ready(self.process)

    def new_url(self) -> str:
        """Give the address of a virtual host that nobody has used."""
        return self.node.url_of(next(self._vhosts))

    def urls(self) -> Callable[[str], str]:
        """Give the addresses of a virtual host that nobody has used: of the gateway, and of each service."""
        vhost = next(self._vhosts)
        return lambda user: self.node.url_of(vhost, USER if user == "gateway" else user)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again after `kill`."""
        self.process = self.node.start()
        self.wait_ready()

    def stop(self) -> None:
        """End it, and what it left behind."""
        self.node.stop(self.process)


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[TestBroker]:
    """Run a node for as long as the block takes."""
    broker = TestBroker(folder)
    try:
        broker.wait_ready()
        yield broker
    finally:
        broker.stop()
