"""How many cores a process may use: those that it may run on, or fewer where its container has a share of them."""

import os
from math import ceil
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota: Path = _QUOTA) -> int:
    """Count them; a limit of one and a half counts as two.

    Parameters
    ----------
    quota
        The file of the kernel (cgroup v2) that tells the container's limit: microseconds a period, and the period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, ceil(int(allowed) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores
