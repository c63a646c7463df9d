"""Prometheus metrics of the processes, in one registry."""

from collections.abc import Iterable
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
WORKER_SLOTS: Final = Gauge(
    "stdweb_worker_slots", "Steps that this worker takes at once, as long as it takes any", ["step"], registry=REGISTRY
)
BROKER_CONNECTED: Final = Gauge(
    "stdweb_broker_connected", "Whether this process could send a message to the broker now", registry=REGISTRY
)

ARCHIVE_CALLS: Final = Counter(
    "stdweb_archive_calls",
    "Questions to archives: answered, failed after all attempts, or not asked while an archive is left alone (paused)",
    ["archive", "outcome"],
    registry=REGISTRY,
)
ARCHIVE_SECONDS: Final = Counter(
    "stdweb_archive_seconds", "Time spent on questions to archives", ["archive"], registry=REGISTRY
)
ARCHIVE_CACHE_HITS: Final = Counter(
    "stdweb_archive_cache_hits",
    "Questions that the cache answered instead of an archive",
    ["archive"],
    registry=REGISTRY,
)
ARCHIVE_PAUSED_UNTIL: Final = Gauge(
    "stdweb_archive_paused_until_seconds",
    "Until when an archive that did not answer is left alone, seconds since the epoch; 0 once it has answered",
    ["archive"],
    registry=REGISTRY,
)

Counted = list[tuple[str, list[str], float]]
"""What was counted in another process: name, labels, and by how much; of a gauge its value."""

_CARRIED: Final[dict[str, Counter | Gauge]] = {
    "calls": ARCHIVE_CALLS,
    "seconds": ARCHIVE_SECONDS,
    "hits": ARCHIVE_CACHE_HITS,
    "paused_until": ARCHIVE_PAUSED_UNTIL,
}
_OURS: Final = ("internal", "crashed", "time_limit", "memory_limit", "disk_full")
"""Causes of failure that an operator is told of."""


def begin(steps: Iterable[str]) -> None:
    """Show at zero what will be counted of these steps: the first one counts as a change only then."""
    for step in steps:
        ATTEMPTS.labels(step)
        CHILD_DEATHS.labels(step)
        RUNNING.labels(step)
        WORKER_SLOTS.labels(step)
        STEP_SECONDS.labels(step, "done")
        QUEUE_WAIT_SECONDS.labels(step)
        MESSAGES.labels(step, "taken over")
        for code in _OURS:
            FAILURES.labels(step, code)


class Carrier:
    """Tells what a step's process has counted, for the worker to add; nobody can ask a process that soon ends."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        self.news()  # what was there before the fork is not this process's

    def news(self) -> Counted:
        """Give what was counted since it was last asked."""
        news: Counted = []
        for name, kept in _CARRIED.items():
            for metric in kept.collect():
                for sample in metric.samples:
                    key = name, tuple(sample.labels.values())
                    more = sample.value - self._told.get(key, 0.0)
                    if more and not sample.name.endswith("_created"):
                        self._told[key] = sample.value
                        news.append((name, list(key[1]), sample.value if isinstance(kept, Gauge) else more))
        return news


def add(news: Counted) -> None:
    """Count what another process has counted."""
    for name, labels, value in news:
        match _CARRIED[name].labels(*labels):
            case Gauge() as gauge:
                gauge.set(value)
            case Counter() as counter:
                counter.inc(value)


def exposition() -> bytes:
    """Write everything in the text format of Prometheus."""
    return generate_latest(REGISTRY)
