"""A real RabbitMQ takes the definitions of deploy/, and the processes find all that they would make themselves."""

import importlib.util
import json
import os
import subprocess
from urllib.parse import urlsplit

import aio_pika
import pytest

from shared.broker import connect, delays_for
from shared.broker.definitions import LEASE_POLL_S, VHOST
from shared.broker.topology import REPORTS_QUEUE, topology
from shared.contracts.steps import STEPS
from tests.support.deploy import ROOT
from tests.support.rabbit import TestBroker


@pytest.fixture(scope="module")
def passwords(rabbit: TestBroker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Import what `make secrets` makes, under the name of a virtual host that only this module has."""
    spec = importlib.util.spec_from_file_location("make_secrets", ROOT / "scripts" / "make_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("secrets")
    script.make(folder)
    definitions = folder / "secrets" / "definitions.json"
    # the node of all tests has users with the names of services already
    text = json.loads(definitions.read_text())
    for user in (*text["users"], *text["permissions"]):
        user["name" if "name" in user else "user"] = f"declared-{user.get('name', user.get('user'))}"
    definitions.write_text(json.dumps(text).replace(f'"{VHOST}"', '"declared"'))
    subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", "import_definitions", str(definitions)],
        env={**os.environ, **rabbit.node.environment},
        check=True,
        capture_output=True,
        timeout=60,
    )
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("BROKER_"))


def url_of(rabbit: TestBroker, passwords: dict[str, str], user: str) -> str:
    host = urlsplit(rabbit.node.url).netloc.rpartition("@")[2]
    return f"amqp://declared-{user}:{passwords[f'BROKER_{user.upper()}_PASSWORD']}@{host}/declared"


async def test_what_the_gateway_makes_is_there_already_and_the_same(
    rabbit: TestBroker, passwords: dict[str, str]
) -> None:
    what = topology(delays_for(LEASE_POLL_S))
    connection = await aio_pika.connect(url_of(rabbit, passwords, "gateway"))
    async with connection:
        for exchange in what.exchanges:
            channel = await connection.channel()
            await channel.get_exchange(exchange.name, ensure=True)
        for queue in what.queues:
            channel = await connection.channel()
            await channel.get_queue(queue.name, ensure=True)
    # with other arguments the broker would refuse
    gateway = connect(url_of(rabbit, passwords, "gateway"), "gateway", settle_s=10, delays_s=delays_for(LEASE_POLL_S))
    try:
        consumer = await gateway.consume(REPORTS_QUEUE, lambda delivery: delivery.ack(), prefetch=1)
        assert (await gateway.depth(REPORTS_QUEUE)).consumers == 1
        await consumer.stop()
    finally:
        await gateway.close()


@pytest.mark.parametrize("service", sorted({step.service for step in STEPS.values()}))
async def test_a_service_comes_in_before_any_gateway(
    rabbit: TestBroker, passwords: dict[str, str], service: str
) -> None:
    steps = [step for step in STEPS.values() if step.service == service]
    what = topology(delays_for(LEASE_POLL_S), steps)
    broker = connect(url_of(rabbit, passwords, service), service, settle_s=10, what=what, declares=False)
    try:
        consumer = await broker.consume(steps[0].queue, lambda delivery: delivery.ack(), prefetch=1)
        await consumer.stop()
    finally:
        await broker.close()
