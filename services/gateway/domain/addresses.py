"""Which addresses the gateway may be sent to by its users: public ones, and those of networks that the site allows."""

import ipaddress
import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from .errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}
_FIRST_FREE_PORT: Final = 1024  # below are mail, file and login services, which must not be spoken to
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")  # as last label: 127.1, 0x7f.1 and 2130706433 are 127.0.0.1 to some
_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NEVER: Final[tuple[Network, ...]] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("3fff::/20"),  # documentation
)


def is_public(address: Address) -> bool:
    """Tell whether an address belongs to the public Internet; one inside another is what counts."""
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return not _within(address, _NEVER)


def is_allowed(address: Address, also: Collection[Network]) -> bool:
    """Tell whether an address may be connected to.

    Parameters
    ----------
    also
        Networks that are allowed though they are not public.
    """
    inner = _inner(address)
    return is_public(address) or _within(inner or address, also)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def _inner(address: Address) -> IPv4Address | None:
    """Give the IPv4 address that an IPv6 address leads to: mapped, 6to4, NAT64."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def literal(host: str) -> Address | None:
    """Read an address that stands for a host; None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_url(url: str, field: str, also: Collection[Network]) -> SplitResult:
    """Check an address of a web page that a user has named, but for what its name leads to.

    Raises
    ------
    Invalid
        Naming the field, and what is allowed.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or any(c in url for c in ' \\"<>^`{|}'):
        raise Invalid.field(field, f"must be at most {MAX_URL} printable ASCII characters, others escaped")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Invalid.field(field, "is no address of a web page") from None
    if parts.scheme not in _PORTS or not host:
        raise Invalid.field(field, "must begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise Invalid.field(field, "may hold no user and no password; the signature proves who calls")
    if parts.fragment or "#" in url:
        raise Invalid.field(field, "may hold no fragment (#)")
    if "%" in parts.netloc:
        raise Invalid.field(field, "may hold no % in its host")
    if port is not None and port not in _PORTS.values() and port < _FIRST_FREE_PORT:
        raise Invalid.field(field, "may use the ports 80, 443, and 1024 to 65535")
    address = literal(host)
    if address is None and _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise Invalid.field(field, "holds an address in a form that programs read differently; write it as 1.2.3.4")
    if address is not None and not is_allowed(address, also):
        raise Invalid.field(field, "must lead to a public address")
    return parts


def shown(url: str) -> str:
    """Leave out of an address what may be secret: the query."""
    return urlsplit(url)._replace(query="").geturl()


def site_of(url: str) -> str:
    """Leave of an address only the scheme, the host and the port."""
    return urlsplit(url)._replace(path="/", query="").geturl()
