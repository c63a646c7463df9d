"""World coordinates: which of a header's are usable, and where on the sky a frame lies."""

import math
from typing import Final

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, NoConvergence, WcsError
from astropy.wcs.utils import proj_plane_pixel_area, proj_plane_pixel_scales, wcs_to_celestial_frame
from mocpy import MOC
from numpy.typing import NDArray

from .astrometry_sip import fit_sip
from .images import FITS_FAULTS, quiet_fits
from .plates import has_plate_solution, plate_positions

MAX_PIXEL_SCALE_ARCSEC: Final = 100.0
"""A header with coarser pixels is taken for an all-sky image, or for wrong."""

_FAULTS: Final = (*FITS_FAULTS, NoConvergence, WcsError, RuntimeError, MemoryError)
_ROUND_TRIP_PIX: Final = 0.5
_CONVERSION_PIX: Final = 0.02
_CONVERSION_ORDERS: Final = (1, 3, 5, 7)
_GRID: Final = 15
_PLATE_ORDER: Final = 4
_DEFAULT_SIDE_PIX: Final = 1024
_MOC_CELLS: Final = 40
"""Cells of the coverage map along the radius of the frame, at least."""

_MOC_DEPTHS: Final = (5, 14)
_EDGE_POINTS: Final = 6


def usable_wcs(header: fits.Header) -> WCS | None:
    """Give the header's world coordinates if they are celestial, invertible and finer than 100 arcsec a pixel.

    Plate solutions, TPV, TNX and other distortions than SIP, and other frames than ICRS or FK5 J2000, are turned into
    an ICRS TAN-SIP solution, so that all later programs read the same.

    Returns
    -------
    WCS or None
        None when the header has none that can be used.
    """
    with quiet_fits():
        if has_plate_solution(header):
            return _plate_wcs(header)
        for candidate in _variants(header):
            try:
                wcs = WCS(candidate, naxis=2)
                if not _is_sane(wcs, _shape(header)):
                    continue
                wcs = _normalized(wcs, _shape(header))
            except _FAULTS:
                continue
            if _is_sane(wcs, _shape(header)):
                return wcs
    return None


def pixel_scale_deg(wcs: WCS) -> float:
    """Give the geometric mean of the pixel's sides at the reference point, degrees."""
    return math.sqrt(float(proj_plane_pixel_area(wcs.celestial)))


def wcs_header(wcs: WCS) -> fits.Header:
    """Write the solution as header cards, distortion included."""
    with quiet_fits():
        header = wcs.to_header(relax=True)
    if wcs.pixel_shape is not None:
        header.insert(0, ("NAXIS2", int(wcs.pixel_shape[1])))
        header.insert(0, ("NAXIS1", int(wcs.pixel_shape[0])))
        header.insert(0, ("NAXIS", 2))
    return header


def pixel_of(wcs: WCS, ra_deg: float, dec_deg: float) -> tuple[float, float]:
    """Give the 0-based pixel of a position; NaN where the projection does not reach."""
    with quiet_fits():
        try:
            x, y = wcs.all_world2pix([ra_deg], [dec_deg], 0)
        except _FAULTS:
            return math.nan, math.nan
    return float(x[0]), float(y[0])


def field_of(wcs: WCS, shape: tuple[int, int]) -> tuple[float, float, float]:
    """Locate a frame on the sky.

    Parameters
    ----------
    wcs
        Its solution.
    shape
        (rows, columns).

    Returns
    -------
    ra_deg, dec_deg, radius_deg
        Centre, and the distance to the farthest corner.
    """
    rows, columns = shape
    x = np.array([(columns - 1) / 2, -0.5, columns - 0.5, -0.5, columns - 0.5])
    y = np.array([(rows - 1) / 2, -0.5, -0.5, rows - 0.5, rows - 0.5])
    sky = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg")
    return float(sky[0].ra.deg), float(sky[0].dec.deg), float(sky[0].separation(sky[1:]).deg.max())


def field_moc(wcs: WCS, shape: tuple[int, int]) -> MOC:
    """Map the sky that a frame covers, at a resolution of a fortieth of its radius or better."""
    rows, columns = shape
    along = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    x = np.concatenate([along, np.ones(_EDGE_POINTS), 1 - along, np.zeros(_EDGE_POINTS)]) * columns - 0.5
    y = np.concatenate([np.zeros(_EDGE_POINTS), along, np.ones(_EDGE_POINTS), 1 - along]) * rows - 0.5
    ra, dec = wcs.all_pix2world(x, y, 0)
    *_, radius_deg = field_of(wcs, shape)
    cell_deg = max(radius_deg, 1e-6) / _MOC_CELLS
    depth = min(max(math.ceil(math.log2(58.6 / cell_deg)), _MOC_DEPTHS[0]), _MOC_DEPTHS[1])  # 58.6 deg: cell of depth 0
    return MOC.from_polygon(ra * units.deg, dec * units.deg, max_depth=depth)


def moc_string(moc: MOC) -> str:
    """Write a coverage map in the compact notation of the IVOA standard, such as `9/1-3 5 10/7`."""
    return " ".join(str(moc.to_string(format="ascii")).split())


def _plate_wcs(header: fits.Header) -> WCS | None:
    rows, columns = _shape(header)
    x, y = _grid((rows, columns))
    try:
        ra, dec = plate_positions(header, x, y)
        wcs = fit_sip(x, y, ra, dec, shape=(rows, columns), order=_PLATE_ORDER)
        return wcs if _is_sane(wcs, (rows, columns)) else None
    except _FAULTS:
        return None


def _grid(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, _GRID), np.linspace(0, shape[0] - 1, _GRID))
    return x.ravel(), y.ravel()


