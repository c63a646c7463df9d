"""Memory of processes over time, and the judge of whether it stays."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import psutil

WARM_UP: Final = 0.25  # of the whole time
_ENDS: Final = 0.27  # of the rest, a fifth of all: its beginning is compared with its end
FLAT: Final = 0.05
_LEAST: Final = 5  # samples in a comparison
_MIB: Final = 2**20
_OTHERS: Final = ("broker", "store")
"""Not ours: told, not judged."""


@dataclass
class Series:
    """Resident memory of a process, or of several that do the same, at equal distances of time.

    Parameters
    ----------
    pids
        Which they were, each time.
    """

    sizes: list[int] = field(default_factory=list)
    pids: list[tuple[int, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """What became of a process's memory, bytes."""

    name: str
    first: float
    last: float
    longest: int
    bad: str = ""

    @property
    def growth(self) -> float:
        """How much it grew, as a fraction."""
        return self.last / self.first - 1

    def row(self) -> str:
        """Write a row of a table in Markdown."""
        sizes = " | ".join(f"{size / _MIB:.1f}" for size in (self.first, self.last, self.longest))
        return f"| {self.name} | {sizes} | {100 * self.growth:+.1f} | {self.bad or 'flat'} |"


HEAD: Final = (
    "| process | after warm-up, MiB | at the end, MiB | most, MiB | growth, % | |",
    "|---|---|---|---|---|---|",
)


def judge(series: Mapping[str, Series], steady: Sequence[str] = ()) -> list[Verdict]:
    """Compare the beginning of each series, after the warm-up, with its end.

    Parameters
    ----------
    steady
        Which must have stayed the same processes; others are replaced now and then, on purpose.

    Raises
    ------
    ValueError
        When there are too few samples to tell.
    """
    return [_verdict(name, one, name in steady) for name, one in sorted(series.items())]


def _verdict(name: str, series: Series, steady: bool) -> Verdict:
    warm = series.sizes[round(WARM_UP * len(series.sizes)) :]
    part = round(_ENDS * len(warm))
    if part < _LEAST:
        raise ValueError(f"{name}: {len(series.sizes)} samples are too few")
    first, last = median(warm[:part]), median(warm[-part:])
    bad = ""
    if name in _OTHERS:
        bad = "not judged"
    elif steady and len(set(series.pids)) > 1:
        bad = "DIED"
    elif last > (1 + FLAT) * first:
        bad = "GREW"
    return Verdict(name, first, last, max(series.sizes), bad)


class Sampler:
    """Reads the memory of the processes of a stack.

    The processes of single steps come and go, and are counted nowhere; what forks them is.
    """

    def __init__(self) -> None:
        self.series: defaultdict[str, Series] = defaultdict(Series)
        self.main: set[str] = set()

    def sample(self, components: Mapping[str, int]) -> None:
        """Read once.

        Parameters
        ----------
        components
            Process ids of the components, by name.
        """
        for component, pid in components.items():
            self.main.add(component)
            self._add(component, [pid])
            helpers: defaultdict[str, list[int]] = defaultdict(list)
            for child in psutil.Process(pid).children(recursive=True):
                if role := _role(child.pid):
                    helpers[role].append(child.pid)
            for role, pids in helpers.items():
                self._add(f"{component}: {role}", pids)

    def _add(self, name: str, pids: list[int]) -> None:
        sizes = [size for pid in pids if (size := _resident(pid))]
        if sizes:
            self.series[name].sizes.append(max(sizes))
            self.series[name].pids.append(tuple(pids))


def _role(pid: int) -> str:
    """Name what a process below a component does; nothing for those of single steps, and of the broker."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return next((role for role in ("fork server", "watchdog", "renderer") if role in command), "")


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
