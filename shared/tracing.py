"""Traces of runs across processes (OpenTelemetry): on where the environment has an address for them, else without cost.

The address is `OTEL_EXPORTER_OTLP_ENDPOINT`, or the same for traces alone; the other standard variables count too, such
as `OTEL_TRACES_SAMPLER`. Sent as OTLP over HTTP. The context travels as `traceparent`, in HTTP and in message headers.

Of OpenTelemetry's instrumentation libraries none is used: that of aio-pika ends its span when a handler has been
started in a task of its own, as all of ours are, and the one of aiohttp replaces the application.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

ADDRESSES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
HEADER: Final = "traceparent"
_LAST_S: Final = 3.0  # for what has not been sent when the process ends; a collector that is away must not hold it up

Value = str | int | float | bool
Kind = Literal["internal", "server", "producer", "consumer"]


@dataclass
class _State:
    """What is there once traces are on."""

    provider: "TracerProvider | None" = None
    tracer: "Tracer | None" = None


_STATE: Final = _State()
_NOTHING: Final = contextlib.nullcontext()


def begin(service: str) -> None:
    """Turn traces on if the environment says where they go.

    Parameters
    ----------
    service
        Name of the process.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ADDRESSES)):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        sys.exit(f"{ADDRESSES[-1]} asks for traces, but {error.name} is not installed: pip install stdweb[tracing]")
    instance = f"{socket.gethostname()}:{os.getpid()}"
    resource = Resource.create({"service.name": f"stdweb-{service}", "service.instance.id": instance})
    _STATE.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _STATE.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _STATE.tracer = _STATE.provider.get_tracer("stdweb")


def end() -> None:
    """Send what has not been sent, as far as that is quick."""
    provider, _STATE.provider, _STATE.tracer = _STATE.provider, None, None
    if provider is not None:
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_S)


def span(
    name: str,
    kind: Kind = "internal",
    *,
    of: Mapping[str, object] | None = None,
    facts: Mapping[str, Value] | None = None,
) -> AbstractContextManager[object]:
    """Trace what the block does; what else it traces, or sends, belongs to it. An exception marks it as failed.

    Parameters
    ----------
    name
        What is done, one of few.
    of
        Headers of the request or message that asked for it; None for what belongs to the current span.
    facts
        Attributes.
    """
    tracer = _STATE.tracer
    return _NOTHING if tracer is None else _span(tracer, name, kind, of, facts)


def _span(
    tracer: "Tracer", name: str, kind: Kind, of: Mapping[str, object] | None, facts: Mapping[str, Value] | None
) -> "AbstractContextManager[Span]":
    from opentelemetry.trace import SpanKind

    context = None if of is None else _context({key: value for key, value in of.items() if isinstance(value, str)})
    return tracer.start_as_current_span(name, context, SpanKind[kind.upper()], dict(facts or {}))


def _context(headers: Mapping[str, str]) -> "Context":
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers)


def note(**facts: Value | None) -> None:
    """Add facts of ours to the current span: its task, run, step, how it ended."""
    if _STATE.tracer is not None:
        from opentelemetry.trace import get_current_span

        found = {f"stdweb.{name}": value for name, value in facts.items() if value is not None}
        get_current_span().set_attributes(found)


def fail(why: str) -> None:
    """Mark the current span as failed, where that is told by no exception."""
    if _STATE.tracer is not None:
        from opentelemetry.trace import StatusCode, get_current_span

        get_current_span().set_status(StatusCode.ERROR, why)


def carried() -> dict[str, str]:
    """Give the headers for what is sent from the current span; none when traces are off."""
    headers: dict[str, str] = {}
    if _STATE.tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def belonging(to: str | None) -> AbstractContextManager[object]:
    """Let what the block traces belong to a trace that was begun elsewhere, unless the current span does already.

    Parameters
    ----------
    to
        What `carried` gave there under `HEADER`; None when traces were off there.
    """
    return _NOTHING if _STATE.tracer is None or to is None else _belonging(to)


@contextlib.contextmanager
def _belonging(to: str) -> Iterator[None]:
    from opentelemetry import context, trace

    there = _context({HEADER: to})
    if (
        trace.get_current_span(there).get_span_context().trace_id
        == trace.get_current_span().get_span_context().trace_id
    ):
        yield
        return
    token = context.attach(there)
    try:
        yield
    finally:
        context.detach(token)


class Parts:
    """Traces parts of a piece of work of which only the beginnings are told, one after the other."""

    def __init__(self) -> None:
        self._part: Span | None = None
        self._name = ""

    def begin(self, name: str) -> None:
        """Note that a part begins, unless it has; the one before has ended then."""
        if _STATE.tracer is None or name == self._name:
            return
        self.end()
        self._name = name
        self._part = _STATE.tracer.start_span(name)

    def end(self) -> None:
        """Note that the last part has ended."""
        if self._part is not None:
            self._part.end()
            self._part = None
