"""The broker's definitions: what `topology` and `rights` say, in the form that RabbitMQ imports.

`python -m shared.broker.definitions` prints them. They hold no users and so no secrets: whoever imports them adds the
users that the permissions name.
"""

import json
import sys
from dataclasses import asdict
from typing import Any, Final

from ..contracts.rpc import RPCS
from ..contracts.steps import STEPS
from .rights import ALL, Rights, rights_of
from .topology import delays_for, topology

VHOST: Final = "stdweb"
GATEWAY: Final = "gateway"
LEASE_POLL_S: Final = 5.0  # as in shared/settings.py; with another one the gateway makes its delay queues itself

LOSSY_BYTES: Final = 64 * 2**20  # of events that a slow gateway has not read; what is older is dropped
POLICY: Final = {
    "name": "lossy",
    "pattern": r"^listener\.",
    "apply-to": "queues",
    "definition": {"max-length-bytes": LOSSY_BYTES, "overflow": "drop-head"},
    "priority": 0,
}
"""All else that queues need is in their arguments, which hold wherever they are made."""


def rights() -> dict[str, Rights]:
    """Give the rights of every user: the gateway and each service."""
    services = [step.service for step in STEPS.values()] + [rpc.service for rpc in RPCS.values()]
    return {GATEWAY: ALL} | {service: rights_of(service) for service in dict.fromkeys(services)}


def definitions(vhost: str = VHOST) -> dict[str, list[dict[str, Any]]]:
    """Write everything down but the users."""
    what = topology(delays_for(LEASE_POLL_S))
    own: dict[str, Any] = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": vhost}],
        "permissions": [{"user": user, "vhost": vhost, **asdict(may)} for user, may in rights().items()],
        "policies": [{"vhost": vhost, **POLICY}],
        "exchanges": [
            {"name": exchange.name, "type": exchange.type, "internal": False, "arguments": {}, **own}
            for exchange in what.exchanges
        ],
        "queues": [
            {"name": queue.name, "arguments": {"x-queue-type": queue.kind, **queue.arguments}, **own}
            for queue in what.queues
        ],
        "bindings": [
            {
                "source": route.exchange,
                "vhost": vhost,
                "destination": queue.name,
                "destination_type": "queue",
                "routing_key": route.key,
                "arguments": {},
            }
            for queue in what.queues
            for route in queue.bindings
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(definitions(), indent=1) + "\n")
