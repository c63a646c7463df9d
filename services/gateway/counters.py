"""What a gateway counts of the steps that it brings on; each its own, to be added up."""

from typing import Final

from prometheus_client import Counter

from shared.contracts.steps import STEPS
from shared.metrics import REGISTRY

ARRIVALS: Final = Counter("stdweb_step_arrivals", "Steps whose turn has come", ["step"], registry=REGISTRY)
RETRIES: Final = Counter(
    "stdweb_step_retries", "Attempts given up because nothing was heard of them", ["step"], registry=REGISTRY
)
DEAD: Final = Counter(
    "stdweb_dead_letters",
    "Messages that no worker could take, by step; none for what is no step",
    ["step"],
    registry=REGISTRY,
)
NO_STEP: Final = "none"
UNREADABLE: Final = Counter(
    "stdweb_unreadable_messages", "Messages of services that were dropped unread", ["kind"], registry=REGISTRY
)

DEAD.labels(NO_STEP)
for _name in STEPS:  # shown at zero: the first one counts as a change only then
    for _counter in (ARRIVALS, RETRIES, DEAD):
        _counter.labels(_name)
