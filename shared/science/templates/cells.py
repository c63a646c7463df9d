"""Which pieces of a survey lie on a frame: skycells of Pan-STARRS, bricks of the Legacy Survey, blocks of any HiPS.

The positions of skycells and bricks come with STDPipe; no archive is asked where they are.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from stdpipe.utils import get_data_path

from ..astrometry_sip import tangent_plane
from ..wcs import field_of, pixel_scale_deg

Floats = NDArray[np.float64]

_MAX_SAMPLES: Final = 200
_SAMPLES_PER_CELL: Final = 20
_BLOCK_MARGIN: Final = 0.05
"""How much larger the picture of a block is than the block, as a fraction, so that neighbours overlap."""


@dataclass(frozen=True)
class CellTable:
    """Square cells on the sky, north about up.

    Parameters
    ----------
    name
        Of each.
    ra_deg, dec_deg
        Centres, ICRS.
    half_deg
        Half the side.
    turn_deg
        How much the sides may be turned against north, as a multiple of the tangent of the declination.
    """

    name: NDArray[Any]
    ra_deg: Floats
    dec_deg: Floats
    half_deg: float
    turn_deg: float

    @functools.cached_property
    def _centres(self) -> Floats:
        return _direction(self.ra_deg, self.dec_deg)

    def covers(self, ra_deg: float, dec_deg: float) -> bool:
        """Tell whether a cell lies at a position."""
        return bool(self._near(np.array([ra_deg]), np.array([dec_deg]), 0.0).size)

    def on(self, wcs: WCS, shape: tuple[int, int]) -> NDArray[np.intp]:
        """List the cells that lie on a frame of `shape`, those in its middle first."""
        ra, dec, spacing_deg = sky_samples(wcs, shape, 2 * self.half_deg)
        found = self._near(ra, dec, spacing_deg)
        centre_ra, centre_dec, _ = field_of(wcs, shape)
        distance = np.hypot(*tangent_plane(self.ra_deg[found], self.dec_deg[found], centre_ra, centre_dec))
        return found[np.argsort(distance, kind="stable")]

    def _near(self, ra_deg: Floats, dec_deg: Floats, margin_deg: float) -> NDArray[np.intp]:
        """List the cells that one of the positions lies in, or within a margin of."""
        points, cells = _direction(ra_deg, dec_deg), self._centres
        centre = points.mean(axis=0)
        centre /= np.linalg.norm(centre)
        reach_deg = np.degrees(np.arccos(np.clip((points @ centre).min(), -1, 1))) + 2 * self.half_deg + margin_deg
        found = []
        for k in np.flatnonzero(cells @ centre > math.cos(math.radians(reach_deg))):
            close = points @ cells[k] > math.cos(math.radians(2 * self.half_deg + margin_deg))
            if not close.any():
                continue
            xi, eta = tangent_plane(ra_deg[close], dec_deg[close], self.ra_deg[k], self.dec_deg[k])
            turn = math.radians(min(self.turn_deg * math.tan(math.radians(min(abs(self.dec_deg[k]), 89.9))), 45.0))
            half_deg = self.half_deg * (math.cos(turn) + math.sin(turn)) + margin_deg
            if (np.maximum(np.abs(xi), np.abs(eta)) <= half_deg).any():
                found.append(k)
        return np.array(found, dtype=np.intp)


@functools.cache
def ps1_skycells() -> CellTable:
    """Give all skycells, named `projection.cell`: ten by ten of 0.4 degrees in each projection, and an overlap."""
    rows = np.loadtxt(get_data_path("ps1skycells.txt"))
    name = np.array([f"{int(projection):04d}.{int(cell):03d}" for projection, cell in rows[:, 2:]])
    return CellTable(name, rows[:, 0].copy(), rows[:, 1].copy(), half_deg=0.2175, turn_deg=2.1)


@functools.cache
def legacy_bricks() -> CellTable:
    """Give all bricks, named `S/…` for those of DR10 and `N/…` for those of DR9 where there are no others."""
    with fits.open(get_data_path("legacysurvey_bricks.fits.gz"), memmap=False) as hdus:
        rows = np.array(hdus[1].data)
    south = rows["survey"].astype("U1") == "S"
    rows, south = rows[np.argsort(~south, kind="stable")], np.sort(~south) == 0
    _, first = np.unique(rows["brickname"], return_index=True)
    rows, south = rows[first], south[first]
    name = np.char.add(np.where(south, "S/", "N/"), rows["brickname"].astype("U8"))
    return CellTable(name, rows["ra"].astype(float), rows["dec"].astype(float), half_deg=0.131, turn_deg=0.0)


@dataclass(frozen=True)
class Block:
    """A field of a fixed division of the sky, and the square picture of it that is asked for.

    Parameters
    ----------
    name
        Row from the south pole and column from RA 0, with the rows' count.
    ra_deg, dec_deg
        Centre, ICRS.
    side_deg
        Of the picture.
    """

    name: str
    ra_deg: float
    dec_deg: float
    side_deg: float


def blocks_on(wcs: WCS, shape: tuple[int, int], side_deg: float) -> list[Block]:
    """List the blocks of about `side_deg` that lie on a frame, those in its middle first.

    Rows of equal height in declination are cut into columns that are about as wide, so that neighbouring fields ask
    for the same blocks.
    """
    rows = math.ceil(180 / side_deg)
    height_deg = 180 / rows
    ra, dec, _ = sky_samples(wcs, shape, height_deg)
    row = np.clip(np.floor((dec + 90) / height_deg).astype(int), 0, rows - 1)
    count = np.array([_columns(r, height_deg) for r in range(rows)])[row]
    column = np.floor((ra % 360) / 360 * count).astype(int) % count
    found = [_block(int(r), int(c), rows) for r, c in sorted(set(zip(row.tolist(), column.tolist(), strict=True)))]
    centre = _direction(*(np.array([value]) for value in field_of(wcs, shape)[:2]))[0]
    return sorted(found, key=lambda b: -float(_direction(np.array([b.ra_deg]), np.array([b.dec_deg]))[0] @ centre))


def sky_samples(wcs: WCS, shape: tuple[int, int], cell_deg: float) -> tuple[Floats, Floats, float]:
    """Give positions all over a frame, and the largest distance from anywhere on it to the next of them.

    Parameters
    ----------
    wcs, shape
        Of the frame.
    cell_deg
        Side of the cells that are looked for: there are twenty positions along each.
    """
    scale_deg = pixel_scale_deg(wcs)
    axes, spacing_deg = [], 0.0
    for length in reversed(shape):
        count = min(max(math.ceil(length * scale_deg / cell_deg * _SAMPLES_PER_CELL), 2), _MAX_SAMPLES)
        axes.append(np.linspace(-0.5, length - 0.5, count))
        spacing_deg = max(spacing_deg, length / (count - 1) * scale_deg)
    x, y = (values.ravel() for values in np.meshgrid(*axes))
    ra, dec = wcs.all_pix2world(x, y, 0)
    known = np.isfinite(ra) & np.isfinite(dec)
    return ra[known], dec[known], spacing_deg / math.sqrt(2)


def _columns(row: int, height_deg: float) -> int:
    """Give the number of blocks in a row, by its longer edge."""
    edges = [abs(row * height_deg - 90), abs((row + 1) * height_deg - 90)]
    return max(math.ceil(360 * math.cos(math.radians(min(edges))) / height_deg - 1e-9), 1)


def _block(row: int, column: int, rows: int) -> Block:
    height_deg = 180 / rows
    width_deg = 360 / _columns(row, height_deg)
    ra_deg, dec_deg = (column + 0.5) * width_deg, (row + 0.5) * height_deg - 90
    along = np.linspace(-0.5, 0.5, 9)
    ra = np.concatenate([ra_deg + along * width_deg] * 2)
    dec = np.repeat([dec_deg - height_deg / 2, dec_deg + height_deg / 2], along.size)
    half_deg = float(np.abs(tangent_plane(ra, dec, ra_deg, dec_deg)).max())
    return Block(f"{rows}-{row}-{column}", ra_deg, dec_deg, 2 * half_deg * (1 + 2 * _BLOCK_MARGIN))


def _direction(ra_deg: Floats, dec_deg: Floats) -> Floats:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
