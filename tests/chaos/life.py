"""What one client does with one task: runs, looks, edits, and the end."""

import asyncio
import hashlib
import random
import struct
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from .called import Called
from .caller import Caller, GaveUp, Wrong, expect
from .ledger import Ledger
from .pictures import Picture

_POLL_S: Final = 0.25
_RUN_S: Final = 150.0  # on the clock of the load, which stands still while the stack is being tormented
_RUN_AT_MOST_S: Final = 900.0
_EDIT_S: Final = 300.0  # the image is closed for so long to others when the gateway that edits it dies
_CHEAP: Final = (
    ("inspect",),
    ("inspect",),
    ("cleanup", "inspect"),
    ("inspect", "cleanup"),
    ("cleanup",),
    ("inspect", "cleanup", "inspect", "cleanup", "inspect"),
)
_DEAR: Final = (("inspect", "photometry"), ("photometry",))
_DEAREST: Final = (("inspect", "photometry", "subtraction"), ("photometry", "subtraction"))
_LOOKS: Final = {
    "inspect_done": ("inspect.log", "mask.fits"),
    "photometry_done": ("photometry.log", "objects.vot"),
    "subtraction_done": ("subtraction.log", "sub_diff.fits"),
}
_GAIN: Final = 1.8  # e-/ADU, of the images: a subtraction with a wrong one finds no star that fits
_WIDTHS_PIX: Final = (16, 64, 300)


@dataclass
class Notes:
    """What all clients share."""

    ledger: Ledger
    called: Called | None = None
    keep: bool = True
    stopping: bool = False
    ended: list[tuple[float, float]] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic


class Life:
    """One task of one client."""

    def __init__(self, notes: Notes, caller: Caller, dice: random.Random, picture: Picture) -> None:
        self._notes = notes
        self._caller = caller
        self._dice = dice
        self._picture = picture
        self._task = 0
        self._edits = 0
        self._template = False
        self._edited = False

    async def live(self) -> None:
        """Make the task, and do one thing after another with it."""
        picture, dice = self._picture, self._dice
        content = await asyncio.to_thread(picture.path.read_bytes)
        await self._make(content)
        for _ in range(dice.randint(1, 3)):
            if dice.random() < 0.3:
                await self._set_config({"gain": round(_GAIN + 0.01 * self._edits, 2)})
            if picture.good and dice.random() < 0.25:
                await self._edit()
            if dice.random() < 0.4:
                await self._see()
            if not await self._run():
                return  # its end was not seen: no more is asked of this task
            if self._notes.stopping:
                break
        fate = dice.random()
        if fate < 0.1 or not self._notes.keep:
            await self._delete()
        elif fate < 0.2:
            await self._duplicate()
        elif fate < 0.3:
            await self._upload("image.fits", content, op="image")

    async def _make(self, content: bytes) -> None:
        picture = self._picture
        title = f"{picture.name} as it came"
        answer = await self._caller.change(
            "create",
            "POST",
            "/tasks/",
            keyed=True,
            facts={"picture": picture.name, "title": title, "sha256": _digest(content), "size": picture.size_pix},
            data={"title": title, "config": '{"filter": "R", "cat_name": "ps1"}'},
            files={"file": (picture.path.name, content, "application/fits")},
        )
        self._task = expect(answer, 201).json()["id"]
        if picture.template is not None and self._dice.random() < 0.6:
            await self._upload("custom_template.fits", picture.template.read_bytes())
            await self._set_config({"template": "custom", "custom_template_gain": picture.template_gain})
            self._template = True

    # ---- a run

    def _steps(self) -> tuple[str, ...]:
        if not self._picture.dear or self._dice.random() < 0.6:
            return self._dice.choice(_CHEAP)
        return self._dice.choice(_DEAREST if self._template else _DEAR)

    async def _run(self) -> bool:
        dice = self._dice
        steps = self._steps()
        self._edits += 1
        config = {"bg_size": 8 + self._edits} if dice.random() < 0.3 else {}
        called = self._notes.called if dice.random() < 0.3 else None
        facts = {"task": self._task, "steps": list(steps), "good": self._picture.good, "config": config}
        body: dict[str, Any] = {"steps": list(steps), "config": config}
        if called is not None:
            body["callback_url"] = called.url
            facts["callback"] = True
        began, late = time.monotonic(), self._lateness()
        answer = await self._caller.change(
            "process", "POST", f"/tasks/{self._task}/process/", keyed=True, facts=facts, json=body
        )
        run_id = expect(answer, 200).json()["celery_id"]
        meddling = asyncio.create_task(self._meddle(run_id))
        try:
            watch = self._follow if dice.random() < 0.4 else self._poll
            state = await watch(run_id, late)
        finally:
            await meddling
        if state is None:
            return False
        self._notes.ended.append((began, time.monotonic()))
        names = _LOOKS.get(state, ())
        for name in names[: dice.randint(0, len(names))]:
            answer = expect(await self._caller.read(f"/tasks/{self._task}/files/{name}"), 200)
            if not answer.content:
                raise Wrong(f"{name} of task {self._task} is empty")
        return True

    async def _meddle(self, run_id: str) -> None:
        """Edit what may be edited during a run, and cancel some."""
        dice = self._dice
        choice, delay_s, text = dice.random(), dice.uniform(0, 1.5), f"notes {dice.random()}"
        await asyncio.sleep(delay_s)
        try:
            if choice < 0.15:
                await self._set_title(text)
            elif choice < 0.3:
                await self._upload("notes.txt", text.encode())
            elif choice < 0.35:
                await self._drop("notes.txt")
            elif choice < 0.5:
                facts = {"task": self._task, "run": run_id}
                path = f"/queue/{run_id}/terminate/"
                expect(await self._caller.change("cancel", "POST", path, facts=facts), 200, 400)
            elif choice < 0.55:
                expect(await self._caller.read("/queue/"), 200)
        except GaveUp as error:
            self._notes.ledger.note("trouble", "gave up", why=str(error))

    def _lateness(self) -> Callable[[], bool]:
        """Give what tells whether a run that begins now should have ended."""
        began, clock = time.monotonic(), self._notes.clock()
        return lambda: self._notes.clock() - clock > _RUN_S or time.monotonic() - began > _RUN_AT_MOST_S

    async def _poll(self, run_id: str, late: Callable[[], bool]) -> str | None:
        """Ask for the state until the run has ended."""
        while True:
            seen = expect(await self._caller.read(f"/tasks/{self._task}/state/"), 200).json()
            if "running" not in seen["state"]:
                return self._saw(run_id, seen["state"], "asked")
            if seen["celery_id"] != run_id:
                raise Wrong(f"task {self._task} runs {seen['celery_id']} instead of {run_id}")
            if late():
                self._notes.ledger.note("trouble", "late", task=self._task, run=run_id)
                return None
            await asyncio.sleep(_POLL_S)

    async def _follow(self, run_id: str, late: Callable[[], bool]) -> str | None:
        """Be told of the end of the run."""
        ended: set[str] = set()
        try:
            async with aclosing(self._caller.follow(f"/tasks/{self._task}/events/", late)) as events:
                async for name, data in events:
                    if name == "end" and data["reason"] in {"deleted", "forbidden"}:
                        raise Wrong(f"events of task {self._task}: {data}")
                    if name != "state":
                        continue
                    run = data["run"]
                    if run is None or run["id"] != run_id:
                        raise Wrong(f"events of task {self._task}: run {run and run['id']} instead of {run_id}")
                    now_ended = {step["step_id"] for step in run["steps"] if step["ended"]}
                    if ended - now_ended:
                        raise Wrong(f"events of task {self._task}: {sorted(ended - now_ended)} had ended")
                    ended = now_ended
                    if "running" not in data["state"]:
                        return self._saw(run_id, data["state"], "told")
        except GaveUp:
            self._notes.ledger.note("trouble", "late", task=self._task, run=run_id)
        return None

    def _saw(self, run_id: str, state: str, how: str) -> str:
        self._notes.ledger.note("seen", "end", task=self._task, run=run_id, state=state, how=how)
        return state

    # ---- looking

    async def _see(self) -> None:
        """Look at a picture of the image: it must be a whole one of the width that was asked for."""
        width = self._dice.choice(_WIDTHS_PIX)
        path = f"/tasks/{self._task}/preview/image.fits?width={width}&format=png"
        picture = expect(await self._caller.read(path), 200).content
        drawn = struct.unpack(">I", picture[16:20])[0] if len(picture) > 20 else 0
        if not picture.startswith(b"\x89PNG") or not picture.endswith(b"IEND\xaeB`\x82") or drawn != width:
            raise Wrong(f"{path}: {len(picture)} bytes, {drawn} pixels wide")
        if not self._edited:
            source = f"{self._picture.name} at {width}"
            self._notes.ledger.note("seen", "picture", task=self._task, source=source, sha256=_digest(picture))

    # ---- edits

    async def _edit(self) -> None:
        """Change the image itself. Nothing protects such a request that is repeated: only one without an answer is not
        counted.
        """
        self._edited = True
        op, json = self._dice.choice((("crop", {"x1": 1}), ("destripe", {"direction": "horizontal"}), ("fix", {})))
        path = f"/tasks/{self._task}/{op}/"
        facts = {"task": self._task}
        expect(await self._caller.change(op, "POST", path, facts=facts, patience_s=_EDIT_S, json=json), 200)

    async def _set_config(self, config: dict[str, Any]) -> None:
        self._edits += 1
        facts = {"task": self._task, "config": config}
        path = f"/tasks/{self._task}/"
        expect(await self._caller.change("config", "PATCH", path, facts=facts, json={"config": config}), 200)

    async def _set_title(self, title: str) -> None:
        facts = {"task": self._task, "title": title}
        path = f"/tasks/{self._task}/"
        expect(await self._caller.change("title", "PATCH", path, facts=facts, json={"title": title}), 200)

    async def _upload(self, name: str, content: bytes, op: str = "upload") -> None:
        facts = {"task": self._task, "name": name, "sha256": _digest(content), "size": len(content)}
        path = f"/tasks/{self._task}/files/{name}"
        expect(await self._caller.change(op, "POST", path, facts=facts, files={"file": (name, content)}), 201)

    async def _drop(self, name: str) -> None:
        facts = {"task": self._task, "name": name}
        path = f"/tasks/{self._task}/files/{name}"
        expect(await self._caller.change("drop", "DELETE", path, facts=facts), 204, 404)

    async def _delete(self) -> None:
        path = f"/tasks/{self._task}/"
        expect(await self._caller.change("delete", "DELETE", path, facts={"task": self._task}), 204, 404)

    async def _duplicate(self) -> None:
        facts = {"source": self._task, "picture": self._picture.name}
        path = f"/tasks/{self._task}/duplicate/"
        expect(await self._caller.change("duplicate", "POST", path, keyed=True, facts=facts), 201)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
