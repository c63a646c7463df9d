"""Photometry as functions of arrays, tables and options: no files, no archives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from shared.contracts.params import PhotometryParams
from shared.errors import DataError
from shared.science import aperture, headers, limits
from shared.science.catalogs import CatalogColumns
from shared.science.centroid import windowed_centroids
from shared.science.detection import set_magnitudes
from shared.science.matching import blended, correlation_p_value, match_sky
from shared.science.shapes import FLAG_ODD_SHAPE, estimate_fwhm, odd_shapes
from shared.science.zeropoint import Calibrators, Fit, Terms, ZeroPoint, fit_zero_point, set_calibrated

Log = Callable[..., None]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

MIN_SIDE_PIX: Final = 16
MAX_MASKED: Final = 0.99
_ESTIMATED_SATURATION: Final = 0.95
_ACCEPTED_FLAGS: Final = 0x3
"""Near a neighbour, or deblended: good enough when there are no better stars."""
_BLEND_FLUX: Final = 0.03
_BLEND_APERTURES: Final = 1.5
_MAX_P_VALUE: Final = 0.01
_FEWEST_TO_CORRELATE: Final = 5
_MIN_RADIUS_ARCSEC: Final = 0.5
_LIMITS: Final = (10.0, 5.0, 3.0)


@dataclass
class Frame:
    """An image with what is known about its pixels; arrays of one shape.

    Parameters
    ----------
    image, header
        As uploaded, ADU.
    mask, sky_mask
        Bad pixels, and those that sky annuli must avoid as well: without the pixels of detected objects the sky of a
        star at S/N 10 would be too high by 1 % of its flux.
    flat
        Image less its global background, ADU.
    rms
        Noise of the background, ADU.
    gain
        e-/ADU.
    skew
        Skewness of the sky, once objects are measured.
    """

    image: Image
    header: fits.Header
    mask: Mask
    sky_mask: Mask
    flat: Image
    rms: Image
    gain: float
    skew: aperture.Skew | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.image.shape
        return rows, columns

    def covers(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Mask:
        """Tell which positions lie on the image; NaN does not."""
        rows, columns = self.shape
        half = 0.5
        return np.asarray((x > -half) & (x < columns - half) & (y > -half) & (y < rows - half))


@dataclass(frozen=True)
class Aperture:
    """Radii, pixels, and how pixels are weighted; `optimal_fwhm_pix` is None for a plain sum."""

    radius_pix: float
    annulus_pix: tuple[float, float]
    optimal_fwhm_pix: float | None

    @classmethod
    def of(cls, params: PhotometryParams, fwhm_pix: float) -> "Aperture":
        """Scale the options by the FWHM."""
        return cls(
            params.rel_aper * fwhm_pix,
            (params.rel_bg1 * fwhm_pix, params.rel_bg2 * fwhm_pix),
            fwhm_pix if params.optimal_extraction else None,
        )


def check_image(image: Image, mask: Mask) -> None:
    """Refuse images in which nothing can be measured.

    Raises
    ------
    DataError
        Too small, all bad, or constant.
    """
    rows, columns = image.shape
    if min(rows, columns) < MIN_SIDE_PIX:
        text = (
            f"The image has {columns}×{rows} pixels; photometry needs at least {MIN_SIDE_PIX} on each side. "
            "Upload a larger one."
        )
        raise DataError("image_too_small", text)
    good = ~mask & np.isfinite(image)
    if good.mean() < 1 - MAX_MASKED:
        text = (
            f"{100 * (1 - good.mean()):.1f} % of the image is masked or not finite, more than the "
            f"{100 * MAX_MASKED:.0f} % that are allowed; check saturation and custom_mask.fits."
        )
        raise DataError("image_masked", text)
    values = image[good]
    if values.min() == values.max():
        text = f"All good pixels have the same value ({values[0]:g}): there is no signal. Upload another image."
        raise DataError("image_constant", text)


def from_header(params: PhotometryParams, config: Mapping[str, Any], header: fits.Header, log: Log) -> PhotometryParams:
    """Take from the header what was not asked for and `inspect` did not resolve: the step may run alone."""
    found: dict[str, Any] = {}
    if config.get("filter") is None:
        found["filter"] = headers.band_in(header, log)
        log(f"Filter {found['filter']}")
    gain = headers.gain_in(header, log) if params.gain is None else params.gain
    if gain is None:
        log(f"Warning: no gain in the header, {headers.DEFAULT_GAIN:g} e-/ADU is assumed")
    return params.model_copy(update={**found, "gain": gain or headers.DEFAULT_GAIN})


def simple_mask(image: Image, header: fits.Header, saturation_adu: float | None, custom: Mask | None, log: Log) -> Mask:
    """Mask non-finite, saturated and the user's pixels, for a task that was not inspected."""
    bad = ~np.isfinite(image) if custom is None else custom | ~np.isfinite(image)
    if bad.all():
        return bad
    median, highest = float(np.median(image[~bad])), float(image[~bad].max())
    level = saturation_adu or headers.saturation_in(header, median, log)
    if level is None:
        level = median + _ESTIMATED_SATURATION * (highest - median)
        log(f"Saturation level estimated as {level:.0f} ADU")
    with np.errstate(invalid="ignore"):
        return bad | (image >= level)


