"""A request that is sent again makes the same task, whatever became of its first try."""

from dataclasses import replace
from itertools import count

import pytest

from services.gateway.domain.errors import Conflict, Invalid
from services.gateway.domain.once import Once, Reserved
from services.gateway.model import Task, now
from services.gateway.storage import Claim, StoreAway


class Memory:
    """Claims and tasks, in memory."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.tasks: dict[int, Task] = {}
        self.ids = count(1)

    async def get(self, key: str) -> Claim | None:
        return self.claims.get(key)

    async def add(self, claim: Claim) -> bool:
        return self.claims.setdefault(claim.key, claim) is claim

    async def note_made(self, claim: Claim) -> None:
        self.claims[claim.key] = replace(claim, made=True)

    async def drop(self, claim: Claim) -> None:
        del self.claims[claim.key]

    async def new_id(self) -> int:
        return next(self.ids)

    async def make(self, own: Reserved | None) -> Task:
        task_id = await self.new_id() if own is None else own.task_id
        return self.tasks.setdefault(task_id, Task(task_id, "x", "", "ann", (), now(), now(), "initial"))

    async def cut_off(self, own: Reserved | None) -> Task:
        await self.make(own)
        raise StoreAway

    async def not_even(self, _own: Reserved | None) -> Task:
        raise StoreAway

    async def refuse(self, _own: Reserved | None) -> Task:
        raise Invalid("no")


class Found:
    """Tasks alone, by id."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    async def get(self, task_id: int) -> Task | None:
        return self.memory.tasks.get(task_id)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def once(memory: Memory) -> Once:
    return Once(memory, Found(memory), memory.new_id)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["cut_off", "not_even"])
async def test_after_a_hiccup_of_the_store_the_same_task_is_made_at_once(
    memory: Memory, once: Once, first: str
) -> None:
    with pytest.raises(StoreAway):
        await once.make("k", "asked", getattr(memory, first))
    assert (await once.make("k", "asked", memory.make)).id == 1
    assert (await once.make("k", "asked", memory.not_even)).id == 1
    assert list(memory.tasks) == [1]


async def test_one_that_was_deleted_is_not_made_again(memory: Memory, once: Once) -> None:
    made = await once.make("k", "asked", memory.make)
    del memory.tasks[made.id]
    with pytest.raises(Conflict, match="deleted"):
        await once.make("k", "asked", memory.make)


async def test_a_refused_request_leaves_its_key_to_a_better_one(memory: Memory, once: Once) -> None:
    with pytest.raises(Invalid):
        await once.make("k", "asked", memory.refuse)
    assert (await once.make("k", "asked otherwise", memory.make)).id == 2
    with pytest.raises(Conflict, match="another request"):
        await once.make("k", "asked", memory.make)


async def test_without_a_key_each_request_makes_a_task(memory: Memory, once: Once) -> None:
    assert [(await once.make(None, "asked", memory.make)).id for _ in range(2)] == [1, 2]
