"""A gateway that speaks TLS with its clients, the broker and the store, and with no stranger."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from shared import probe
from tests.support.archives.ca import Authority
from tests.support.gateway import until
from tests.support.rabbit import TestBroker, free_ports
from tests.support.tls_relay import behind_tls

READY_S = 60


@contextlib.contextmanager
def gateway(folder: Path, port: int, **settings: object) -> Iterator["subprocess.Popen[bytes]"]:
    named = {f"STDWEB_{name.upper()}": str(value) for name, value in settings.items()}
    with (folder / "gateway.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"],
            env={**os.environ, **named, "STDWEB_PORT": str(port), "STDWEB_DATA_DIR": str(folder)},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def over_tls(url: str, port: int, query: str) -> str:
    """Write an address anew, with another scheme and port."""
    parts = urlsplit(url)
    scheme = {"amqp": "amqps", "mongodb": "mongodb"}[parts.scheme]
    login = f"{parts.username}:{parts.password}@" if parts.username else ""
    known = f"{parts.query}&" if parts.query else ""
    return f"{scheme}://{login}localhost:{port}{parts.path}?{known}{query}"


@pytest.mark.parametrize("known", [True, False], ids=["known", "stranger"])
async def test_the_gateway_speaks_tls_everywhere(
    rabbit: TestBroker, mongo_url: str, tmp_path: Path, known: bool
) -> None:
    (tmp_path / "theirs").mkdir()
    theirs, ours = Authority(tmp_path / "theirs"), Authority(tmp_path)
    ours.context_for("localhost")
    certificate = tmp_path / "localhost.pem"
    trusted = (ours if known else theirs).bundle
    amqp_url, (port,) = rabbit.new_url(), free_ports(1)
    with (
        behind_tls(certificate, urlsplit(amqp_url).port or 0) as broker_port,
        behind_tls(certificate, urlsplit(mongo_url).port or 0) as store_port,
    ):
        settings = {
            "amqp_url": over_tls(amqp_url, broker_port, f"cafile={trusted}"),
            "mongo_url": over_tls(mongo_url, store_port, f"tls=true&tlsCAFile={trusted}"),
            "tls_certificate": certificate,
        }
        checked = ssl.create_default_context(cafile=str(ours.bundle))
        with gateway(tmp_path, port, **settings) as process:
            async with httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=checked) as http:

                async def answers() -> httpx.Response | None:
                    assert process.poll() is None
                    with contextlib.suppress(httpx.TransportError):
                        return await http.get("/readyz")
                    return None

                async def ready() -> bool:
                    answer = await answers()
                    return answer is not None and answer.status_code == httpx.codes.OK

                if known:
                    await until(ready, READY_S)
                    assert (await http.get("/api/schema/")).json()["info"]["title"] == "STDWeb"
                    healthy = {"STDWEB_PORT": str(port), "STDWEB_TLS_CERTIFICATE": str(certificate)}
                    theirs.context_for("localhost")
                    stranger = healthy | {"STDWEB_TLS_CERTIFICATE": str(tmp_path / "theirs/localhost.pem")}
                    # what a container asks itself, and would take an answer to from nobody else
                    assert [await asyncio.to_thread(probe.ready, given) for given in (healthy, stranger)] == [
                        True,
                        False,
                    ]
                    with pytest.raises(httpx.TransportError):
                        await http.get(f"http://localhost:{port}/readyz")
                else:
                    answer = await until(answers, READY_S)
                    assert (answer.status_code, answer.json()["store"], answer.json()["broker"]) == (
                        503,
                        "away",
                        "away",
                    )
                    log = (tmp_path / "gateway.log").read_text()
                    assert "certificate verify failed" in log.lower()


async def test_a_certificate_of_somebody_else_is_seen_by_clients(
    rabbit: TestBroker, mongo_url: str, tmp_path: Path
) -> None:
    ours = Authority(tmp_path)
    ours.context_for("elsewhere.example")
    (port,) = free_ports(1)
    settings = {
        "amqp_url": rabbit.new_url(),
        "mongo_url": mongo_url,
        "tls_certificate": tmp_path / "elsewhere.example.pem",
    }
    checked = ssl.create_default_context(cafile=str(ours.bundle))
    with gateway(tmp_path, port, **settings):
        async with httpx.AsyncClient(verify=checked) as http:

            async def refusal() -> str:
                try:
                    await http.get(f"https://localhost:{port}/healthz")
                except httpx.ConnectError as error:
                    return str(error) if "certificate" in str(error).lower() else ""
                return ""

            assert "localhost" in await until(refusal, READY_S)
