"""The reconciler: brings on what a death has left lying. Every gateway runs one; they do not harm each other."""

import asyncio
import itertools
import time
from collections import Counter
from typing import Final

import structlog

from shared.broker import BrokerUnavailable
from shared.contracts.states import StepStatus
from shared.contracts.steps import STEPS
from shared.settings import GatewaySettings
from shared.taskdir import TasksRoot

from .domain import orphans
from .domain.coordinator import Coordinator
from .domain.images import Images
from .gauges import Backlog, show_volume
from .model import RunStep, Task, now
from .storage import StoreAway, Tasks

_UNKNOWN_S: Final = 10.0  # a step that another gateway should have published is published from here after that time
_TRASH_S: Final = 60.0  # until then a worker may still stand in a folder that was set aside
_INCOMING_S: Final = 3600.0  # a client may pause that long in an upload
_HOUSEKEEPING_S: Final = 60.0
_WAITING_EVERY: Final = 3  # rounds; steps that wait are many, and looking at them hardly ever brings one on

log = structlog.get_logger()


class Reconciler:
    """Looks at all active runs every few seconds, and less often at those that fair share holds back."""

    def __init__(
        self, settings: GatewaySettings, tasks: Tasks, root: TasksRoot, coordinator: Coordinator, images: Images
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._root = root
        self._coordinator = coordinator
        self._images = images
        self._backlog = Backlog(coordinator.signs)
        self._swept = 0.0
        self._connected = False
        self._ready: Counter[str] = Counter()
        self._depths: dict[str, int] = {}

    async def run(self) -> None:
        """Go on for ever; a store that is away is waited for."""
        for rounds in itertools.count():
            try:
                await self.once(waiting=rounds % _WAITING_EVERY == 0)
            except StoreAway:
                log.warning("store away")
                self._backlog.hide()
            except Exception:
                log.exception("reconciler failed")
            due = time.monotonic() + self._settings.reconcile_every_s
            await asyncio.sleep(self._settings.reconcile_every_s)
            if time.monotonic() - due > self._settings.heartbeat_s:
                # this process stood still: what arrived meanwhile has not been read yet
                self._coordinator.signs.all_alive()

    async def once(self, *, waiting: bool = True) -> None:
        """Bring everything on that needs it.

        Parameters
        ----------
        waiting
            Whether to look also at steps that fair share holds back.
        """
        connected = self._coordinator.broker.connected
        if not connected or not self._connected:
            # signs of life could not arrive: nobody may be judged by their absence
            self._coordinator.signs.all_alive()
        self._connected = connected
        at = time.monotonic()  # judged by the beginning, for this process may stand still at any point
        active = await self._tasks.active(waiting=waiting)
        self._coordinator.signs.keep_only({step.id for task in active if task.run for step in task.run.steps})
        self._backlog.show(active, now(), held=waiting)
        self._ready, self._depths = _count_ready(active), {}
        for task in active:
            await self._bring_on(task, at)
        if waiting:
            for user, step in self._coordinator.shares.refill(active, at):
                await self._coordinator.release(user, step)
            await self._coordinator.callbacks.mend({task.run.id for task in active if task.run})
        await self._images.mend(now())
        if time.monotonic() - self._swept > _HOUSEKEEPING_S:
            self._swept = time.monotonic()
            await asyncio.to_thread(show_volume, self._root.path, self._settings.reserve_bytes)
            await self.sweep()

    async def _bring_on(self, task: Task, at: float) -> None:
        try:
            await self._look_at(task, at)
        except StoreAway:
            raise
        except BrokerUnavailable:
            log.warning("broker away", task=task.id)
        except Exception:
            # the others must not wait for what cannot be mended
            log.exception("task cannot be brought on", task=task.id)

    async def _look_at(self, task: Task, at: float) -> None:
        run = task.run
        step = run.current if run else None
        if run is None or step is None:
            return
        if run.status == "cancelling":
            age_s = (now() - run.at).total_seconds()
            if age_s > self._settings.reconcile_every_s:
                await self._finish_cancel(task)
            return
        if step.status is StepStatus.WAITING or not self._coordinator.broker.connected:
            return
        sign = self._coordinator.signs.of(step.id, step.attempt)
        started = step.status is StepStatus.STARTED or sign.working
        if started and at - sign.heard > self._settings.silent_after_s:
            if not await self._take_in(task, step):
                await self._coordinator.retry(task, step)
        elif not started and self._due(sign.owed, sign.published, sign.heard, at):
            if sign.published is not None and not sign.owed and await self._still_queued(step):
                sign.published = at
            elif not await self._take_in(task, step):
                await self._publish(task)

    def _due(self, owed: bool, published: float | None, seen: float, at: float) -> bool:
        if owed:
            return True
        if published is None:
            return at - seen > _UNKNOWN_S
        return at - published > self._settings.republish_after_s

    async def _still_queued(self, step: RunStep) -> bool:
        """Tell whether a queue is as long as the steps for it are many: then no message of them was lost.

        Publishing again would only make it longer, without end where no service takes them.
        """
        if step.name not in self._depths:
            depth = await self._coordinator.broker.depth(STEPS[step.name].queue)
            self._depths[step.name] = depth.messages
        return self._depths[step.name] >= self._ready[step.name]

    async def _take_in(self, task: Task, step: RunStep) -> bool:
        """Look for a commit whose report was lost."""
        manifest = await self._coordinator.fences.committed(task.id, step)
        if manifest is None or task.run is None:
            return False
        log.warning("report was lost", task=task.id, step=step.name)
        await self._coordinator.take_in(task.id, task.run.id, step, manifest)
        return True

    async def _publish(self, task: Task) -> None:
        whole = await self._tasks.get(task.id)  # with its config, and as it is now
        if whole is None or whole.rev != task.rev:
            return
        log.info("step published again", task=task.id)
        await self._coordinator.publish_again(whole)

    async def _finish_cancel(self, task: Task) -> None:
        whole = await self._tasks.get(task.id)
        if whole is None or whole.rev != task.rev:
            return
        await self._coordinator.cancelling.resume(whole)

    async def sweep(self, incoming_s: float = _INCOMING_S) -> None:
        """Delete what was set aside, unfinished uploads, and folders of tasks that never came to be.

        Parameters
        ----------
        incoming_s
            Age from which uploads and folders count as left behind, seconds.
        """
        await asyncio.to_thread(self._root.sweep, _TRASH_S, time.time(), incoming_s)
        old = await asyncio.to_thread(orphans.suspects, self._root, time.time() - incoming_s)
        for task_id in set(old) - await self._tasks.existing(old) if old else set():
            log.warning("folder without a task", task=task_id)
            await asyncio.to_thread(self._root.task(task_id).set_aside)


def _count_ready(active: list[Task]) -> Counter[str]:
    steps = [task.run.current for task in active if task.run]
    return Counter(step.name for step in steps if step is not None and step.status is StepStatus.READY)
