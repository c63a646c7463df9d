"""A sane HTTP client: it asks the next gateway when one does not answer, with the same Idempotency-Key.

So does who follows a task by server-sent events: it resumes at the next gateway, from the last number that it has seen.
"""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import httpx

from .ledger import Ledger

_TIMEOUT: Final = httpx.Timeout(8.0, connect=2.0)
_PATIENCE_S: Final = 90.0
_AT_MOST_S: Final = 900.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
_AGAIN: Final = {429, 502, 503, 504}
_PASSING: Final = "again in a moment"  # of a 409: the same request, or another change of the image, is at work


_SILENT: Final = httpx.Timeout(8.0, connect=2.0)  # four times the period of comments


class GaveUp(Exception):
    """No answer in all the time; the request may or may not have had its effect."""


class Wrong(Exception):
    """An answer that should never come."""


def expect(answer: httpx.Response, *statuses: int) -> httpx.Response:
    """Take an answer of these statuses, and no other."""
    if answer.status_code not in statuses:
        raise Wrong(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    return answer


class Caller:
    """One client program.

    Parameters
    ----------
    urls
        Of the gateways.
    token
        Of the user.
    ledger
        Where what is asked and promised is written.
    first
        Which gateway to ask first.
    clock
        By it the client's patience ends, seconds.
    """

    def __init__(
        self, urls: list[str], token: str, ledger: Ledger, first: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        headers = {"Authorization": f"Token {token}"}
        self._clients = [
            httpx.AsyncClient(base_url=f"{url}/api", headers=headers, timeout=_TIMEOUT, trust_env=False) for url in urls
        ]
        self._now = first % len(urls)
        self._ledger = ledger

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    async def read(self, path: str) -> httpx.Response:
        """Ask for something."""
        return await self._persist("GET", path, lambda _: None, {})

    async def secret(self) -> str:
        """Make the secret that callbacks are signed with."""
        answer = await self._persist("POST", "/callbacks/secret/", lambda _: None, {})
        return str(expect(answer, 200).json()["secret"])

    async def follow(self, path: str, late: Callable[[], bool]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Follow a task, over the deaths of gateways, until it is late; gives events with their data.

        Numbers of changes of state must grow, whoever tells them.
        """
        last = -1
        while not late():
            headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
            try:
                async with self._clients[self._now].stream("GET", path, headers=headers, timeout=_SILENT) as answer:
                    if answer.status_code not in _AGAIN:
                        if answer.status_code != 200:
                            await answer.aread()
                            expect(answer, 200)
                        async with aclosing(_events(answer)) as events:
                            async for number, name, data in events:
                                if late():
                                    break
                                if number is not None and number <= last:
                                    raise Wrong(f"{path}: event {number} after {last}")
                                last = last if number is None else number
                                yield name, data
            except httpx.TransportError:
                pass
            self._next()
            await asyncio.sleep(_FIRST_PAUSE_S)
        raise GaveUp(f"{path}: followed for too long")

    async def change(
        self,
        op: str,
        method: str,
        path: str,
        *,
        facts: dict[str, Any] | None = None,
        keyed: bool = False,
        patience_s: float = _PATIENCE_S,
        **body: Any,
    ) -> httpx.Response:
        """Ask for a change, and write down what became of it.

        Parameters
        ----------
        facts
            What the ledger is to know of it.
        keyed
            Whether an Idempotency-Key goes with it; without one the request must be one that may be sent twice, or
            whose lines `perhaps`, one for each try without an answer, are looked at.
        """
        key = uuid.uuid4().hex
        facts = {"key": key, **(facts or {})}
        if keyed:
            body["headers"] = {"Idempotency-Key": key}
        self._ledger.note("asked", op, **facts)
        began = time.monotonic()
        stall: list[float] = []

        def trying(problem: str | None) -> None:
            if problem is None:
                stall.append(time.monotonic())
            else:
                self._ledger.note("perhaps", op, why=problem, **facts)

        try:
            answer = await self._persist(method, path, trying, body, patience_s)
        except GaveUp as error:
            self._ledger.note("unknown", op, why=str(error), **facts)
            raise
        took_s = time.monotonic() - began
        lost_s = stall[-1] - began if len(stall) > 1 else 0.0
        what = "accepted" if answer.is_success else "refused"
        told = {
            "status": answer.status_code,
            "tries": len(stall),
            "took_s": round(took_s, 3),
            "lost_s": round(lost_s, 3),
        }
        if what == "refused":
            told["answer"] = answer.text[:300]
        self._ledger.note(what, op, **facts, **told, **_promised(answer))
        return answer

    async def _persist(
        self,
        method: str,
        path: str,
        trying: Callable[[str | None], None],
        body: dict[str, Any],
        patience_s: float = _PATIENCE_S,
    ) -> httpx.Response:
        """Ask until there is an answer.

        Parameters
        ----------
        trying
            Called before each try, and with the problem after one that had no answer.
        """
        deadline, at_most = self._clock() + patience_s, time.monotonic() + _AT_MOST_S
        pause_s = _FIRST_PAUSE_S
        for tries in itertools.count(1):
            trying(None)
            try:
                answer = await self._clients[self._now].request(method, path, **body)
            except httpx.TransportError as error:
                why = repr(error)
                if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):  # nothing was sent then
                    trying(why)
                self._next()
            else:
                passing = answer.status_code == 409 and _PASSING in answer.text
                if answer.status_code not in _AGAIN and not passing:
                    return answer
                why = f"{answer.status_code} {answer.text[:200]}"
                if not passing:
                    self._next()
            if self._clock() > deadline or time.monotonic() > at_most:
                raise GaveUp(f"{method} {path}: {tries} tries, the last: {why}")
            # the next gateway is asked at once, and only who has asked all of them waits
            if tries % len(self._clients) == 0:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError

    def _next(self) -> None:
        self._now = (self._now + 1) % len(self._clients)


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[int | None, str, dict[str, Any]]]:
    """Read server-sent events: number, name and data of each; a comment is one without a name."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            number = int(fields["id"]) if "id" in fields else None
            yield number, fields.get("event", ""), json.loads(fields.get("data", "{}"))
            fields = {}


def _promised(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success or not answer.content or "json" not in answer.headers.get("content-type", ""):
        return {}
    told = answer.json()
    names = ("id", "celery_id", "state", "revoked_count", "size", "path")
    return {f"got_{name}": told[name] for name in names if isinstance(told, dict) and name in told}
