"""Small images for the load: cheap to inspect, one of them with a catalogue and a template, and a bad one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits

from stdweb.sky import simulate, simulate_template
from stdweb.sky.template import TEMPLATE_GAIN

_CHEAP_SIDES_PIX: Final = (96, 128, 192)
_DEAR_SIDE_PIX: Final = 512
_BAD_SIDE_PIX: Final = 64


@dataclass(frozen=True)
class Picture:
    """An image that the load uploads.

    Parameters
    ----------
    size_pix
        Its width and height.
    good
        Whether its steps can succeed.
    dear
        Whether it can be measured, which takes seconds.
    template
        An image of the same field, to be subtracted; its gain in e-/ADU.
    """

    name: str
    path: Path
    size_pix: int
    good: bool = True
    dear: bool = False
    template: Path | None = None
    template_gain: float = 1.0


def make_pictures(folder: Path, mirror: Path) -> list[Picture]:
    """Draw them; the cheap ones appear more than once, so that they are chosen more often."""
    found = []
    for number, side in enumerate(_CHEAP_SIDES_PIX):
        drawn = simulate(folder / f"cheap-{side}", size=side, seed=number, filter="R")
        found += 2 * [Picture(f"cheap-{side}", drawn.image, side)]
    drawn = simulate(
        folder / "dear", size=_DEAR_SIDE_PIX, seed=7, ra_deg=150.0, dec_deg=20.0, filter="R", mirror_dir=mirror
    )
    template = folder / "dear" / "template.fits"
    simulate_template(template, drawn)
    dear = Picture("dear", drawn.image, _DEAR_SIDE_PIX, dear=True, template=template, template_gain=TEMPLATE_GAIN)
    bad = folder / "constant.fits"
    fits.PrimaryHDU(np.full((_BAD_SIDE_PIX, _BAD_SIDE_PIX), 7, np.int16)).writeto(bad)
    return [*found, dear, dear, Picture("constant", bad, _BAD_SIDE_PIX, good=False)]