def describe_shapes(objects: Table, params: PhotometryParams, log: Log) -> float:
    """Flag odd shapes in place and give the FWHM, pixels.

    Raises
    ------
    DataError
        When there are no objects.
    """
    if not len(objects):
        text = f"No objects brighter than {params.sn:g} sigma were found; lower `sn` or `minarea`, or check the image."
        raise DataError("no_objects", text)
    if params.prefilter_detections:
        odd = odd_shapes(objects, log)
        objects["flags"][odd] |= FLAG_ODD_SHAPE
        log(f"Shape filter: {odd.sum()} of {len(objects)} detections are odd")
    if params.fwhm_override is not None:
        log(f"FWHM set to {params.fwhm_override:.2f} pixels")
        return params.fwhm_override
    fwhm_pix = estimate_fwhm(objects, log)
    if fwhm_pix is None:
        text = "No object has a measurable size, so the FWHM is unknown; set `fwhm_override`."
        raise DataError("no_fwhm", text)
    log(f"FWHM is {fwhm_pix:.2f} pixels")
    return fwhm_pix


def measure_objects(objects: Table, frame: Frame, plan: Aperture, fwhm_pix: float) -> None:
    """Recentre and measure objects in place, and keep the skewness of their sky in the frame."""
    mask = frame.mask if frame.mask.any() else None
    x, y = windowed_centroids(frame.flat, np.asarray(objects["x"]), np.asarray(objects["y"]), fwhm_pix, mask)
    objects["x"], objects["y"] = x, y
    found = measure(frame, x, y, plan)
    frame.skew = found.skew
    objects["flux"], objects["fluxerr"] = found.flux, found.fluxerr
    objects["bg_local"], objects["npix_aper"] = found.sky, found.npix
    objects["flags"] = np.asarray(objects["flags"], np.int32) | found.flags
    set_magnitudes(objects)


def measure(frame: Frame, x: NDArray[np.float64], y: NDArray[np.float64], plan: Aperture) -> aperture.Photometry:
    """Measure positions as planned."""
    return aperture.measure(
        frame.flat,
        frame.rms,
        frame.mask,
        x,
        y,
        radius_pix=plan.radius_pix,
        annulus_pix=plan.annulus_pix,
        gain=frame.gain,
        optimal_fwhm_pix=plan.optimal_fwhm_pix,
        sky_mask=frame.sky_mask,
        skew=frame.skew,
    )


