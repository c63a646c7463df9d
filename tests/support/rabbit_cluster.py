"""Three clustered RabbitMQ nodes lose the one with the queues of requests: `python -m tests.support.rabbit_cluster`.

Too slow for CI: the nodes alone take a minute. It says what it measures, and fails where steps would wait for the node.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.broker import Broker, BrokerUnavailable, Delivery, NoAnswer, connect, step_route
from shared.contracts.rpc import PREVIEW_RENDER, Refusal, Request
from shared.contracts.steps import STEPS
from stdweb.stack.rabbit import RabbitNode
from tests.support.rabbit import free_ports, step_message
from tests.support.relay import Relay

COUNT = 3
AWAY_S = 15  # how long the node is down before it is started again
DEADLINE_S = 30


@dataclass(frozen=True)
class Member(RabbitNode):
    """A node of a cluster."""

    name: str = ""
    members: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables, with a name of its own."""
        return super().environment | {"RABBITMQ_NODENAME": self.name}

    def prepare(self) -> None:
        """Write its files, and in them the others."""
        super().prepare()
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [
            f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(self.members)
        ]
        with (self.folder / "rabbitmq.conf").open("a") as file:
            file.write("\n".join((*lines, "")))


class Cluster:
    """All nodes, started one after the other."""

    def __init__(self, folder: Path) -> None:
        epmd, *ports = free_ports(1 + 2 * COUNT)
        names = tuple(f"stdweb{number}@localhost" for number in range(COUNT))
        self.nodes = [
            Member(folder / name, port, dist, epmd, "secret", "cookie", name=name, members=names)
            for name, port, dist in zip(names, ports[::2], ports[1::2], strict=True)
        ]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, node: Member) -> None:
        """Start one and wait for it."""
        self.processes[node.name] = process = node.start()
        node.wait_ready(process, 180)

    def kill(self, node: Member) -> None:
        """End one as a crash would."""
        self.processes[node.name].kill()
        self.processes[node.name].wait()

    def stop(self) -> None:
        """End all, and their port mapper."""
        for node in self.nodes:
            if node.name in self.processes:
                node.stop(self.processes[node.name])


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def timed(what: str, action: Awaitable[object], limit_s: float = DEADLINE_S) -> None:
    began = time.monotonic()
    try:
        await asyncio.wait_for(action, limit_s)
        told = "done"
    except (BrokerUnavailable, NoAnswer) as error:
        told = f"refused ({type(error).__name__})"
    say(f"{what}: {told} after {time.monotonic() - began:.2f} s")


async def answer(_: bytes) -> Refusal:
    return Refusal(code="asked", error="asked")


def ask(broker: Broker) -> Awaitable[bytes]:
    return broker.call(PREVIEW_RENDER, Request(at=datetime.now(UTC)))


async def answered(broker: Broker) -> None:
    while True:
        try:
            await ask(broker)
        except (BrokerUnavailable, NoAnswer):
            await asyncio.sleep(0.1)
        else:
            return


class Steps:
    """Steps that are published all the time, and those that arrive."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.arrived: set[str] = set()
        self.refused_s: list[float] = []

    async def publish(self, broker: Broker) -> None:
        number = 0
        while True:
            number += 1
            step = step_message(number)
            try:
                await broker.publish(step_route("inspect"), step, message_id=step.step_id)
                self.taken.append(step.step_id)
            except BrokerUnavailable:
                self.refused_s.append(time.monotonic())
            await asyncio.sleep(0.05)

    async def take(self, delivery: Delivery) -> None:
        self.arrived.add(delivery.message_id)
        await delivery.ack()

    async def all_arrived(self) -> None:
        while not self.arrived.issuperset(self.taken):
            await asyncio.sleep(0.1)


async def check(cluster: Cluster) -> None:
    *staying, lost = cluster.nodes
    async with AsyncExitStack() as stack:
        # as behind a cluster's one address: to the node that is lost, then to one that stays
        relay = await stack.enter_async_context(Relay(lost.url, staying[0].url))

        def joined(url: str, name: str, *, declares: bool) -> Broker:
            broker = connect(url, name, settle_s=5, declares=declares)
            stack.push_async_callback(broker.close)
            return broker

        gateway = joined(relay.url, "gateway", declares=True)
        await gateway.ready()  # the classic queues are on the node that is lost
        worker = joined(relay.url, "worker", declares=False)
        elsewhere = joined(staying[1].url, "elsewhere", declares=False)
        steps = Steps()
        await worker.consume(STEPS["inspect"].queue, steps.take, prefetch=1)
        await worker.serve(PREVIEW_RENDER, answer, prefetch=1)
        await elsewhere.serve(PREVIEW_RENDER, answer, prefetch=1)
        await timed("a request", ask(gateway))
        publishing = asyncio.create_task(steps.publish(gateway))

        cluster.kill(lost)
        killed = time.monotonic()
        say(f"{lost.name} is killed")
        await timed("a request", ask(gateway), 10)
        late = joined(staying[0].url, "late", declares=True)
        await timed("a gateway that starts", late.ready())
        await timed("its request", ask(late), 10)
        await asyncio.sleep(AWAY_S)
        await timed("all steps published meanwhile arrive", steps.all_arrived())
        gap_s = max(steps.refused_s, default=killed) - killed
        say(f"steps: {len(steps.taken)} taken, {len(steps.refused_s)} refused, the last {gap_s:.1f} s after the kill")
        assert gap_s < AWAY_S / 2, "steps waited for the node"

        await asyncio.to_thread(cluster.start, lost)
        say(f"{lost.name} is back")
        for broker, name in ((gateway, "the gateway"), (late, "the late one")):
            await timed(f"answers to {name}", answered(broker))
        publishing.cancel()
        await timed("all steps arrive", steps.all_arrived())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        try:
            for node in cluster.nodes:
                node.prepare()
                cluster.start(node)
            say("three nodes are up")
            asyncio.run(check(cluster))
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
