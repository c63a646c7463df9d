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

Counted = list[tuple[str, list[str], float]]
"""What was counted in another process: name, labels, and by how much."""

_CARRIED: Final = {"calls": ARCHIVE_CALLS, "seconds": ARCHIVE_SECONDS, "hits": ARCHIVE_CACHE_HITS}


class Carrier:
    """Tells what a step's process has counted, for the worker to add; nobody can ask a process that soon ends."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        self.news()  # what was there before the fork is not this process's

    def news(self) -> Counted:
        """Give what was counted since it was last asked."""
        news: Counted = []
        for name, counter in _CARRIED.items():
            for metric in counter.collect():
                for sample in metric.samples:
                    key = name, tuple(sample.labels.values())
                    if sample.name.endswith("_total") and (more := sample.value - self._told.get(key, 0.0)):
                        self._told[key] = sample.value
                        news.append((name, list(key[1]), more))
        return news


def add(news: Counted) -> None:
    """Count what another process has counted."""
    for name, labels, more in news:
        _CARRIED[name].labels(*labels).inc(more)


def exposition() -> bytes:
    """Write everything in the text format of Prometheus."""
    return generate_latest(REGISTRY)
