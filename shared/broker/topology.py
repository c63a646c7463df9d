"""Every exchange and queue, derived from the step table.

::

    stdweb.steps    direct  step name ─▶ step.<name>.v1       one quorum queue a step
    stdweb.dead     fanout            ─▶ dead.v2              what the gateway makes failures of
                                         parking.v2           where it keeps them, by the default exchange
    stdweb.events   topic   started, done, failed ─▶ gateway.reports.v2
                            progress.<task> ─▶ a lossy queue of each gateway
    stdweb.control  fanout            ─▶ a lossy queue of each worker
    stdweb.delay.<step> direct ms     ─▶ delay.<step>.<ms>.v1 ─(time to live)─▶ stdweb.steps, under the step's name
    (default)               queue     ─▶ rpc.<name>.v1        requests that are answered at once, lost with the broker
    stdweb.replies  direct  queue     ─▶ reply.<asker>        of each process that asks; gone a minute after it

Only what RabbitMQ 3.10 and 4.x do alike. Redeclaring with other arguments is an error: queue names carry a version.
Dead letters move at least once, which a quorum queue does only together with `reject-publish`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from ..contracts.messages import StepDone, StepFailed, StepProgress, StepStarted
from ..contracts.rpc import RPCS, Rpc
from ..contracts.steps import STEPS, Step

STEPS_EXCHANGE: Final = "stdweb.steps"
DEAD_EXCHANGE: Final = "stdweb.dead"
EVENTS_EXCHANGE: Final = "stdweb.events"
CONTROL_EXCHANGE: Final = "stdweb.control"
REPLIES_EXCHANGE: Final = "stdweb.replies"

REPORTS_QUEUE: Final = "gateway.reports.v2"
DEAD_QUEUE: Final = "dead.v2"
PARKING_QUEUE: Final = "parking.v2"
PROGRESS_PATTERN: Final = "progress.*"

CHILD_DEATHS: Final = "x-child-deaths"
"""Header of our own: how many processes have died of this message."""

DEAD_REASON: Final = "x-dead-reason"
DEAD_AT: Final = "x-dead-at"
"""Headers of our own of a parked message: why and when it died, seconds since the epoch."""

LOOKS_LIMIT: Final = 1_000_000
"""Deliveries of what the gateway puts back: each look at a parked message is one, and each second that a report or a
dead letter waits for the store. Brokers from 4.0 on would drop them after 20."""
DELIVERY_LIMIT: Final = 20  # restarts of workers are no failures: this only stops what nothing else stops
CONSUMER_TIMEOUT_MARGIN_S: Final = 1800  # beyond the step's limit, for reporting while the broker comes and goes
LOSSY_LENGTH: Final = 10_000  # messages; a gateway that slow shows gaps instead of filling the broker

RPC_LENGTH: Final = 1_000  # requests that wait; more are refused
REPLIES_EXPIRE_MS: Final = 60_000
REPLY_PREFIX: Final = "reply."

HeaderValue = str | int
Argument = str | int


@dataclass(frozen=True)
class Route:
    """Where to publish."""

    exchange: str
    key: str


@dataclass(frozen=True)
class Exchange:
    """An exchange to declare; all are durable."""

    name: str
    type: Literal["direct", "fanout", "topic"]


@dataclass(frozen=True)
class Queue:
    """A durable queue to declare, with its bindings; a quorum queue, unless what it holds may be lost."""

    name: str
    bindings: tuple[Route, ...] = ()
    arguments: dict[str, Argument] = field(default_factory=dict, hash=False)
    kind: Literal["quorum", "classic"] = "quorum"


@dataclass(frozen=True)
class Topology:
    """All that is declared."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]


def step_route(step: str) -> Route:
    """Route of a request to work on a step."""
    return Route(STEPS_EXCHANGE, step)


def delay_route(step: str, delay_s: float) -> Route:
    """Route of a request to work on a step some time later; the delay must have been declared."""
    return Route(f"stdweb.delay.{step}", str(round(delay_s * 1000)))


