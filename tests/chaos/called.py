"""The address that the gateways call when a run has ended; like any server it fails now and then."""

import hashlib
import hmac
import random
from typing import Any, Final

from aiohttp import web

from .ledger import Ledger

_FAILS: Final = 0.2


class Called:
    """A server on a port of its own; each call goes into the ledger, and some are answered by an error.

    Parameters
    ----------
    ledger
        Gets a line for each call: `called`, and whether it was answered 2xx.
    dice
        Which calls fail.
    """

    def __init__(self, ledger: Ledger, dice: random.Random) -> None:
        self.secret = ""
        self.port = 0
        self._ledger = ledger
        self._dice = dice
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.5)

    @property
    def url(self) -> str:
        """What to ask for."""
        return f"http://127.0.0.1:{self.port}/ended"

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        content = await request.read()
        fails = self._dice.random() < _FAILS
        told: dict[str, Any] = await request.json()
        self._ledger.note(
            "called",
            "callback",
            ok=not fails,
            signed=self._signed(request, content),
            sha256=hashlib.sha256(content).hexdigest(),
            **{f"got_{name}": value for name, value in told.items()},
        )
        return web.Response(status=500 if fails else 204)

    def _signed(self, request: web.BaseRequest, content: bytes) -> bool:
        """Tell whether the signature is that of our secret; by the documentation, not by our own code."""
        told = f"{request.headers['X-STDWeb-Timestamp']}.".encode() + content
        right = hmac.new(self.secret.encode(), told, hashlib.sha256).hexdigest()
        return hmac.compare_digest(request.headers["X-STDWeb-Signature"], f"sha256={right}")
