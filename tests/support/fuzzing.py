"""Gives hostile files to whatever reads files of strangers, in a process with little memory and an alarm.

    python -m tests.support.fuzzing FIRST_SEED COUNT

prints a line for every finding, and at the end one of JSON: how many files were read, refused, executions, findings.
"""

import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.preview.core import render_image
from services.preview.files import Volume
from shared.contracts.preview import PreviewOptions
from shared.errors import InternalError, StepError
from shared.science.headers import band_in, gain_in, saturation_in, target_in, time_in
from shared.science.images import quiet_fits, read_image
from shared.science.wcs import usable_wcs
from tests.support.edits import crop_request, fix_request, run_edit
from tests.support.hostile_fits import hostile
from tests.support.previews import plane_of

MEMORY_BYTES: Final = 3 * 2**30
"""What a process that draws pictures has; what runs into it is refused, and not counted as a finding."""

LIMIT_S: Final = 20.0
"""Far below every time limit of the services, far above what any of these small files should need."""


class TooSlowError(BaseException):
    """Raised by the alarm; no handler of errors takes it."""


def _ring(*_: object) -> None:
    raise TooSlowError


def inspect(path: Path, ext: int | None = None) -> None:
    """Read the image, and what its header says, as `inspect` does."""
    _, header = read_image(path, ext)
    for look in (gain_in, band_in, time_in):
        look(header, lambda *_: None)
    saturation_in(header, 100.0, lambda *_: None)
    target_in(header)
    header["NAXIS1"], header["NAXIS2"] = 32, 32
    usable_wcs(header)


def preview(path: Path) -> None:
    """Draw it, as the preview service does."""
    volume = Volume(path.parent / "preview", reserve_bytes=0)
    volume.cache.folder.mkdir(parents=True, exist_ok=True)
    render_image(plane_of(volume, path), PreviewOptions(width=16))


@quiet_fits()
def crop(path: Path) -> None:
    """Crop it."""
    run_edit(path.parent, crop_request(x1=1, y1=1, x2=3, y2=3))


@quiet_fits()
def fix(path: Path) -> None:
    """Repair its header."""
    run_edit(path.parent, fix_request())


READERS: Final[dict[str, Callable[[Path], None]]] = {
    "inspect": inspect,
    "extension": lambda path: inspect(path, 1),
    "preview": preview,
    "crop": crop,
    "fix": fix,
}


def run(reader: Callable[[Path], None], path: Path) -> str:
    """Let one reader read a file.

    Returns
    -------
    str
        `read`, `refused`, or what is wrong with the reader.
    """
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        reader(path)
    except InternalError:
        return traceback.format_exc()
    except (StepError, MemoryError):
        return "refused"
    except TooSlowError:
        return f"slower than {LIMIT_S:g} s:\n{traceback.format_exc()}"
    except Exception:  # noqa: BLE001  whatever it is, it is what is looked for
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def main(first: int, count: int) -> None:
    """Read so many files."""
    signal.signal(signal.SIGALRM, _ring)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    outcomes: Counter[str] = Counter()
    began, slowest = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            with quiet_fits():
                content = hostile(seed)
            for name, reader in READERS.items():
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    path = Path(place) / "image.fits"
                    path.write_bytes(content)
                    at = time.monotonic()
                    outcome = run(reader, path)
                    slowest = max(slowest, time.monotonic() - at)
                if outcome not in {"read", "refused"}:
                    sys.stderr.write(f"--- seed {seed}, {name}: {outcome}\n")
                    outcome = "findings"
                outcomes[outcome] += 1
    told = {
        "first_seed": first,
        "files": count,
        "seconds": round(time.monotonic() - began, 1),
        "slowest_s": round(slowest, 2),
    }
    told |= {name: outcomes[name] for name in ("read", "refused", "findings")}
    told["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps(told) + "\n")
    sys.exit(1 if outcomes["findings"] else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
