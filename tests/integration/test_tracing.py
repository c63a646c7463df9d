"""Traces of a run, from the request to the last report, over a real broker and real processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from astropy.io import fits

from services.gateway.admin import Admin
from services.gateway.domain import runs
from services.gateway.model import Run, now
from services.gateway.storage.codec import run_from_doc, run_to_doc
from shared import tracing
from tests.support.collector import Collector, Span, collector
from tests.support.rabbit import TestBroker, free_ports
from tests.support.service import until
from tests.support.stack import ROOT

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def kept() -> Iterator[Collector]:
    with collector() as running:
        yield running


@contextlib.contextmanager
def process(name: str, log: Path, **environment: str) -> Iterator[None]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("STDWEB_", "OTEL_"))}
    with log.open("wb") as output:
        argv = [sys.executable, "-m", f"services.{name}"]
        running = subprocess.Popen(argv, cwd=ROOT, env=own | environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0, log.read_text()


@pytest.fixture
async def site(rabbit: TestBroker, mongo_url: str, tmp_path: Path, kept: Collector) -> AsyncIterator[str]:
    """Run a gateway and the service `inspect`, that tell the collector; gives the address of the API."""
    url_of = rabbit.urls()
    (port,) = free_ports(1)
    common = {
        "STDWEB_DATA_DIR": str(tmp_path / "data"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": kept.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",  # ms
    }
    (tmp_path / "data").mkdir()
    gateway = {"STDWEB_AMQP_URL": url_of("gateway"), "STDWEB_MONGO_URL": mongo_url, "STDWEB_PORT": str(port)}
    worker = {"STDWEB_AMQP_URL": url_of("inspect"), "STDWEB_BROKER_DECLARES": "false"}
    with (
        process("gateway", tmp_path / "gateway.log", **common, **gateway),
        process("inspect", tmp_path / "inspect.log", **common, **worker),
    ):
        yield f"http://127.0.0.1:{port}/api"


def line_of(span: Span, spans: dict[str, Span]) -> list[str]:
    """Name a span and those that it belongs to."""
    names = []
    while span.parent in spans:
        names.append(f"{span.service}: {span.name}")
        span = spans[span.parent]
    return [*names, f"{span.service}: {span.name}"]


async def test_a_run_is_one_trace_from_the_request_to_the_last_report(
    site: str, mongo_url: str, tmp_path: Path, kept: Collector
) -> None:
    rng = np.random.default_rng(1)
    fits.writeto(tmp_path / "image.fits", rng.normal(1000, 10, (128, 128)).astype("f4"))
    async with await Admin.connect(mongo_url) as admin:
        await admin.add_user("ann", None)
        token = await admin.create_token("ann")
    headers = {"Authorization": f"Token {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        task_id = await _new_task(session, site, tmp_path / "image.fits")
        call = session.post(
            f"{site}/tasks/{task_id}/process/",
            json={"steps": ["cleanup", "inspect"]},
            headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
        )
        async with call as response:
            assert response.status == 200, await response.text()

    def whole() -> dict[str, Span] | None:
        spans = kept.of(TRACE)
        ends = [span for span in spans.values() if span.facts.get("stdweb.report") == "done"]
        # each process sends when it likes, and what is asked for later has ended first
        complete = all(span.parent in spans or span.parent == CALLER for span in spans.values())
        return spans if len(ends) == 2 and complete else None

    spans = await until(whole, 90)
    (root,) = [span for span in spans.values() if span.parent == CALLER]
    assert (root.name, root.facts["stdweb.status"]) == ("POST /api/tasks/{id}/process", 200)
    (last,) = [
        span
        for span in spans.values()
        if span.facts.get("stdweb.report") == "done" and span.facts["stdweb.step"] == "inspect"
    ]
    assert line_of(last, spans) == [
        "stdweb-gateway: process gateway.reports.v2",
        "stdweb-inspect: publish stdweb.events",
        "stdweb-inspect: process step.inspect.v1",
        "stdweb-gateway: publish stdweb.steps",
        "stdweb-gateway: process gateway.reports.v2",
        "stdweb-inspect: publish stdweb.events",
        "stdweb-inspect: process step.cleanup.v1",
        "stdweb-gateway: publish stdweb.steps",
        "stdweb-gateway: POST /api/tasks/{id}/process",
    ]
    (step,) = [span for span in spans.values() if span.name == "process step.inspect.v1"]
    assert (step.facts["stdweb.task"], step.facts["stdweb.decision"]) == (task_id, "worked on")
    parts = [span for span in spans.values() if span.parent == step.id]
    assert {span.name for span in parts} >= {"wait for a process", "run inspect", "commit"}
    (run,) = [span for span in parts if span.name == "run inspect"]
    assert (run.facts["stdweb.outcome"], run.failed) == ("done", False)
    phases = [span for span in spans.values() if span.parent == run.id and not span.name.startswith("publish")]
    assert phases  # what the step says of its progress
    assert all(run.began_ns <= span.began_ns <= span.ended_ns <= run.ended_ns for span in phases)


async def _new_task(session: aiohttp.ClientSession, site: str, path: Path) -> int:
    async def ready() -> bool:
        try:
            async with session.get(site.replace("/api", "/readyz")) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    deadline = time.monotonic() + 60
    while not await ready():
        assert time.monotonic() < deadline
    form = aiohttp.FormData()
    form.add_field("file", path.read_bytes(), filename="image.fits", content_type="application/fits")
    async with session.post(f"{site}/tasks/", data=form) as response:
        assert response.status == 201, await response.text()
        return int((await response.json())["id"])


@pytest.fixture
def on(kept: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", kept.url)
    tracing.begin("test")
    yield
    tracing.end()


def test_what_is_sent_later_belongs_to_the_run_that_asked_for_it(on: None, kept: Collector) -> None:
    theirs = f"00-{TRACE}-{CALLER}-01"
    with tracing.span("request") as _:
        mine = tracing.carried()[tracing.HEADER]
        with tracing.belonging(mine), tracing.span("own"):
            pass
        with tracing.belonging(theirs), tracing.span("of another run"):
            pass
        tracing.fail("why")
    with tracing.belonging(theirs), tracing.span("from the reconciler"):
        pass
    assert tracing.carried() == {}
    tracing.end()
    spans = {span.name: span for span in kept.spans}
    assert spans["own"].parent == spans["request"].id
    assert (spans["of another run"].trace, spans["of another run"].parent) == (TRACE, CALLER)
    assert (spans["from the reconciler"].trace, spans["from the reconciler"].parent) == (TRACE, CALLER)
    assert (spans["request"].failed, spans["own"].failed) == (True, False)


def test_a_run_keeps_its_trace_in_the_store() -> None:
    run = Run("r1", now(), "ann", (), trace=f"00-{TRACE}-{CALLER}-01")
    assert run_from_doc(run_to_doc(run)) == run
    assert runs.Request("ann", ["inspect"]).trace is None
    assert "trace" not in run_to_doc(Run("r1", now(), "ann", ()))


def test_without_an_address_there_is_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    code = """
import sys
import services.gateway.app, services.preview.service, shared.worker.handler, shared.worker.runtime
from shared import tracing
tracing.begin("test")
with tracing.span("nothing"), tracing.belonging("00-1-2-01"):
    tracing.note(task=1)
    tracing.fail("no")
    assert tracing.carried() == {}
parts = tracing.Parts()
parts.begin("one")
parts.end()
tracing.end()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=60)


def test_a_collector_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    tracing.begin("test")
    with tracing.span("lost"):
        pass
    began = time.monotonic()
    tracing.end()
    assert time.monotonic() - began < 6  # s
