"""What each service may do at the broker: the gateway makes everything, a service touches what is its own.

    service     makes        writes to                                      reads from
    <service>   listener.…   stdweb.events stdweb.replies                   step.<its steps>.v1 rpc.<its rpcs>.v1
                             stdweb.delay.<its steps>                       stdweb.control

`listener.…` are exclusive queues with names that nobody guesses: only the connection that has made one may use it.
Nothing is written to the default exchange, which leads to every queue.
"""

import re
from dataclasses import dataclass
from typing import Final

from ..contracts.rpc import RPCS
from ..contracts.steps import STEPS
from .topology import CONTROL_EXCHANGE, EVENTS_EXCHANGE, REPLIES_EXCHANGE, delay_route

_OWN: Final = r"listener\..+"


@dataclass(frozen=True)
class Rights:
    """Patterns of the names of queues and exchanges, as RabbitMQ has them for a user and a virtual host."""

    configure: str
    write: str
    read: str


ALL: Final = Rights(".*", ".*", ".*")
"""Of the gateway, which makes queues and exchanges."""


def rights_of(service: str) -> Rights:
    """Derive the rights of a service from the steps that it works on, and the requests that it answers."""
    steps = [step for step in STEPS.values() if step.service == service]
    queues = [step.queue for step in steps] + [rpc.queue for rpc in RPCS.values() if rpc.service == service]
    delays = [delay_route(step.name, 0).exchange for step in steps]
    return Rights(
        configure=_pattern([]),
        write=_pattern([EVENTS_EXCHANGE, REPLIES_EXCHANGE, *delays]),
        read=_pattern([CONTROL_EXCHANGE, *queues]),
    )


def _pattern(names: list[str]) -> str:
    return f"^({'|'.join([_OWN, *map(re.escape, names)])})$"
