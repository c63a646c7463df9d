"""From where a request comes, behind proxies and without; which pages are our own."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from services.gateway.domain.errors import Forbidden
from services.gateway.domain.sessions import check_origin
from services.gateway.domain.throttle import client_address
from shared.settings import GatewaySettings

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.7", "", "192.0.2.7"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),  # nobody of ours says so
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the first was the client's own invention
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ", ," * 5000, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "", "192.0.2.7"),
        ("fd00::1", "2001:db8::5", "2001:db8::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.1", ""),  # a local socket
    ],
)
def test_only_our_own_proxies_are_believed(peer: str, forwarded: str, address: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


@pytest.mark.parametrize(
    ("origin", "host", "site_url"),
    [
        (None, "site.org", None),
        ("https://site.org", "site.org", None),
        ("http://localhost:8000", "localhost:8000", None),
        ("https://site.org", "internal:8000", "https://site.org"),
    ],
)
def test_our_own_pages_may(origin: str | None, host: str, site_url: str | None) -> None:
    check_origin(origin, host, site_url)


@pytest.mark.parametrize(
    ("origin", "host", "site_url"),
    [
        ("https://evil.org", "site.org", None),
        ("null", "site.org", None),
        ("", "site.org", None),
        ("https://site.org:444", "site.org", None),
        ("https://site.org.evil.org", "site.org", None),
        ("https://[", "site.org", None),
        ("http://site.org", "site.org", "https://site.org"),
        ("https://evil.org", "evil.org", "https://site.org"),
    ],
)
def test_pages_of_others_may_not(origin: str, host: str, site_url: str | None) -> None:
    with pytest.raises(Forbidden, match="another site"):
        check_origin(origin, host, site_url)


def test_proxies_and_address_of_the_site_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AMQP_URL": "amqp://x",
        "MONGO_URL": "mongodb://x",
        "DATA_DIR": str(tmp_path),
        "TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "SITE_URL": "https://site.example",
    }.items():
        monkeypatch.setenv(f"STDWEB_{name}", value)
    settings = GatewaySettings()
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.site_url == "https://site.example"
    monkeypatch.setenv("STDWEB_TRUSTED_PROXIES", "proxy.example")
    with pytest.raises(ValueError, match="trusted_proxies"):
        GatewaySettings()
