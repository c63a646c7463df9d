"""Candidate transients, however they were found: the cone to search, known bodies, names, regions, and their JSON."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from ..contracts.bands import magnitude_system
from ..contracts.results import Candidate, Candidates
from ..errors import UsageError
from ..worker.step import StepContext
from .catalogs.sky import distance_deg
from .crossmatch import DES, GAIA, PS1, SKYMAPPER, Survey
from .matching import all_pairs
from .skybot import known_bodies
from .solution import Inputs
from .targets import resolve_targets

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_CANDIDATES: Final = 100
PS1_SOUTHERN_LIMIT_DEG: Final = -30.0
_MIN_RADIUS_ARCSEC: Final = 0.5
_SKYBOT_RADIUS_DEG: Final = 10 / 3600
"""As STDPipe's: ephemerides are geocentric, and bodies move while the image is taken."""


def matching_radius_deg(fwhm_pix: float, pixscale_deg: float, rms_arcsec: float) -> float:
    """Give half of the FWHM, as STDPipe does, or three times the astrometric residual."""
    return max(0.5 * fwhm_pix * pixscale_deg, 3 * rms_arcsec / 3600, _MIN_RADIUS_ARCSEC / 3600)


def surveys_for(dec_deg: Floats) -> list[Survey]:
    """List the surveys to ask for positions: Gaia everywhere, Pan-STARRS where it reaches, others in the south."""
    surveys = [GAIA]
    if (dec_deg > PS1_SOUTHERN_LIMIT_DEG).any():
        surveys.append(PS1)
    if (dec_deg < 0).any():
        surveys.extend((SKYMAPPER, DES))
    return surveys


def near_any(table: Table, ra_deg: ArrayLike, dec_deg: ArrayLike, radius_deg: float) -> Bools:
    """Tell which objects are near any of some positions."""
    near = np.zeros(len(table), bool)
    near[all_pairs(table["ra"], table["dec"], ra_deg, dec_deg, radius_deg)[0]] = True
    return near


def cone_of(
    ctx: StepContext, inputs: Inputs, center: str | None, radius_deg: float | None, *, keys: tuple[str, str]
) -> tuple[float, float, float] | None:
    """Give centre and radius of the cone to search, degrees; None when there is none.

    Parameters
    ----------
    center
        As the user gave it; None takes the centre of the image.
    keys
        Names of the options of centre and radius, for users.

    Raises
    ------
    UsageError
        For a centre without a radius, or a cone that does not touch the frame.
    """
    if center is None and radius_deg is None:
        return None
    if radius_deg is None:
        raise UsageError("no_radius", f"{keys[0]} was given without a radius; give {keys[1]} in degrees as well.")
    ra, dec, field_deg = inputs.field
    if center is None:
        ctx.log(f"No {keys[0]}: the cone is around the centre of the image")
    else:
        if len(center.splitlines()) > 1:
            raise UsageError("bad_target", f"{keys[0]} names more than one position; give one.")
        found = resolve_targets(center, inputs.wcs, ctx.resources, ctx.log)[0]
        ra, dec = found.ra_deg, found.dec_deg
    away_deg = float(distance_deg(inputs.field[0], inputs.field[1], np.array([ra]), np.array([dec]))[0])
    if not away_deg <= field_deg + radius_deg:
        text = (
            f"The cone of {radius_deg:g} deg around {keys[0]} does not touch the image, whose centre is at RA "
            f"{inputs.field[0]:.4f} Dec {inputs.field[1]:+.4f}, {away_deg:.3f} deg away; change it or leave it out."
        )
        raise UsageError("cone_outside", text)
    return ra, dec, radius_deg


def in_cone(ctx: StepContext, table: Table, cone: tuple[float, float, float] | None) -> Table:
    """Keep objects in a cone; all when there is none."""
    if cone is None:
        return table
    ra_deg, dec_deg, radius_deg = cone
    inside = distance_deg(ra_deg, dec_deg, _floats(table["ra"]), _floats(table["dec"])) <= radius_deg
    ctx.log(f"{inside.sum()} within {radius_deg:g} deg of RA {ra_deg:.5f} Dec {dec_deg:+.5f}")
    return table[np.asarray(inside)]


def without_bodies(ctx: StepContext, table: Table, inputs: Inputs, time: str | None, *, key: str) -> Table:
    """Drop known bodies of the solar system.

    Parameters
    ----------
    key
        Name of the option, for users.

    Raises
    ------
    UsageError
        When the time of the observation is not known.
    """
    if time is None:
        text = f"SkyBoT needs the time of the observation, which is not known; set time, or switch {key} off."
        raise UsageError("no_time", text)
    if not len(table):
        return table
    bodies = known_bodies(*inputs.field, time, resources=ctx.resources, log=ctx.log)
    ra, dec = [body.ra_deg for body in bodies], [body.dec_deg for body in bodies]
    here = near_any(table, ra, dec, _SKYBOT_RADIUS_DEG)
    ctx.log(f"{(~here).sum()} are none of the {len(bodies)} known bodies in the field")
    return table[~here]


def names_of(table: Table) -> list[str]:
    """Name objects by their positions, as STDPipe does."""
    if not len(table):
        return []
    sky = SkyCoord(_floats(table["ra"]), _floats(table["dec"]), unit="deg")
    ra = sky.ra.to_string(unit="hourangle", sep="", precision=2, pad=True)
    dec = sky.dec.to_string(unit="deg", sep="", precision=1, alwayssign=True, pad=True)
    return [f"J{first}{second}" for first, second in zip(ra, dec, strict=True)]


def named(table: Table, time: str | None) -> Table:
    """Put the name in front and the time of the observation, when it is known, behind."""
    table.add_column(np.array(names_of(table), dtype="U32"), index=0, name="name")
    if time is not None:
        table["time"] = np.full(len(table), time)
    return table


def regions(table: Table, radius_arcsec: float) -> str:
    """Write objects as regions of ds9."""
    lines = [
        "# Region file format: DS9 version 4.1",
        'global color=green width=1 font="helvetica 10 normal roman"',
        "icrs",
    ]
    lines += [
        f'circle({row["ra"]:.6f},{row["dec"]:.6f},{radius_arcsec:.2f}") # text={{{row["name"]}}}' for row in table
    ]
    return "\n".join(lines) + "\n"


def report(ctx: StepContext, table: Table) -> None:
    """Say in the log what the candidates are."""
    for row in table:
        ctx.log(
            f"Candidate {row['name']} at x={row['x']:.1f} y={row['y']:.1f}: "
            f"{row['mag_calib']:.3f} ± {row['mag_calib_err']:.3f} mag"
        )


def summary(table: Table, cutouts: Sequence[str | None], *, band: str, time: str | None, found: int) -> Candidates:
    """Write candidates as the API gives them.

    Parameters
    ----------
    found
        How many there were before the most of them were chosen.
    """
    return Candidates(
        filter=band,
        mag_system=magnitude_system(band),
        time=None if time is None else f"{time}Z",
        found=found,
        candidates=tuple(_row(row, cutout) for row, cutout in zip(table, cutouts, strict=True)),
    )


def _row(row: Any, cutout: str | None) -> Candidate:
    numbers = {name: float(row[name]) for name in ("ra", "dec", "x", "y", "flux", "fluxerr", "mag_calib")}
    error = float(row["mag_calib_err"])
    return Candidate(
        name=str(row["name"]),
        mag_calib_err=error if np.isfinite(error) else None,
        flags=int(row["flags"]),
        cutout=cutout,
        **numbers,
    )


def _floats(column: ArrayLike) -> Floats:
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)
