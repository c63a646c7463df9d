"""A steady load of chains, and all that users do around them."""

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from .caller import Caller, GaveUp
from .ledger import Ledger

_POLL_S: Final = 0.25
_RUN_S: Final = 150.0
_CHEAP: Final = (
    ("inspect",),
    ("inspect",),
    ("cleanup", "inspect"),
    ("inspect", "cleanup"),
    ("cleanup",),
    ("inspect", "cleanup", "inspect", "cleanup", "inspect"),
)
_DEAR: Final = (("inspect", "photometry"), ("photometry",))


@dataclass(frozen=True)
class Picture:
    """An image that the load uploads.

    Parameters
    ----------
    good
        Whether its steps can succeed.
    """

    name: str
    path: Path
    good: bool = True
    dear: bool = False


class Load:
    """Several clients, each with one task after another.

    Parameters
    ----------
    urls
        Of the gateways.
    tokens
        One client for each.
    pictures
        What they upload.
    """

    def __init__(self, urls: list[str], tokens: list[str], pictures: list[Picture], ledger: Ledger, seed: str) -> None:
        self._pictures = pictures
        self._ledger = ledger
        self._stopping = False
        self._callers = [Caller(urls, token, ledger, number) for number, token in enumerate(tokens)]
        self._random = [random.Random(f"{seed}/client-{number}") for number in range(len(tokens))]
        self._clients: list[asyncio.Task[None]] = []
        self.ended: list[tuple[float, float]] = []
        """When runs were accepted, and when their client saw their end; on the monotonic clock."""

    def start(self) -> None:
        """Begin."""
        self._clients = [
            asyncio.create_task(self._client(caller, dice))
            for caller, dice in zip(self._callers, self._random, strict=True)
        ]

    async def stop(self) -> None:
        """Let every client end what it has begun."""
        self._stopping = True
        await asyncio.gather(*self._clients)
        for caller in self._callers:
            await caller.close()

    async def _client(self, caller: Caller, dice: random.Random) -> None:
        while not self._stopping:
            picture = dice.choice(self._pictures)
            try:
                await _Life(self, caller, dice, picture).live()
            except GaveUp as error:
                self._ledger.note("trouble", "gave up", why=str(error))
                await asyncio.sleep(1)
            except _Wrong as error:
                self._ledger.note("violation", "answer", why=str(error))

    def note(self, *arguments: Any, **facts: Any) -> None:
        self._ledger.note(*arguments, **facts)

    @property
    def stopping(self) -> bool:
        return self._stopping


class _Wrong(Exception):
    """An answer that should never come."""


