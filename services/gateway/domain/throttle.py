"""Slows down who guesses passwords.

Failures are counted three ways. For an account from one address, which stops the plain guesser. For an address whatever
the account, which stops who tries one password on many accounts. For an account whatever the address, which slows who
guesses from many addresses; its delays are short, and it does not concern an address from which that account has logged
in lately, so that nobody can lock out a user who is elsewhere. Whether there is such an account makes no difference.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from math import ceil
from typing import Final

from ..model import now
from ..storage import Attempts
from .errors import TooMany

_FORGET: Final = timedelta(hours=1)
_REMEMBER: Final = timedelta(days=30)
_REMEMBER_AGAIN: Final = timedelta(days=1)  # a write a day and not one a login
_KNOWN: Final = "known"
_MAX_HOPS: Final = 20

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class _Limit:
    """How many failures are free, and how long the longest wait is; the wait begins with 1 s and doubles."""

    free: int
    most_s: float

    def wait_s(self, failures: int) -> float:
        if failures < self.free:
            return 0
        return min(2.0 ** min(failures - self.free, 30), self.most_s)


_PAIR: Final = _Limit(10, 300)
_ADDRESS: Final = _Limit(50, 60)  # an institute may be behind one address
_ACCOUNT: Final = _Limit(30, 15)


class Throttle:
    """Counts failed logins, and says how long to wait."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def check(self, account: str, address: str) -> None:
        """Refuse an attempt that comes too early.

        Raises
        ------
        TooMany
            Saying how long to wait.
        """
        keys = _keys(account, address)
        known = _key(_KNOWN, account, address)
        found = await self._attempts.read([*keys, known])
        at, wait_s = now(), 0.0
        for key, limit in keys.items():
            count = found.get(key)
            if count is None or at - count.at > _FORGET or (limit is not _PAIR and known in found):
                continue
            wait_s = max(wait_s, limit.wait_s(count.number) - (at - count.at).total_seconds())
        if wait_s > 0:
            raise TooMany(f"Too many failed logins. Try again in {ceil(wait_s)} s.", ceil(wait_s))

    async def failed(self, account: str, address: str) -> None:
        """Count a failure. What was refused by `check` is none: it would let others prolong the wait."""
        at = now()
        for key in _keys(account, address):
            await self._attempts.add(key, at, at + _FORGET)

    async def succeeded(self, account: str, address: str) -> None:
        """Forget the failures of this account from here, and remember that it is at home here.

        The address keeps its count, or an attacker would begin anew with an account of his own.
        """
        known, pair = _key(_KNOWN, account, address), _key("pair", account, address)
        found, at = await self._attempts.read([known, pair]), now()
        if known not in found or at - found[known].at > _REMEMBER_AGAIN:
            await self._attempts.add(known, at, at + _REMEMBER)
        if pair in found:
            await self._attempts.forget(pair)


def _key(kind: str, *parts: str) -> str:
    # hashed, so that any name is a short text
    return hashlib.sha256("\0".join((kind, *parts)).encode("utf-8", "backslashreplace")).hexdigest()


def _keys(account: str, address: str) -> dict[str, _Limit]:
    return {
        _key("pair", account, address): _PAIR,
        _key("address", address): _ADDRESS,
        _key("account", account): _ACCOUNT,
    }


def client_address(peer: str, forwarded: str, trusted: Collection[Network]) -> str:
    """Find out from where a request comes.

    Parameters
    ----------
    peer
        Address of who has connected; empty for a local socket.
    forwarded
        The `X-Forwarded-For` headers, joined. Only what trusted proxies have added to its end is believed.
    trusted
        Networks of our own proxies.

    Returns
    -------
    str
        An address; of IPv6 the network, because everybody has 2⁶⁴ addresses there.
    """
    address = _parse(peer)
    if address is None:
        return peer
    for hop in reversed(forwarded.split(",")[-_MAX_HOPS:] if forwarded else []):
        if not any(address in network for network in trusted):
            break
        before = _parse(hop.strip())
        if before is None:
            break
        address = before
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
