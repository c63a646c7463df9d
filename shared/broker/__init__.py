"""Messages between processes: what is declared (`topology`), RabbitMQ (`client`), a fake for tests (`memory`)."""

from .client import RabbitBroker, connect
from .interface import Answer, Broker, BrokerUnavailable, Consumer, Delivery, Depth, Handler, NoAnswer
from .topology import (
    CHILD_DEATHS,
    Route,
    control_route,
    delay_route,
    delays_for,
    progress_route,
    report_route,
    step_route,
)

__all__ = [
    "CHILD_DEATHS",
    "Answer",
    "Broker",
    "BrokerUnavailable",
    "Consumer",
    "Delivery",
    "Depth",
    "Handler",
    "NoAnswer",
    "RabbitBroker",
    "Route",
    "connect",
    "control_route",
    "delay_route",
    "delays_for",
    "progress_route",
    "report_route",
    "step_route",
]
