"""Which addresses may be called."""

from ipaddress import ip_address, ip_network

import pytest

from services.gateway.domain.addresses import check_url, is_allowed, is_public, shown
from services.gateway.domain.errors import Invalid

PUBLIC = """8.8.8.8 1.1.1.1 172.32.0.1 100.128.0.1 2606:4700::1111 2a00:1450:4001::5 ::ffff:8.8.8.8 2002:808:808::1
    64:ff9b::8.8.8.8"""
NOT_PUBLIC = """0.0.0.0 0.1.2.3 10.0.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.168.1.1
    100.64.0.1 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.7 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 :: ::1 ::127.0.0.1 ::8.8.8.8 fe80::1 fec0::1 fc00::1 fd12::1 ff02::1 ff0e::1 100::1 2001::1
    2001:db8::1 3fff::1 5f00::1 4000::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 2002:7f00:1::1
    2002:a00:1::1 2002:a9fe:a9fe::1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 ::ffff:0:127.0.0.1"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_may_be_called(address: str) -> None:
    assert is_public(ip_address(address))
    assert is_allowed(ip_address(address), ())


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_others_may_not(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not is_allowed(ip_address(address), (ip_network("192.168.77.0/24"), ip_network("fd77::/64")))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd77::1"])
def test_what_a_site_allows_may_be_called_in_every_form(address: str) -> None:
    assert is_allowed(ip_address(address), (ip_network("10.1.0.0/16"), ip_network("fd77::/64")))


GOOD = [
    "http://example.org",
    "https://example.org:8443/a/b?token=x&y=%20",
    "http://8.8.8.8:80/",
    "https://[2606:4700::1]/",
]


@pytest.mark.parametrize("url", GOOD)
def test_addresses_of_public_pages_are_taken(url: str) -> None:
    assert check_url(url, "callback_url", ()).geturl() == url


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "must begin"),
        ("example.org/done", "must begin"),
        ("ftp://example.org/", "must begin"),
        ("file:///etc/passwd", "must begin"),
        ("http://", "must begin"),
        ("http:///done", "must begin"),
        ("http://user@example.org/", "no user"),
        ("http://user:secret@example.org/", "no user"),
        ("http://example.org@127.0.0.1/", "no user"),
        ("http://example.org/#part", "fragment"),
        ("http://example.org/#", "fragment"),
        ("http://example.org:25/", "ports"),
        ("http://example.org:0/", "ports"),
        ("http://example.org:99999/", "is no address"),
        ("http://[::1/", "is no address"),
        ("http://example.org/a b", "printable"),
        ("http://example.org\\@127.0.0.1/", "printable"),
        ("http://example.org/\r\nHost: x", "printable"),
        ("http://exämple.org/", "printable"),
        ("http://127.0.0.1/", "public"),
        ("http://127.0.0.1:8080/", "public"),
        ("http://[::1]/", "public"),
        ("http://[::ffff:127.0.0.1]/", "public"),
        ("http://169.254.169.254/latest/meta-data", "public"),
        ("http://[fe80::1%25eth0]/", "host"),
        ("http://127.0.0.1%2f.example.org/", "host"),
        ("http://2130706433/", "1.2.3.4"),
        ("http://0x7f000001/", "1.2.3.4"),
        ("http://0x7f.0.0.1/", "1.2.3.4"),
        ("http://127.1/", "1.2.3.4"),
        ("http://0177.0.0.1/", "1.2.3.4"),
        ("http://127.0.0.1./", "1.2.3.4"),
        ("http://" + "a" * 2048, "2048"),
    ],
)
def test_others_are_refused_with_a_reason(url: str, word: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_url(url, "callback_url", ())
    assert word in refused.value.errors["callback_url"][0]


def test_a_query_is_not_shown() -> None:
    assert shown("https://example.org:8443/a?token=secret") == "https://example.org:8443/a"