def _shape(header: fits.Header) -> tuple[int, int]:
    sides = [header.get(key) for key in ("NAXIS2", "NAXIS1")]
    rows, columns = (side if isinstance(side, int) and side > 0 else _DEFAULT_SIDE_PIX for side in sides)
    return rows, columns


def _variants(header: fits.Header) -> list[fits.Header]:
    """Give the header, and what is left of it without its distortions; nothing where it cannot describe a solution."""
    plain = _numeric(header)
    if plain is None:
        return []
    ctype = [str(plain.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2)]
    has_sip = "A_ORDER" in plain and "B_ORDER" in plain
    if has_sip:
        # coefficients are applied whatever the type says, so the type had better say it; PV terms are then leftovers
        for axis, kind in enumerate(ctype, 1):
            plain[f"CTYPE{axis}"] = kind if kind.endswith("-SIP") else f"{kind}-SIP"
        _drop(plain, ("PV",))
    bare = plain.copy()
    _drop(bare, ("A_", "B_", "AP_", "BP_", "PV", "WAT", "CPDIS", "CQDIS", "DP", "DQ", "D2IM"))
    for axis, kind in enumerate(ctype, 1):
        for distorted in ("-SIP", "TPV", "TNX"):
            kind = kind.replace(distorted, "" if distorted == "-SIP" else "TAN")  # noqa: PLW2901
        if kind:
            bare[f"CTYPE{axis}"] = kind
    return [plain, bare]


def _drop(header: fits.Header, stems: tuple[str, ...]) -> None:
    for key in list(header):
        stem = key.rstrip("0123456789_")
        if any(stem in (name, name.rstrip("_")) or key.startswith(f"{name}ORDER") for name in stems):
            header.remove(key, ignore_missing=True, remove_all=True)


def _numeric(header: fits.Header) -> fits.Header | None:
    """Copy a header with numbers that were written as strings read; None when one that matters is no number."""
    copy = header.copy()
    if not all(f"{stem}{axis}" in copy for stem in ("CTYPE", "CRVAL", "CRPIX") for axis in (1, 2)):
        return None
    for key in dict.fromkeys(copy):  # once each, also where a card is repeated
        if key.rstrip("0123456789_") in {"CRVAL", "CRPIX", "CDELT", "CROTA", "CD", "PC", "PV", "EQUINOX", "LONPOLE"}:
            try:
                value = float(copy[key])
            except (ValueError, TypeError):
                if key == "EQUINOX":
                    copy.remove(key, remove_all=True)
                    continue
                return None
            if not math.isfinite(value):
                return None
            if isinstance(copy[key], str):
                copy[key] = value
    if any(key.startswith(("CD1_", "CD2_")) for key in copy):
        _drop(copy, ("PC",))  # the standard forbids both
    linear = [key for key in copy if key.startswith(("CD1_", "CD2_", "PC1_", "PC2_", "CDELT"))]
    return copy if linear else None


def _is_sane(wcs: WCS, shape: tuple[int, int]) -> bool:
    if not wcs.has_celestial:
        return False
    scales_arcsec = np.asarray(proj_plane_pixel_scales(wcs.celestial)) * 3600
    if not (np.isfinite(scales_arcsec).all() and (scales_arcsec > 0).all()):
        return False
    if scales_arcsec.max() >= MAX_PIXEL_SCALE_ARCSEC:
        return False
    rows, columns = shape
    x = np.array([(columns - 1) / 2, 0, columns - 1, 0, columns - 1])
    y = np.array([(rows - 1) / 2, 0, 0, rows - 1, rows - 1])
    sky = wcs.all_pix2world(x, y, 0)
    if not np.isfinite(sky).all():
        return False
    back_x, back_y = wcs.all_world2pix(*sky, 0)
    return bool(np.hypot(back_x - x, back_y - y).max() < _ROUND_TRIP_PIX)


def _normalized(wcs: WCS, shape: tuple[int, int]) -> WCS:
    """Give an equivalent TAN or TAN-SIP solution in ICRS; the same object if it is one."""
    written = wcs.to_header(relax=True)  # where wcslib says what it made of TAN with PV terms, or of a plate solution
    kinds = [str(written[f"CTYPE{axis}"]) for axis in (1, 2)]
    frame = wcs_to_celestial_frame(wcs)
    equatorial = frame.name == "icrs" or (frame.name == "fk5" and abs(frame.equinox.jyear - 2000) < 1e-3)  # noqa: PLR2004
    plain = all(kind.removesuffix("-SIP") in {"RA---TAN", "DEC--TAN"} for kind in kinds)
    bent = any(table is not None for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2))
    if equatorial and plain and kinds[0].startswith("RA") and not bent and "DQ1" not in written:
        return wcs
    x, y = _grid(shape)
    world = wcs.all_pix2world(x, y, 0)
    sky = SkyCoord(world[wcs.wcs.lng], world[wcs.wcs.lat], unit="deg", frame=frame)
    # FK5 J2000 is taken for ICRS, as catalogue matching absorbs the few hundredths of an arcsecond
    sky = sky if equatorial else sky.icrs
    ra, dec = np.asarray(sky.spherical.lon.deg), np.asarray(sky.spherical.lat.deg)
    best: WCS | None = None
    for order in _CONVERSION_ORDERS:
        best = fit_sip(x, y, ra, dec, shape=shape, order=order)
        near_x, near_y = best.all_world2pix(ra, dec, 0)
        if np.hypot(near_x - x, near_y - y).max() < _CONVERSION_PIX:
            return best
    return wcs if equatorial or best is None else best
