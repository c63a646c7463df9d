"""Prometheus metrics of the processes, in one registry."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
_BYTES: Final = tuple(2.0**power * 2**20 for power in range(4, 16))

STEP_SECONDS: Final = Histogram(
    "stdweb_step_seconds",
    "Time of a step's process",
    ["step", "outcome"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_WAIT_SECONDS: Final = Histogram(
    "stdweb_queue_wait_seconds",
    "From the sending of a step's message to the start of its process",
    ["step"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
STEP_MEMORY_BYTES: Final = Histogram(
    "stdweb_step_peak_memory_bytes",
    "Peak memory of a step's processes",
    ["step"],
    buckets=_BYTES,
    registry=REGISTRY,
)
ATTEMPTS: Final = Counter("stdweb_step_attempts", "Steps' processes started", ["step"], registry=REGISTRY)
FAILURES: Final = Counter("stdweb_step_failures", "Failed steps by cause", ["step", "code"], registry=REGISTRY)
CHILD_DEATHS: Final = Counter("stdweb_child_deaths", "Steps' processes that died", ["step"], registry=REGISTRY)
MESSAGES: Final = Counter(
    "stdweb_step_messages", "Step messages by what was done with them", ["step", "decision"], registry=REGISTRY
)
RUNNING: Final = Gauge("stdweb_steps_running", "Steps at work", ["step"], registry=REGISTRY)


def exposition() -> bytes:
    """Write everything in the text format of Prometheus."""
    return generate_latest(REGISTRY)
