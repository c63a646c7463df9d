"""What comes from the broker: reports of the services, signs of life, dead letters."""

import asyncio
import time
from typing import Final

import structlog
from pydantic import TypeAdapter, ValidationError

from shared import tracing
from shared.broker import Broker, BrokerUnavailable, Consumer, Delivery
from shared.broker.topology import (
    DEAD_AT,
    DEAD_QUEUE,
    DEAD_REASON,
    EVENTS_EXCHANGE,
    PROGRESS_PATTERN,
    REPORTS_QUEUE,
    parking_route,
)
from shared.contracts.messages import StepDone, StepFailed, StepMessage, StepProgress, StepStarted
from shared.contracts.steps import STEPS

from .counters import DEAD, NO_STEP, UNREADABLE
from .domain.coordinator import Coordinator
from .domain.events import Events
from .storage import StoreAway

_PREFETCH: Final = 50
_AGAIN_S: Final = 1.0

_REPORT: Final[TypeAdapter[StepStarted | StepDone | StepFailed]] = TypeAdapter(StepStarted | StepDone | StepFailed)
_PROGRESS: Final = TypeAdapter(StepProgress)
_STEP: Final = TypeAdapter(StepMessage)

log = structlog.get_logger()


class Listener:
    """Takes messages in, and acknowledges them after their effect."""

    def __init__(self, broker: Broker, coordinator: Coordinator, events: Events) -> None:
        self._broker = broker
        self._coordinator = coordinator
        self._events = events
        self._consumers: list[Consumer] = []

    async def start(self) -> None:
        """Subscribe; waits for the broker as long as it takes."""
        listening = await self._broker.listen(EVENTS_EXCHANGE, [PROGRESS_PATTERN], self._progress)
        reports = await self._broker.consume(REPORTS_QUEUE, self._report, prefetch=_PREFETCH)
        dead = await self._broker.consume(DEAD_QUEUE, self._dead, prefetch=1)
        self._consumers = [listening, reports, dead]

    async def stop(self) -> None:
        """Take no more messages."""
        for consumer in self._consumers:
            await consumer.stop()

    async def _progress(self, delivery: Delivery) -> None:
        try:
            progress = _PROGRESS.validate_json(delivery.body)
        except ValidationError as error:
            log.warning("bad progress message", error=str(error))
            UNREADABLE.labels("progress").inc()
            return
        self._coordinator.signs.progress(progress)
        self._events.hear(progress)

    async def _report(self, delivery: Delivery) -> None:
        try:
            report = _REPORT.validate_json(delivery.body)
        except ValidationError as error:
            log.warning("bad report dropped", error=str(error))
            UNREADABLE.labels("report").inc()
            await delivery.ack()
            return
        try:
            await self._take(report)
        except StoreAway:
            # the broker keeps it until the store is back
            await asyncio.sleep(_AGAIN_S)
            await delivery.requeue()
            return
        except Exception:
            # the folder holds what was committed, and the reconciler looks there
            log.exception("report not taken in", task=report.task_id, run=report.run_id)
        await delivery.ack()

    async def _take(self, report: StepStarted | StepDone | StepFailed) -> None:
        tracing.note(task=report.task_id, run=report.run_id, step=report.step, report=report.kind)
        with structlog.contextvars.bound_contextvars(task=report.task_id, run=report.run_id, step=report.step):
            if isinstance(report, StepStarted):
                self._coordinator.signs.hear(report.step_id, report.attempt)
                await self._coordinator.started(report)
            elif isinstance(report, StepDone):
                await self._coordinator.done(report)
            else:
                await self._coordinator.failed(report)

    async def _dead(self, delivery: Delivery) -> None:
        """End the run of a message that no worker could take, and keep the message for people.

        One that is no message of a step, of another version perhaps, ends nothing and is kept all the same.
        """
        message: StepMessage | None = None
        try:
            message = _STEP.validate_json(delivery.body)
        except ValidationError as error:
            log.warning("dead letter that is no step", error=str(error))
        headers: dict[str, str | int] = {DEAD_REASON: _cause(delivery), DEAD_AT: int(time.time())}
        try:
            if message is not None:
                reason = f"The step {message.step} could not be worked on: its workers died or refused it repeatedly."
                await self._coordinator.dead(message, reason)
            message_id = delivery.message_id if message is None else message.step_id
            await self._broker.publish(parking_route(), delivery.body, message_id=message_id, headers=headers)
        except (StoreAway, BrokerUnavailable):
            await asyncio.sleep(_AGAIN_S)
            await delivery.requeue()
            return
        if message is not None:
            log.error("dead letter", task=message.task_id, run=message.run_id, step=message.step)
        DEAD.labels(message.step if message is not None and message.step in STEPS else NO_STEP).inc()
        await delivery.ack()


def _cause(delivery: Delivery) -> str:
    """Read from the broker's own header why it gave a message up."""
    deaths = delivery.headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    return str(last.get("reason", "rejected"))
