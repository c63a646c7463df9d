"""Working behind those who answer people, where both share a machine."""

import contextlib
import os
from pathlib import Path
from typing import Final

NICENESS: Final = 10
_AUTOGROUP: Final = Path("/proc/self/autogroup")


def work_gently() -> None:
    """Let whoever is asked something go first: the gateway, pictures, and whatever else the machine is for.

    The kernel may share the processor among sessions (sched(7), "The autogroup feature"); niceness then counts only
    within one. So whoever begins a session calls this anew.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):  # a kernel without, or one that was asked too often
        _AUTOGROUP.write_text(str(NICENESS))
