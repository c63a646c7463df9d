"""Telling the address that a request to run has named that its run has ended: at least once, for about a day."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import secrets
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from ..model import Run, Task, now
from ..storage import CallbackStore, StoreAway, Tasks
from ..storage.callbacks import Claimed, Due, Status, Waiting
from . import runs
from .addresses import Network, check_url
from .errors import Invalid

FIELD: Final = "callback_url"
_STARTING: Final = timedelta(seconds=60)  # a run that is not there after that time has not begun
_LONGEST_S: Final = 3600.0
_LEASE: Final = timedelta(seconds=60)  # longer than any attempt takes: then its gateway has died
_MOST_DUE: Final = 1000  # read at once
_CROWD: Final = 50

log = structlog.get_logger()


class Callbacks:
    """What is owed to whom.

    Parameters
    ----------
    also
        Networks that may be called though they are not public.
    first_delay, keep_trying
        After an attempt that failed; and for how long.

    Attributes
    ----------
    woken
        Set when there is something new to send.
    """

    def __init__(
        self,
        store: CallbackStore,
        tasks: Tasks,
        also: Collection[Network] = (),
        first_delay: timedelta = timedelta(seconds=10),
        keep_trying: timedelta = timedelta(days=1),
    ) -> None:
        self._store = store
        self._tasks = tasks
        self.also = also
        self._first_delay = first_delay
        self._keep_trying = keep_trying
        self.woken = asyncio.Event()

    # ---- asking for one

    async def new_secret(self, user: str) -> str:
        """Make the secret that signs a user's callbacks from now on; shown now and never again."""
        secret = secrets.token_urlsafe(32)
        await self._store.set_secret(user, secret, now())
        return secret

    async def check(self, user: str, url: str) -> None:
        """Check an address that a user wants to be called.

        Raises
        ------
        Invalid
            Saying what is wrong with it, or that there is no secret to sign with.
        """
        check_url(url, FIELD, self.also)
        if await self._store.secret(user) is None:
            raise Invalid.field(FIELD, "needs a secret to sign with; make yours by POST /api/callbacks/secret/")

    async def expect(self, task: Task, run: Run, url: str) -> None:
        """Note, before a run begins, that its end is to be told."""
        await self._store.add(Waiting(run.id, task.id, run.at), run.user, url)

    async def forget(self, run_id: str) -> None:
        """Drop the note for a run that did not begin after all; what is left by a death goes with `mend`."""
        with contextlib.suppress(StoreAway):
            await self._store.drop(run_id)

    # ---- the end of a run

    async def changed(self, old: Task, new: Task) -> None:
        """Look whether a change has ended a run whose end is to be told."""
        if not old.running or new.running or new.run is None or old.run is None or new.run.id != old.run.id:
            return
        if new.run.callback is not None:
            try:
                await self._wake(new.id, new.run)
            except StoreAway:
                log.warning("callback not noted, done later", task=new.id)

    async def mend(self, active: Collection[str]) -> None:
        """Find runs that have ended while nobody could note it.

        Parameters
        ----------
        active
            Ids of the runs that have not ended, as of just now.
        """
        for waiting in await self._store.waiting():
            if waiting.run_id in active:
                continue
            found = await self._tasks.find_run(waiting.task_id, waiting.run_id)
            if found is not None and not found[1].active:
                log.info("callback found", task=waiting.task_id, run=waiting.run_id)
                await self._wake(waiting.task_id, found[1])
            elif found is None and now() - waiting.created > _STARTING:
                await self._store.drop(waiting.run_id)

    async def _wake(self, task_id: int, run: Run) -> None:
        if await self._store.wake(run.id, json.dumps(body(task_id, run)), now()):
            self.woken.set()

    # ---- sending

    async def due(self) -> list[Due]:
        """List what is to be sent now, the first first; of users with very many only some, for others wait, too."""
        found = await self._store.due(now(), _MOST_DUE)
        if len(found) < _MOST_DUE:
            return found
        counts = Counter(item.user for item in found)
        crowd = [user for user, count in counts.items() if count > _CROWD]
        return found + [item for item in await self._store.due(now(), _MOST_DUE, crowd) if counts[item.user] == 0]

    async def claim(self, item: Due) -> tuple[Claimed, str] | None:
        """Take a callback to send it, and the secret to sign it with; None when another does."""
        claimed = await self._store.claim(item, now() + _LEASE)
        if claimed is None:
            return None
        secret = await self._store.secret(claimed.user)
        if secret is None:
            await self._store.finish(claimed.run_id, "given_up", "there is no secret to sign with", now())
            return None
        return claimed, secret

    async def sent(self, claimed: Claimed, status: int | None, problem: str | None) -> None:
        """Note what came of an attempt.

        Parameters
        ----------
        status
            Of the answer; None when there was none.
        problem
            What was wrong then.
        """
        at = now()
        if status is not None and 200 <= status < 300:  # noqa: PLR2004
            await self._store.finish(claimed.run_id, "delivered", None, at)
            return
        problem = problem or f"the answer was {status}"
        delay = self._delay(claimed.attempts)
        if status == 410 or at + delay - claimed.since > self._keep_trying:  # noqa: PLR2004
            log.warning("callback given up", task=claimed.task_id, run=claimed.run_id, problem=problem)
            await self._store.finish(claimed.run_id, "given_up", problem, at)
        else:
            await self._store.postpone(claimed, at + delay, problem, at)

    def _delay(self, attempts: int) -> timedelta:
        longest_s = min(self._first_delay.total_seconds() * 2 ** min(attempts - 1, 30), _LONGEST_S)
        return timedelta(seconds=longest_s * random.uniform(0.8, 1.2))  # noqa: S311  # spreads what has failed together

    async def statuses(self, of: Collection[Run]) -> dict[str, Status]:
        """Tell what became of the callbacks of runs."""
        asked = [run.id for run in of if run.callback is not None]
        return await self._store.statuses(asked) if asked else {}


def event_id(run_id: str) -> str:
    """Name the event, the same each time it is sent."""
    return f"{run_id}-ended"


def body(task_id: int, run: Run) -> dict[str, Any]:
    """Write what is told of a run that has ended."""
    return {
        "event_id": event_id(run.id),
        "task_id": task_id,
        "run_id": run.id,
        "state": runs.end_state(run),
        "error": run.error,
        "created": _iso(run.at),
        "ended": _iso(run.ended),
    }


def sign(secret: str, timestamp: int, content: bytes) -> str:
    """Sign a body, and the time at which it is sent, seconds since the epoch."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + content, hashlib.sha256).hexdigest()


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
