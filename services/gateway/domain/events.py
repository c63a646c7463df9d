"""What happens to tasks, for those who follow them.

Changes of state are those of the store, numbered by the revision of the task: what was written from here is told at
once, what other gateways have written is found by looking now and then, and only while somebody listens. Progress and
lines of logs come from the broker as they come, and are dropped for clients that do not keep up.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import structlog
from prometheus_client import Gauge

from shared.contracts.messages import StepProgress
from shared.contracts.states import StepStatus
from shared.metrics import REGISTRY

from ..model import Run, RunStep, Task, User
from ..storage import StoreAway, Watch
from . import access
from .errors import TooMany, Unavailable

Reason = Literal["deleted", "forbidden", "shutdown", "gone"]
"""Why a stream ends: the task is gone, or not for this user any more; the gateway ends; the client has gone."""

_LOOK_S: Final = 1.0  # at tasks that run
_SELDOM: Final = 5  # times slower at others, when they are many
_MANY: Final = 100  # tasks; looking at so many costs the store some milliseconds
_SPACING_S: Final = 0.1  # between looks that something has asked for
_MAX_WAITING: Final = 65_536  # characters of progress and logs that wait for one client
_AGAIN_S: Final = 30

STREAMS: Final = Gauge("stdweb_event_streams", "Clients that follow a task", registry=REGISTRY)

log = structlog.get_logger()


@dataclass(frozen=True)
class Event:
    """Something to tell.

    Parameters
    ----------
    number
        Of a change of state; None for what has none.
    """

    name: Literal["state", "step", "progress", "log", "gap", "end"]
    data: dict[str, Any] = field(default_factory=dict)
    number: int | None = None


class Stream:
    """What one client is still to be told.

    Bounded: of states only the last one waits, which says all that earlier ones did; of the rest the oldest is
    dropped, and a gap told instead.

    Parameters
    ----------
    task
        As it was read for the client.
    last
        Number of the last change of state that the client knows; None when it knows nothing.
    alive
        Tells whether the client is still there.
    """

    def __init__(self, task: Task, user: User, last: int | None, alive: Callable[[], bool]) -> None:
        self.user = user
        self.alive = alive
        self.task = task
        self._fresh = last != task.rev
        self._told: dict[str, tuple[StepStatus, int]] = {} if self._fresh else _standing(task.run)
        self._waiting: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._lost = 0
        self._ended: Reason | None = None
        self._ready = asyncio.Event()
        if self._fresh:
            self._ready.set()

    def tell_state(self, task: Task) -> None:
        """Tell how the task stands, unless the client knows."""
        if task.rev > self.task.rev:
            self.task, self._fresh = task, True
            self._ready.set()

    def tell(self, event: Event, size: int) -> None:
        """Tell something that may be dropped; `size` is its length in characters, about."""
        self._waiting.append((event, size))
        self._size += size
        while self._size > _MAX_WAITING:
            self._size -= self._waiting.popleft()[1]
            self._lost += 1
        self._ready.set()

    def end(self, reason: Reason) -> None:
        """Tell nothing after what waits already."""
        self._ended = self._ended or reason
        self._ready.set()

    async def next(self) -> list[Event]:
        """Wait until there is something to tell, and give it; an event `end` is the last one."""
        await self._ready.wait()
        self._ready.clear()
        events = [Event("gap", {"lost": self._lost})] if self._lost else []
        events += [event for event, _ in self._waiting]
        self._waiting.clear()
        self._size = self._lost = 0
        if self._fresh:
            self._fresh = False
            events += self._changes()
        if self._ended:
            events.append(Event("end", {"reason": self._ended}))
            self._ready.set()
        return events

    def _changes(self) -> Iterator[Event]:
        task, now_standing = self.task, _standing(self.task.run)
        for step in task.run.steps if task.run else ():
            if step.status is not StepStatus.SCHEDULED and self._told.get(step.id) != now_standing[step.id]:
                yield Event("step", _step(step))
        self._told = now_standing
        yield Event("state", _state(task), task.rev)


class Events:
    """The streams of this gateway.

    Parameters
    ----------
    most, most_each
        How many streams there may be, in all and of one user.
    """

    def __init__(self, watch: Watch, most: int, most_each: int) -> None:
        self._watch = watch
        self._most = most
        self._most_each = most_each
        self._streams: defaultdict[int, set[Stream]] = defaultdict(set)
        self._users: Counter[str] = Counter()
        self._look = asyncio.Event()
        self._now: set[int] = set()
        self._logged: dict[int, tuple[str, int, int]] = {}
        self._closed = False

    @contextlib.contextmanager
    def follow(self, task: Task, user: User, last: int | None, alive: Callable[[], bool]) -> Iterator[Stream]:
        """Follow a task that the user may see; see `Stream`.

        Raises
        ------
        TooMany
            When this user follows too many already.
        Unavailable
            When all together do.
        """
        if self._closed or self._users.total() >= self._most:
            raise Unavailable("Too many clients follow tasks just now; try again later, or ask for the state instead.")
        if self._users[user.name] >= self._most_each:
            detail = f"You follow {self._most_each} tasks already; end one of those streams, or ask for the state."
            raise TooMany(detail, _AGAIN_S)
        stream = Stream(task, user, last, alive)
        self._users[user.name] += 1
        self._streams[task.id].add(stream)
        STREAMS.inc()
        self._look.set()
        try:
            yield stream
        finally:
            STREAMS.dec()
            self._users -= Counter([user.name])
            self._streams[task.id].discard(stream)
            if not self._streams[task.id]:
                del self._streams[task.id]
                self._logged.pop(task.id, None)

    def hear(self, message: StepProgress) -> None:
        """Pass on how far a step is, and what it has logged."""
        if message.task_id not in self._streams:
            return
        about = {"step_id": message.step_id, "step": message.step, "attempt": message.attempt}
        progress = Event("progress", {**about, "fraction": message.fraction, "phase": message.phase})
        lost = self._lines_lost(message)
        for stream in self._streams[message.task_id]:
            stream.tell(progress, len(message.phase) + 100)
            if lost:
                stream.tell(Event("gap", {"lost": lost}), 100)
            if message.log:
                lines = list(message.log)
                stream.tell(Event("log", {**about, "lines": lines}), sum(map(len, lines)) + 100)
            if stream.task.chain_id != message.run_id:  # begun through another gateway
                self._now.add(message.task_id)
                self._look.set()

    def _lines_lost(self, message: StepProgress) -> int:
        """Count the lines that a step has logged between its last message that was heard here and this one."""
        *before, known = self._logged.get(message.task_id, ("", 0, 0))
        self._logged[message.task_id] = (message.step_id, message.attempt, message.logged)
        if before != [message.step_id, message.attempt]:
            return 0
        return max(message.logged - len(message.log) - known, 0)

    async def changed(self, _: Task, new: Task) -> None:
        """Tell what was written from here."""
        for stream in self._streams.get(new.id, ()):
            stream.tell_state(new)

    def close(self) -> None:
        """End all streams, and let none begin."""
        self._closed = True
        for stream in self._all():
            stream.end("shutdown")

    async def run(self) -> None:
        """Look for what others have written, for ever."""
        turn = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if self._streams else None):
                    await self._look.wait()
            self._look.clear()
            for stream in self._all():
                if not stream.alive():
                    stream.end("gone")
            turn += 1
            try:
                await self._look_at(self._due(all_of_them=turn % _SELDOM == 0))
            except StoreAway:
                log.info("store away, streams wait")
            except Exception:
                log.exception("tasks that are followed cannot be read")
            await asyncio.sleep(_SPACING_S)

    def _all(self) -> list[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]

    def _due(self, *, all_of_them: bool) -> list[int]:
        asked, self._now = self._now, set()
        all_of_them = all_of_them or len(self._streams) <= _MANY
        return [
            task_id
            for task_id, streams in self._streams.items()
            if all_of_them or task_id in asked or any(stream.task.running for stream in streams)
        ]

    async def _look_at(self, task_ids: list[int]) -> None:
        if not task_ids:
            return
        seen = await self._watch.revisions(task_ids)
        changed = []
        for task_id in task_ids:
            for stream in self._streams.get(task_id, ()):
                task = seen.get(task_id)
                if task is None:
                    stream.end("deleted")
                elif not access.may_view(stream.user, task):
                    stream.end("forbidden")
                elif task.rev > stream.task.rev:
                    changed.append(task_id)
        for task_id, task in (await self._watch.tasks(set(changed))).items() if changed else ():
            for stream in self._streams.get(task_id, ()):
                stream.tell_state(task)


def _standing(run: Run | None) -> dict[str, tuple[StepStatus, int]]:
    steps: Iterable[RunStep] = run.steps if run else ()
    return {step.id: (step.status, step.attempt) for step in steps}


def _step(step: RunStep) -> dict[str, Any]:
    return {
        "step_id": step.id,
        "step": step.name,
        "state": step.status,
        "attempt": step.attempt,
        "started": step.started,
        "ended": step.ended,
    }


def _state(task: Task) -> dict[str, Any]:
    run = task.run
    step = run.current if run else None
    return {
        "id": task.id,
        "state": task.state,
        "celery_id": task.chain_id,
        "step": step.name if step else None,
        "error": task.error,
        "completed": task.completed,
        "run": run and {"id": run.id, "state": run.status, "steps": [_step(each) for each in run.steps]},
    }