def bright_enough(objects: Table, sn: float, log: Log) -> Table:
    """Keep objects with a positive flux above `sn` sigma.

    Raises
    ------
    DataError
        When none is left.
    """
    with np.errstate(invalid="ignore"):
        keep = np.asarray(objects["flux"]) > sn * np.asarray(objects["fluxerr"])
    log(f"{keep.sum()} of {len(objects)} objects have S/N > {sn:g} in the aperture")
    if not keep.any():
        raise DataError("no_objects", f"No object has S/N > {sn:g} in the aperture; lower `sn` or change `rel_aper`.")
    return objects[keep]


def calibrators(
    objects: Table,
    catalog: Table,
    columns: CatalogColumns,
    params: PhotometryParams,
    *,
    radius_arcsec: float,
    log: Log,
) -> Calibrators:
    """Pair objects with catalogue stars, and say which pairs can calibrate."""
    oi, ci, distance_deg = match_sky(
        objects["ra"], objects["dec"], catalog["RAJ2000"], catalog["DEJ2000"], radius_arcsec / 3600
    )
    cat_mag = number_column(catalog, columns.mag)[ci]
    if columns.mag_err in catalog.colnames:
        cat_magerr = number_column(catalog, columns.mag_err)[ci]
    else:
        cat_magerr = np.zeros(len(ci))
        log(f"The catalogue has no errors of {columns.mag}")
    color = number_column(catalog, columns.color_mag1)[ci] - number_column(catalog, columns.color_mag2)[ci]
    flags = np.asarray(objects["flags"])[oi]
    usable = np.isfinite(cat_mag) & np.isfinite(cat_magerr)
    if params.filter_blends:
        usable &= ~np.asarray(catalog["blended"])[ci]
    if params.cat_mag_lower is not None:
        usable &= cat_mag >= params.cat_mag_lower
    if params.cat_mag_upper is not None:
        usable &= cat_mag <= params.cat_mag_upper
    good = usable & (flags == 0)
    terms = model_terms(params)
    if good.sum() < 2 * terms.count() <= (usable & (flags & ~_ACCEPTED_FLAGS == 0)).sum():
        good = usable & (flags & ~_ACCEPTED_FLAGS == 0)
        log("Few clean stars: stars near a neighbour are used too")
    log(f"{len(oi)} objects match the catalogue within {radius_arcsec:.2f} arcsec, {good.sum()} can calibrate")
    return Calibrators(
        objects=oi,
        stars=ci,
        distance_arcsec=3600 * distance_deg,
        x=np.asarray(objects["x"], float)[oi],
        y=np.asarray(objects["y"], float)[oi],
        mag=np.asarray(objects["mag"], float)[oi],
        magerr=np.asarray(objects["magerr"], float)[oi],
        cat_mag=cat_mag,
        cat_magerr=cat_magerr,
        color=color,
        good=good,
    )


def model_terms(params: PhotometryParams) -> Terms:
    """Give the terms of the zero-point model that the options ask for."""
    fitted = params.use_color and params.force_color_term is None
    return Terms(params.spatial_order, params.bg_order, params.nonlin, fitted)


def calibrate(objects: Table, pairs: Calibrators, params: PhotometryParams, shape: tuple[int, int], log: Log) -> Fit:
    """Fit the zero point and set `mag_calib` and `mag_calib_err` in place.

    `mag_calib` is in the instrument's own system, as STDPipe's: without the colour term, which needs the object's
    colour. Its error holds the measurement, the zero point, and the scatter that the errors do not explain.
    """
    p_value = correlation_p_value(pairs.mag[pairs.good], pairs.cat_mag[pairs.good])
    if pairs.good.sum() < _FEWEST_TO_CORRELATE:
        log("Warning: too few stars to tell whether instrumental and catalogue magnitudes correlate")
    elif p_value > _MAX_P_VALUE:
        log(
            "Warning: instrumental and catalogue magnitudes do not correlate "
            f"(probability of chance {p_value:.2g}); the astrometry is probably wrong, try blind_match_wcs"
        )
    fit = fit_zero_point(pairs, model_terms(params), shape, color_term=params.force_color_term, log=log)
    model = fit.model
    zp, zp_err = float(model.evaluate(model.x0, model.y0)[0]), float(model.error(model.x0, model.y0)[0])
    log(f"Zero point {zp:.4f} ± {zp_err:.4f} mag at the centre, from {model.used} stars")
    log(f"Scatter of the stars {model.scatter:.4f} mag, {model.intrinsic_rms:.4f} mag of it beyond their errors")
    log(f"Colour term {model.color_term:+.4f} ± {model.color_term_err:.4f}")
    set_calibrated(objects, model)
    return fit