def report_route(report: StepStarted | StepDone | StepFailed) -> Route:
    """Route of a report: `started`, `done`, `failed`."""
    return Route(EVENTS_EXCHANGE, report.kind)


def progress_route(progress: StepProgress) -> Route:
    """Route of a sign of life."""
    return Route(EVENTS_EXCHANGE, f"progress.{progress.task_id}")


def control_route() -> Route:
    """Route to every worker."""
    return Route(CONTROL_EXCHANGE, "")


def parking_route() -> Route:
    """Route to where dead letters are kept for people."""
    return Route("", PARKING_QUEUE)


def rpc_route(rpc: Rpc) -> Route:
    """Route of a request that is answered at once."""
    return Route("", rpc.queue)


def reply_queue(asker: str) -> Queue:
    """Queue for the answers to one process.

    Neither exclusive nor deleted with its consumer: the process finds it again after a lost connection, which the
    broker may notice later than the process.
    """
    name = REPLY_PREFIX + asker
    return Queue(name, (reply_route(name),), {"x-expires": REPLIES_EXPIRE_MS}, "classic")


def reply_route(queue: str) -> Route:
    """Route of an answer to the process that has asked.

    Not the default exchange: who may write to that may write to every queue.
    """
    return Route(REPLIES_EXCHANGE, queue)


def delays_for(lease_poll_s: float) -> tuple[float, ...]:
    """Delays that a worker uses: the first between looks at a lease and before a second try, the other before a third.

    Parameters
    ----------
    lease_poll_s
        As set for the worker, seconds.

    Returns
    -------
    tuple
        Seconds, growing.
    """
    return (lease_poll_s, 6 * lease_poll_s)


def topology(delays_s: Iterable[float] = (), steps: Iterable[Step] = STEPS.values()) -> Topology:
    """Derive what has to exist.

    Parameters
    ----------
    delays_s
        Delays that this process publishes to, seconds.
    steps
        Rows of the step table.
    """
    exchanges = [
        Exchange(STEPS_EXCHANGE, "direct"),
        Exchange(DEAD_EXCHANGE, "fanout"),
        Exchange(EVENTS_EXCHANGE, "topic"),
        Exchange(CONTROL_EXCHANGE, "fanout"),
        Exchange(REPLIES_EXCHANGE, "direct"),
    ]
    kept: dict[str, Argument] = {"x-delivery-limit": LOOKS_LIMIT}
    queues = [
        Queue(REPORTS_QUEUE, tuple(Route(EVENTS_EXCHANGE, key) for key in ("started", "done", "failed")), kept),
        Queue(DEAD_QUEUE, (Route(DEAD_EXCHANGE, ""),), kept),
        Queue(PARKING_QUEUE, arguments=kept),
    ]
    queues += [_rpc_queue(rpc) for rpc in RPCS.values()]
    delays_s = tuple(delays_s)
    for step in steps:
        queues.append(_step_queue(step))
        if delays_s:
            exchanges.append(Exchange(delay_route(step.name, 0).exchange, "direct"))
        queues += [_delay_queue(step.name, delay_s) for delay_s in delays_s]
    return Topology(tuple(exchanges), tuple(queues))


def _step_queue(step: Step) -> Queue:
    return Queue(
        step.queue,
        (step_route(step.name),),
        {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-consumer-timeout": (step.time_limit_s + CONSUMER_TIMEOUT_MARGIN_S) * 1000,
            **_dead_letters_to(DEAD_EXCHANGE),
        },
    )


def _delay_queue(step: str, delay_s: float) -> Queue:
    route = delay_route(step, delay_s)
    own: dict[str, Argument] = {"x-message-ttl": int(route.key), "x-dead-letter-routing-key": step}
    return Queue(f"delay.{step}.{route.key}.v1", (route,), own | _dead_letters_to(STEPS_EXCHANGE))


def _rpc_queue(rpc: Rpc) -> Queue:
    return Queue(rpc.queue, arguments={"x-max-length": RPC_LENGTH, "x-overflow": "reject-publish"}, kind="classic")


def _dead_letters_to(exchange: str) -> dict[str, Argument]:
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
