"""A gateway of which the test says what it does when, and a broker that plays tricks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.gateway import keys
from services.gateway.app import build_app
from services.gateway.listener import Listener
from services.gateway.reconcile import Reconciler
from services.gateway.storage import Store, Tasks
from shared.broker import BrokerUnavailable
from shared.broker.interface import Depth
from shared.contracts.messages import StepDone, StepFailed, StepMessage, StepStarted
from shared.settings import GatewaySettings

LONG_S: Final = 1000.0

Report = StepStarted | StepDone | StepFailed


class Died(BaseException):
    """The process of the gateway ends here."""


@dataclass
class Post:
    """The broker, as far as the coordinator sees it."""

    letters: list[StepMessage]
    connected: bool = True
    dies: str = ""

    async def publish(self, _route: object, message: Any, **_: object) -> None:
        if not self.connected:
            raise BrokerUnavailable
        fate, self.dies = self.dies, ""
        if fate == "before":
            raise Died
        if isinstance(message, StepMessage):
            self.letters.append(message)
        if fate == "after":
            raise Died
        if fate == "unconfirmed":
            raise BrokerUnavailable

    async def tell(self, _route: object, _message: object) -> None:
        pass

    async def depth(self, _queue: str) -> Depth:
        return Depth(len(self.letters), 32)


@dataclass
class Mail:
    """A report as the listener gets it."""

    report: Report

    @property
    def body(self) -> bytes:
        return self.report.model_dump_json().encode()

    async def ack(self) -> None:
        pass

    async def requeue(self) -> None:
        raise AssertionError("the store was there")


class Member:
    """One gateway, without its background work: the test says what it does when."""

    def __init__(self, url: str, folder: Path, letters: list[StepMessage], places: int) -> None:
        made = GatewaySettings(
            amqp_url="amqp://unused",
            mongo_url=url,
            data_dir=folder,
            reserve_bytes=0,
            max_steps_per_user=places,
            silent_after_s=LONG_S,
            republish_after_s=LONG_S,
        )
        self.post = Post(letters)
        self.store = Store(url)
        app = build_app(made, self.store, self.post)  # type: ignore[arg-type]
        self.coordinator = app[keys.COORDINATOR]
        self.tasks, self.root = Tasks(self.store), app[keys.ROOT]
        self.listener = Listener(self.post, self.coordinator, app[keys.EVENTS])  # type: ignore[arg-type]
        self.reconciler = Reconciler(made, self.tasks, self.root, self.coordinator, app[keys.FILES]._images)

    async def grow_old(self) -> None:
        """Let time pass in which nothing is heard."""
        for task in await self.tasks.active():
            step = task.run.current if task.run else None
            if step is not None:
                sign = self.coordinator.signs.of(step.id, step.attempt)
                sign.heard -= 2 * LONG_S
                sign.published = None if sign.published is None else sign.published - 2 * LONG_S
