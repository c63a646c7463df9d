"""Spans of what is sent to the broker, and taken from it."""

from contextlib import AbstractContextManager, nullcontext

from .. import tracing
from .delivery import RabbitDelivery
from .topology import REPLY_PREFIX, Route


def sending(route: Route, message_id: str) -> AbstractContextManager[object]:
    """Trace that a message is published."""
    # each asker has a queue of its own: its name is none of few
    name = route.exchange or route.key
    facts = {"messaging.system": "rabbitmq", "messaging.destination.name": name, "messaging.message.id": message_id}
    return tracing.span(f"publish {name}", "producer", facts=facts)


def taking(delivery: RabbitDelivery, queue: str | None) -> AbstractContextManager[object]:
    """Trace that a message of a queue is worked on; None for a queue without a name."""
    if queue is None or queue.startswith(REPLY_PREFIX):  # who has asked goes on in a span of its own
        return nullcontext()
    facts = {"messaging.system": "rabbitmq", "messaging.destination.name": queue}
    return tracing.span(f"process {queue}", "consumer", of=delivery.headers, facts=facts)
