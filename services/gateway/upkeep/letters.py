"""Dead letters: messages of steps that no worker could take, kept by the gateway for people to look at.

The run of a dead letter has ended as failed, and its folder is closed to it: the message itself can never run again.
What can is the rest of its chain, as a new run. A letter that is no message of a step can only be looked at and
deleted.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from shared.broker import Broker, BrokerUnavailable, Delivery
from shared.broker.topology import DEAD_AT, DEAD_REASON, PARKING_QUEUE
from shared.contracts.messages import StepMessage

from ..domain.errors import Invalid, Refused, Unavailable
from ..domain.runs import Request, end_state
from .site import Site

_MOST: Final = 10_000  # looked at together
_CONNECT_S: Final = 10.0
_ARRIVE_S: Final = 10.0
_POLL_S: Final = 0.02
_AWAY: Final = "The broker does not answer. Does it run? Try: make status"
_REASONS: Final = {
    "rejected": "a worker refused it",
    "delivery_limit": "it was delivered too often, and its workers died",
}


@dataclass(frozen=True)
class Letter:
    """A dead letter.

    Parameters
    ----------
    body
        As it came.
    message
        What it says; None when it is no message of a step, of this version at least.
    reason
        Why it died.
    age_s
        How long ago, seconds; None when that is not known.
    steps
        What a new run would do; empty when there may be none.
    obstacle
        Why there may be none.
    """

    body: bytes
    message: StepMessage | None
    reason: str
    age_s: float | None
    steps: tuple[str, ...]
    obstacle: str = ""

    @property
    def id(self) -> str:
        """Its id: that of the step, else one that is made of what it says."""
        return self.message.step_id if self.message is not None else hashlib.sha256(self.body).hexdigest()[:32]


@dataclass(frozen=True)
class Handled:
    """What became of a letter; `problem` says why nothing did."""

    letter: Letter
    problem: str = ""


async def listed(site: Site) -> list[Letter]:
    """List the dead letters, the oldest first; they stay."""
    async with _opened(site.broker) as deliveries:
        letters = [await _read(site, delivery) for delivery in deliveries]
    return sorted(letters, key=lambda letter: -(letter.age_s or 0))


async def found(site: Site, start: str) -> Letter:
    """Find the letter whose id begins so; it stays. Raises what `requeue` does."""
    async with _opened(site.broker) as deliveries:
        return (await _chosen(site, deliveries, [start]))[0][1]


async def requeue(site: Site, ids: Sequence[str]) -> list[Handled]:
    """Start the rest of the chains of dead letters as new runs, where that may be; the letters are gone then.

    Parameters
    ----------
    ids
        Beginnings of ids; empty for all.

    Raises
    ------
    Invalid
        When one is that of no letter, or of several.
    """
    handled = []
    async with _opened(site.broker) as deliveries:
        for delivery, letter in await _chosen(site, deliveries, ids):
            problem = letter.obstacle or await _start(site, letter.message, letter.steps)
            if not problem:
                await delivery.ack()
                deliveries.remove(delivery)
            handled.append(Handled(letter, problem))
    return handled


async def drop(site: Site, ids: Sequence[str]) -> list[Handled]:
    """Delete dead letters; takes and raises what `requeue` does."""
    handled = []
    async with _opened(site.broker) as deliveries:
        for delivery, letter in await _chosen(site, deliveries, ids):
            await delivery.ack()
            deliveries.remove(delivery)
            handled.append(Handled(letter))
    return handled


async def _start(site: Site, message: StepMessage | None, steps: tuple[str, ...]) -> str:
    task = None if message is None else await site.tasks.get(message.task_id)
    if task is None or task.run is None:
        return "the task was deleted just now"
    request = Request(task.run.user, steps, viewer=await site.users.get(task.run.user))
    try:
        await site.coordinator.process(task, request)
    except Refused as error:
        return str(error)
    return ""


@asynccontextmanager
async def _opened(broker: Broker) -> AsyncIterator[list[Delivery]]:
    """Take all letters; those that are left in the list go back."""
    deliveries: list[Delivery] = []
    arrived = asyncio.Event()

    async def take(delivery: Delivery) -> None:
        deliveries.append(delivery)
        if len(deliveries) >= count:
            arrived.set()

    try:
        async with asyncio.timeout(_CONNECT_S):
            await broker.ready()
            count = min((await broker.depth(PARKING_QUEUE)).messages, _MOST)
    except (BrokerUnavailable, TimeoutError):
        raise Unavailable(_AWAY) from None
    if not count:
        yield deliveries
        return
    consumer = await broker.consume(PARKING_QUEUE, take, prefetch=count)
    try:
        async with asyncio.timeout(_ARRIVE_S):
            await arrived.wait()
    except TimeoutError:
        pass  # somebody else looks at some of them just now
    finally:
        await consumer.stop()  # or what goes back would come again
    try:
        yield deliveries
    finally:
        for delivery in deliveries:
            await delivery.requeue()
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            await _back(broker, len(deliveries))


async def _back(broker: Broker, count: int) -> None:
    """Wait until the broker has so many letters again: whoever looks next is to find them."""
    async with asyncio.timeout(_ARRIVE_S):
        while (await broker.depth(PARKING_QUEUE)).messages < count:  # noqa: ASYNC110 - brokers send no events
            await asyncio.sleep(_POLL_S)


async def _chosen(site: Site, deliveries: Sequence[Delivery], ids: Sequence[str]) -> list[tuple[Delivery, Letter]]:
    letters = [(delivery, await _read(site, delivery)) for delivery in deliveries]
    if not ids:
        return letters
    chosen = []
    for start in ids:
        these = [pair for pair in letters if pair[1].id.startswith(start)]
        if len({letter.id for _, letter in these}) != 1:
            wrong = "there is no dead letter" if not these else "there are several dead letters"
            raise Invalid.field("id", f"{wrong} whose id begins with {start!r}; see: stdweb admin dead-letters list")
        chosen += these
    return chosen


async def _read(site: Site, delivery: Delivery) -> Letter:
    reason = str(delivery.headers.get(DEAD_REASON, ""))
    at = delivery.headers.get(DEAD_AT)
    age_s = time.time() - at if isinstance(at, int) else None
    reason = _REASONS.get(reason, reason or "not known")
    try:
        message = StepMessage.model_validate_json(delivery.body)
    except ValidationError:
        return Letter(delivery.body, None, reason, age_s, (), "it is no message of a step, or of another version")
    steps, obstacle = await _rest(site, message)
    return Letter(delivery.body, message, reason, age_s, steps, obstacle)


async def _rest(site: Site, message: StepMessage) -> tuple[tuple[str, ...], str]:
    """Give the steps from the dead one on, or say why they may not run again."""
    task = await site.tasks.get(message.task_id)
    if task is None:
        return (), "its task was deleted"
    run = task.run
    if run is None or run.id != message.run_id:
        return (), "the task has run since, or its image has changed"
    if run.active:
        return (), "its run goes on"
    if run.status != "failed":
        return (), f"its run has ended as {run.status}"
    if task.pending is not None or task.state != end_state(run):
        return (), "the image of the task has changed since"
    names = [step.name for step in run.steps]
    places = [index for index, step in enumerate(run.steps) if step.id == message.step_id]
    return (tuple(names[places[0] :]), "") if places else ((), "its run has no such step")