def _expect(answer: httpx.Response, *statuses: int) -> httpx.Response:
    if answer.status_code not in statuses:
        raise _Wrong(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    return answer


class _Life:
    """What one client does with one task."""

    def __init__(self, load: Load, caller: Caller, dice: random.Random, picture: Picture) -> None:
        self._load = load
        self._caller = caller
        self._dice = dice
        self._picture = picture
        self._task = 0
        self._edits = 0

    async def live(self) -> None:
        picture, dice = self._picture, self._dice
        answer = await self._caller.change(
            "create",
            "POST",
            "/tasks/",
            keyed=True,
            facts={"picture": picture.name, "title": f"{picture.name} as it came"},
            data={"title": f"{picture.name} as it came", "config": '{"filter": "R", "cat_name": "ps1"}'},
            files={"file": (picture.path.name, picture.path.read_bytes(), "application/fits")},
        )
        self._task = _expect(answer, 201).json()["id"]
        for _ in range(dice.randint(1, 3)):
            if dice.random() < 0.4:
                await self._set_config()
            if not await self._run():
                return  # its end was not seen: no more is asked of this task
            if self._load.stopping:
                break
        fate = dice.random()
        if fate < 0.1:
            await self._delete()
        elif fate < 0.2:
            await self._duplicate()
        elif fate < 0.3:
            await self._upload("image.fits", picture.path.read_bytes(), op="image")

    # ---- a run

    async def _run(self) -> bool:
        dice = self._dice
        steps = dice.choice(_DEAR if self._picture.dear and dice.random() < 0.5 else _CHEAP)
        self._edits += 1
        config = {"bg_size": 8 + self._edits} if dice.random() < 0.3 else {}
        facts = {"task": self._task, "steps": list(steps), "good": self._picture.good, "config": config}
        began = time.monotonic()
        answer = await self._caller.change(
            "process",
            "POST",
            f"/tasks/{self._task}/process/",
            keyed=True,
            facts=facts,
            json={"steps": list(steps), "config": config},
        )
        run_id = _expect(answer, 200).json()["celery_id"]
        meddling = asyncio.create_task(self._meddle(run_id))
        try:
            state = await self._await_end(run_id, began)
        finally:
            await meddling
        if state is None:
            return False
        self._load.ended.append((began, time.monotonic()))
        await self._look(state, steps)
        return True

    async def _meddle(self, run_id: str) -> None:
        """Edit what may be edited during a run, and cancel some."""
        dice = self._dice
        choice, delay_s, text = dice.random(), dice.uniform(0, 1.5), f"notes {dice.random()}"
        await asyncio.sleep(delay_s)
        try:
            if choice < 0.2:
                await self._set_title(text)
            elif choice < 0.4:
                await self._upload("notes.txt", text.encode())
            elif choice < 0.6:
                facts = {"task": self._task, "run": run_id}
                path = f"/queue/{run_id}/terminate/"
                _expect(await self._caller.change("cancel", "POST", path, facts=facts), 200, 400)
        except GaveUp as error:
            self._load.note("trouble", "gave up", why=str(error))

    async def _await_end(self, run_id: str, began: float) -> str | None:
        while True:
            seen = _expect(await self._caller.read(f"/tasks/{self._task}/state/"), 200).json()
            if "running" not in seen["state"]:
                self._load.note("seen", "end", task=self._task, run=run_id, state=seen["state"])
                return str(seen["state"])
            if seen["celery_id"] != run_id:
                raise _Wrong(f"task {self._task} runs {seen['celery_id']} instead of {run_id}")
            if time.monotonic() - began > _RUN_S:
                self._load.note("trouble", "late", task=self._task, run=run_id, after_s=_RUN_S)
                return None
            await asyncio.sleep(_POLL_S)

    async def _look(self, state: str, steps: tuple[str, ...]) -> None:
        """See whether what has been done can be had."""
        wanted = {"inspect_done": ("inspect.log", "mask.fits"), "photometry_done": ("photometry.log", "objects.vot")}
        names = wanted.get(state, ())
        for name in names[: self._dice.randint(0, len(names))]:
            answer = _expect(await self._caller.read(f"/tasks/{self._task}/files/{name}"), 200)
            if not answer.content:
                raise _Wrong(f"{name} of task {self._task} is empty")

    # ---- edits

    async def _set_config(self) -> None:
        self._edits += 1
        config = {"gain": 1.0 + self._edits}
        facts = {"task": self._task, "config": config}
        _expect(
            await self._caller.change("config", "PATCH", f"/tasks/{self._task}/", facts=facts, json={"config": config}),
            200,
        )

    async def _set_title(self, title: str) -> None:
        facts = {"task": self._task, "title": title}
        path = f"/tasks/{self._task}/"
        _expect(await self._caller.change("title", "PATCH", path, facts=facts, json={"title": title}), 200)

    async def _upload(self, name: str, content: bytes, op: str = "upload") -> None:
        digest = hashlib.sha256(content).hexdigest()
        facts = {"task": self._task, "name": name, "sha256": digest, "size": len(content)}
        path = f"/tasks/{self._task}/files/{name}"
        _expect(await self._caller.change(op, "POST", path, facts=facts, files={"file": (name, content)}), 201)

    async def _delete(self) -> None:
        path = f"/tasks/{self._task}/"
        _expect(await self._caller.change("delete", "DELETE", path, facts={"task": self._task}), 204, 404)

    async def _duplicate(self) -> None:
        facts = {"source": self._task, "picture": self._picture.name}
        path = f"/tasks/{self._task}/duplicate/"
        _expect(await self._caller.change("duplicate", "POST", path, keyed=True, facts=facts), 201)
