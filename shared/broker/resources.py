"""The broker's virtual host, users, rights and policy as resources of RabbitMQ's topology operator.

`python -m shared.broker.resources` prints them. The operator makes the passwords, one Secret a user. Exchanges and
queues are not among them: the gateway makes those, and no deleted resource may take a queue with messages along.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from .definitions import POLICY, VHOST, rights

_CLUSTER: Final = {"rabbitmqClusterReference": {"name": "rabbitmq"}}


def resources() -> Iterator[dict[str, Any]]:
    """Give them in the order in which they are needed."""
    yield _resource("Vhost", VHOST, {"name": VHOST})
    policy = {key: POLICY[key] for key in ("name", "pattern", "priority", "definition")}
    yield _resource("Policy", str(POLICY["name"]), {**policy, "applyTo": POLICY["apply-to"], "vhost": VHOST})
    for user, may in rights().items():
        yield _resource("User", user, {})
        permissions = {"configure": may.configure, "write": may.write, "read": may.read}
        yield _resource(
            "Permission", user, {"vhost": VHOST, "userReference": {"name": user}, "permissions": permissions}
        )


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name}
    return {"apiVersion": "rabbitmq.com/v1beta1", "kind": kind, "metadata": metadata, "spec": {**spec, **_CLUSTER}}


def _lines(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield f"{indent}{key}:"
            yield from _lines(inner, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(inner)}"


def text() -> str:
    """Write them as YAML."""
    head = "# Made by `make definitions` from shared/broker.\n"
    return head + "---\n".join("\n".join(_lines(one)) + "\n" for one in resources())


if __name__ == "__main__":
    sys.stdout.write(text())
