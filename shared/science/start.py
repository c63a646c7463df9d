"""What a step service does once, in its fork server, before its first step."""

import os
from pathlib import Path

import structlog

from .archives import apply_ca_bundle
from .selftest import self_test

log = structlog.get_logger()


def prepare() -> None:
    """Trust the site's certificates and try the science stack.

    Raises
    ------
    InternalError
        When results would be wrong or no step could run.
    """
    bundle = os.environ.get("STDWEB_CA_BUNDLE")
    apply_ca_bundle(Path(bundle) if bundle else None)
    for problem in self_test():
        log.warning("self-test", problem=problem)
