"""Sends callbacks: to exactly the address that was checked, and nowhere else."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from ssl import SSLContext
from typing import Final

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import Counter as Metric
from yarl import URL

from shared.metrics import REGISTRY

from .domain.addresses import Network, check_url, is_allowed, literal
from .domain.callbacks import FIELD, Callbacks, event_id, sign
from .domain.errors import Invalid
from .domain.runs import VERSION
from .storage import StoreAway
from .storage.callbacks import Due

_TOTAL_S: Final = 15.0
_CONNECT_S: Final = 5.0
_RESOLVE_S: Final = 5.0
_THREADS: Final = 4  # of our own: name servers that hang keep nothing else waiting
_MOST_ADDRESSES: Final = 4
_AT_ONCE: Final = 16
_AT_ONCE_EACH: Final = 4  # of one user, whose addresses may all hang
_SPACING_S: Final = 1.0  # between two looks at what is due while much of it waits

SENT: Final = Metric("stdweb_callbacks_total", "Attempts to call back", ["outcome"], registry=REGISTRY)
for _outcome in ("2xx", "3xx", "4xx", "5xx", "none"):
    SENT.labels(_outcome)  # shown at zero: the first one counts as a change only then

Resolve = Callable[[str, int], Awaitable[Collection[str]]]
"""Gives the addresses of a name."""

log = structlog.get_logger()


class NotSent(Exception):
    """There was no answer; the message is for the user."""


class SystemResolver:
    """Asks as the system does."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Collection[str]:
        """Give the addresses of a name, each once."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _look_up, host, port)


def _look_up(host: str, port: int) -> Collection[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Checked(AbstractResolver):
    """Gives what was resolved and checked before, so that no second answer can differ."""

    def __init__(self, addresses: Collection[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses, of any family if none is asked for."""
        found = [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]
        return [one for one in found if family in {socket.AF_UNSPEC, one["family"]}]

    async def close(self) -> None:
        """Nothing is open."""


class Sender:
    """Posts to addresses that users have named.

    Parameters
    ----------
    also
        Networks that may be called though they are not public.
    resolve
        How names are resolved.
    trust
        What to trust for https; None for what the system trusts.
    total_s
        How long an attempt may take, seconds; shorter than the claim to a callback.
    """

    def __init__(
        self,
        also: Collection[Network] = (),
        resolve: Resolve | None = None,
        trust: SSLContext | None = None,
        total_s: float = _TOTAL_S,
    ) -> None:
        self._also = also
        self._resolve = resolve or SystemResolver()
        self._trust = trust
        self._total_s = total_s

    async def post(self, url: str, content: bytes, headers: dict[str, str]) -> int:
        """Post, and give the status of the answer; its body is not read, and redirects are not followed.

        Raises
        ------
        NotSent
            When there was no answer, or it may not be asked for.
        """
        try:
            async with asyncio.timeout(self._total_s):
                return await self._post(url, content, headers)
        except TimeoutError:
            raise NotSent(f"no answer within {self._total_s:g} s") from None
        except aiohttp.ClientSSLError:
            raise NotSent("the certificate is not trusted, or the connection could not be encrypted") from None
        except aiohttp.ClientConnectorError:
            raise NotSent("could not connect") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise NotSent("the answer was cut off, or was no HTTP") from None

    async def _post(self, url: str, content: bytes, headers: dict[str, str]) -> int:
        target = URL(url, encoded=True)
        connector = aiohttp.TCPConnector(
            resolver=_Checked(await self._addresses(url, target)),
            use_dns_cache=False,
            force_close=True,
            ssl=self._trust or True,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._total_s, sock_connect=_CONNECT_S),
                trust_env=False,
                auto_decompress=False,
            ) as session,
            session.post(target, data=content, headers=headers, allow_redirects=False) as response,
        ):
            return response.status

    async def _addresses(self, url: str, target: URL) -> Collection[str]:
        """Find the addresses to connect to, and check every one."""
        try:
            host = check_url(url, FIELD, self._also).hostname
        except Invalid as error:
            raise NotSent(error.detail) from None
        # as it is written: of a name in another script both have the form that name servers know
        if host is None or host != (target.raw_host or "").lower():
            raise NotSent("the host is written in a way that programs read differently")
        if literal(host) is not None:
            return [host]
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = await self._resolve(host, target.port or 0)
        except (OSError, UnicodeError):
            raise NotSent("the name of the host cannot be resolved") from None
        if not found:
            raise NotSent("the name of the host cannot be resolved")
        if not all(is_allowed(ip_address(address.partition("%")[0]), self._also) for address in found):
            raise NotSent("the host leads to an address that is not public")
        return [*found][:_MOST_ADDRESSES]


class Deliverer:
    """Sends what is due. Every gateway runs one; each callback is one's for a while.

    Parameters
    ----------
    every_s
        How often to look for what others have left, or what is to be tried again, seconds.
    """

    def __init__(self, callbacks: Callbacks, sender: Sender, every_s: float) -> None:
        self._callbacks = callbacks
        self._sender = sender
        self._every_s = every_s
        self._sending: dict[str, str] = {}
        self._due: list[Due] = []

    async def run(self) -> None:
        """Go on for ever; a store that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    self._due = await self._callbacks.due()
                except StoreAway:
                    log.info("store away, callbacks wait")
                except Exception:
                    log.exception("callbacks cannot be read")
                self._begin(group)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._callbacks.woken.wait()
                self._callbacks.woken.clear()
                if self._due:  # many wait: they are not read anew for each run that ends
                    await asyncio.sleep(_SPACING_S)

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begin to send what was read, as far as there are places; somebody else may have sent it, which is no harm."""
        users = Counter(self._sending.values())
        rest = []
        for item in self._due:
            if item.run_id in self._sending:
                continue
            if len(self._sending) >= _AT_ONCE or users[item.user] >= _AT_ONCE_EACH:
                rest.append(item)
                continue
            users[item.user] += 1
            self._sending[item.run_id] = item.user
            group.create_task(self._one(item, group))
        self._due = rest

    async def _one(self, item: Due, group: asyncio.TaskGroup) -> None:
        try:
            await self._send(item)
        except StoreAway:
            log.info("store away, callback is sent again later", run=item.run_id)
        except Exception:
            log.exception("callback failed", run=item.run_id)
        finally:
            del self._sending[item.run_id]
        self._begin(group)

    async def _send(self, item: Due) -> None:
        found = await self._callbacks.claim(item)
        if found is None:
            return
        claimed, secret = found
        content, at = claimed.body.encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"stdweb/{VERSION}",
            "X-STDWeb-Event": event_id(claimed.run_id),
            "X-STDWeb-Timestamp": str(at),
            "X-STDWeb-Signature": f"sha256={sign(secret, at, content)}",
        }
        status, problem = None, None
        try:
            status = await self._sender.post(claimed.url, content, headers)
        except NotSent as error:
            problem = str(error)
        await self._callbacks.sent(claimed, status, problem)
        SENT.labels("none" if status is None else f"{status // 100}xx").inc()
        log.info("called back", task=claimed.task_id, run=claimed.run_id, status=status, problem=problem)
