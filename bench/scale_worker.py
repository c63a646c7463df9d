"""A worker whose steps only sleep, for `scale.py`: `python -m scale_worker`, with `SCALE_SLEEP` in the environment.

`SCALE_SLEEP` holds pairs like `photometry=0.5,inspect=0`: the steps that this process takes, and how long each lasts,
seconds.
"""

import os
import time
from typing import Any

from shared.contracts.steps import STEPS
from shared.worker.runtime import main
from shared.worker.step import StepContext, StepSpec


def spec(name: str, seconds: float) -> StepSpec:
    """Make a step that sleeps."""

    def run(_: StepContext) -> dict[str, Any]:
        time.sleep(seconds)
        return {}

    return StepSpec(STEPS[name], run, lambda: None)


if __name__ == "__main__":
    pairs = (pair.split("=") for pair in os.environ["SCALE_SLEEP"].split(","))
    main("sleep", [spec(name, float(seconds)) for name, seconds in pairs])