def mark_blends(catalog: Table, mag_column: str, fwhm_pix: float, pixscale_deg: float, plan: Aperture) -> None:
    """Add the column `blended`: neighbours in reach of the aperture add more than 3 % of the star's flux."""
    reach_deg = _BLEND_APERTURES * max(plan.radius_pix, fwhm_pix) * pixscale_deg
    catalog["blended"] = blended(
        catalog["RAJ2000"], catalog["DEJ2000"], number_column(catalog, mag_column), reach_deg, _BLEND_FLUX
    )


def number_column(table: Table, name: str) -> NDArray[np.float64]:
    """Give a column as floats, NaN where masked, and all NaN where the table has no such column."""
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(np.ma.asarray(table[name], float), np.nan), np.float64)


def matching_radius_arcsec(params: PhotometryParams, fwhm_pix: float, pixscale_deg: float, rms_arcsec: float) -> float:
    """Give the asked radius, else half of the FWHM or three times the astrometric residual."""
    if params.sr_override is not None:
        return params.sr_override
    return max(0.5 * fwhm_pix * pixscale_deg * 3600, 3 * rms_arcsec, _MIN_RADIUS_ARCSEC)


def image_noise(frame: Frame, plan: Aperture) -> float:
    """Give the noise of an empty aperture, ADU; places on objects count only where nothing else is left."""
    noise_adu = float("nan")
    for avoided in (frame.sky_mask, frame.mask):
        noise_adu = limits.aperture_noise(
            frame.flat,
            frame.rms,
            avoided,
            radius_pix=plan.radius_pix,
            annulus_pix=plan.annulus_pix,
            gain=frame.gain,
            optimal_fwhm_pix=plan.optimal_fwhm_pix,
            skew=frame.skew,
        )
        if np.isfinite(noise_adu):
            break
    return noise_adu


def detection_limits(noise_adu: float, model: ZeroPoint, gain: float, sn: float) -> dict[float, float]:
    """Give limits, mag, at the image's centre for S/N 10, 5, 3 and `sn`; empty when the noise is unknown."""
    if not np.isfinite(noise_adu):
        return {}
    result = {}
    for level in dict.fromkeys((*_LIMITS, sn)):
        mag = -2.5 * np.log10(float(limits.limiting_flux(noise_adu, gain, level)))
        result[level] = float(mag + model.evaluate(model.x0, model.y0, mag)[0])
    return result


def measure_targets(table: Table, frame: Frame, plan: Aperture, sn: float, model: ZeroPoint) -> None:
    """Do forced photometry of targets in place; fluxes may be negative, and are NaN outside of the image."""
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    inside = frame.covers(x, y)
    found = measure(frame, np.where(inside, x, np.nan), np.where(inside, y, np.nan), plan)
    table["flux"], table["fluxerr"], table["bg_local"] = found.flux, found.fluxerr, found.sky
    table["npix_aper"], table["flags"] = found.npix, found.flags
    set_magnitudes(table)
    set_calibrated(table, model)
    noise_adu = np.maximum(limits.empty_noise(found, frame.gain), 1e-30)
    mag = -2.5 * np.log10(limits.limiting_flux(noise_adu, frame.gain, sn))
    table["mag_limit"] = mag + model.evaluate(x, y, mag)
