"""One user's many chains, and another's single one."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from shared.broker import Delivery
from shared.contracts.messages import StepMessage
from tests.support.gateway import Client, FakeWorker, Gateway, gateway

SLOTS = 3
CHAINS = 40


class Slots:
    """A service that works on SLOTS steps at once, each until the test lets it end."""

    def __init__(self, worker: FakeWorker, step: str) -> None:
        self.worker, self.step = worker, step
        self.began: list[StepMessage] = []
        self.ends: dict[int, asyncio.Event] = {}

    async def start(self) -> None:
        for _ in range(SLOTS):
            await self.worker.broker.consume(f"step.{self.step}.v1", self.handle, prefetch=1)

    async def handle(self, delivery: Delivery) -> None:
        message = StepMessage.model_validate_json(delivery.body)
        self.began.append(message)
        await self.ends.setdefault(message.task_id, asyncio.Event()).wait()
        report = await asyncio.to_thread(self.worker.work, message)
        assert report is not None
        await self.worker.report(report)
        await delivery.ack()

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.began) < count:
                await asyncio.sleep(0.005)

    def end(self, message: StepMessage) -> None:
        self.ends[message.task_id].set()


@pytest.fixture
async def idle(mongo_url: str, tmp_path: Path):
    """A gateway without any service."""
    async with gateway(mongo_url, tmp_path, services=False) as site:
        yield site


async def test_many_chains_of_one_user_delay_another_by_less_than_two_steps(idle: Gateway) -> None:
    service = Slots(idle.worker, "inspect")
    await service.start()
    async with idle.client("ann") as ann, idle.client("bob") as bob:
        tasks = [(await ann.ok("POST", "/tasks/", json={"original_name": "a"}))["id"] for _ in range(CHAINS)]
        await asyncio.gather(*(start(ann, task) for task in tasks))
        await service.until_begun(SLOTS)
        for message in list(service.began):  # in the middle of the campaign
            service.end(message)
        await service.until_begun(2 * SLOTS)
        own = (await bob.ok("POST", "/tasks/", json={"original_name": "b"}))["id"]
        await start(bob, own)
        ended = SLOTS
        while service.began[-1].task_id != own:
            service.end(service.began[ended])
            ended += 1
            await service.until_begun(ended + SLOTS)
        # of the steps that run at the moment each slot has ended one, and none of them two
        assert ended - SLOTS <= SLOTS + 1, [message.task_id for message in service.began]
        for task in [*tasks, own]:
            service.ends.setdefault(task, asyncio.Event()).set()
        for task in tasks:
            assert (await ann.ended(task))["state"] == "inspect_done"
    assert Counter(message.task_id for message in service.began) == Counter([*tasks, own])


async def start(client: Client, task: int) -> None:
    await client.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect"]})


async def test_a_user_alone_keeps_every_slot_busy(idle: Gateway) -> None:
    service = Slots(idle.worker, "inspect")
    await service.start()
    async with idle.client("ann") as ann:
        tasks = [(await ann.ok("POST", "/tasks/", json={"original_name": "a"}))["id"] for _ in range(2 * SLOTS + 2)]
        for task in tasks:
            await start(ann, task)
        await service.until_begun(SLOTS)
        assert (await idle.broker.depth("step.inspect.v1")).messages == SLOTS  # ready for whoever ends first
        for number in range(len(tasks)):
            await service.until_begun(min(number + SLOTS, len(tasks)))
            service.end(service.began[number])
        for task in tasks:
            assert (await ann.ended(task))["state"] == "inspect_done"


async def test_steps_without_a_service_wait_in_the_store(idle: Gateway) -> None:
    async with idle.client("ann") as ann:
        for _ in range(5):
            task = (await ann.ok("POST", "/tasks/", json={"original_name": "a"}))["id"]
            await start(ann, task)
        assert (await idle.broker.depth("step.inspect.v1")).messages == 2
        service = Slots(idle.worker, "inspect")
        await service.start()
        for number in range(5):
            await service.until_begun(number + 1)
            service.end(service.began[number])


async def test_a_user_may_be_held_to_fewer_steps(idle: Gateway) -> None:
    service = Slots(idle.worker, "inspect")
    await service.start()
    async with idle.client("ann") as ann, idle.client("bob") as bob:
        await idle.admin.set_user("ann", max_steps=1)
        mine = [(await ann.ok("POST", "/tasks/", json={"original_name": "a"}))["id"] for _ in range(3)]
        others = [(await bob.ok("POST", "/tasks/", json={"original_name": "b"}))["id"] for _ in range(2)]
        for client, tasks in ((ann, mine), (bob, others)):
            for task in tasks:
                await start(client, task)
        await service.until_begun(3)
        assert {message.task_id for message in service.began} == {mine[0], *others}
        for number in range(len(mine) + len(others)):
            await service.until_begun(number + 1)
            service.end(service.began[number])
        for client, tasks in ((ann, mine), (bob, others)):
            for task in tasks:
                assert (await client.ended(task))["state"] == "inspect_done"
