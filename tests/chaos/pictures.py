"""Small images for the load: cheap to inspect, one of them with a catalogue to measure it by, and a bad one."""

from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits

from stdweb.sky import simulate

from .load import Picture

_CHEAP_SIDES_PIX: Final = (96, 128, 192)
_DEAR_SIDE_PIX: Final = 512


def make_pictures(folder: Path, mirror: Path) -> list[Picture]:
    """Draw them; the cheap ones appear more than once, so that they are chosen more often."""
    found = []
    for number, side in enumerate(_CHEAP_SIDES_PIX):
        drawn = simulate(folder / f"cheap-{side}", size=side, seed=number, filter="R")
        found += 2 * [Picture(f"cheap-{side}", drawn.image)]
    drawn = simulate(
        folder / "dear", size=_DEAR_SIDE_PIX, seed=7, ra_deg=150.0, dec_deg=20.0, filter="R", mirror_dir=mirror
    )
    found += 2 * [Picture("dear", drawn.image, dear=True)]
    bad = folder / "constant.fits"
    fits.PrimaryHDU(np.full((64, 64), 7, np.int16)).writeto(bad)
    return [*found, Picture("constant", bad, good=False)]
