"""Detection of objects with SExtractor, or SEP where SExtractor is not installed; both give one and the same table.

SExtractor is called here and not through STDPipe's wrapper, which goes through a shell without a time limit, writes and
reads back every check image, and tells the server's paths to the log; the options and the meaning of columns and flags
are the same. SExtractor finds more of the faint stars than SEP.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import sep
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from ..errors import InternalError, StepError
from .processes import Log, find_program, run_program

FLAG_MASKED: Final = 0x100
"""Masked pixels within the footprint."""

_TIME_LIMIT_S: Final = 1200.0
_THRESHOLD_SIGMA: Final = 2.0
"""Of a pixel; the cut in signal to noise comes afterwards."""
_SEP_STACK_PIXELS: Final = 10_000_000
"""More than that are never in objects at a time; no image needs more than it has, and the whole costs 0.3 s."""
_FEW_PIXELS: Final = 10_000
_MAG_PER_LN: Final = 2.5 / np.log(10)

_SEXTRACTOR_COLUMNS: Final[Mapping[str, str]] = {
    "NUMBER": "NUMBER",
    "X_IMAGE": "x",
    "Y_IMAGE": "y",
    "ERRX2_IMAGE": "xerr",
    "ERRY2_IMAGE": "yerr",
    "FLUX_APER": "flux",
    "FLUXERR_APER": "fluxerr",
    "FLAGS": "flags",
    "IMAFLAGS_ISO": "masked",
    "FWHM_IMAGE": "fwhm",
    "A_IMAGE": "a",
    "B_IMAGE": "b",
    "THETA_IMAGE": "theta",
    "BACKGROUND": "bg",
    "FLUX_RADIUS": "FLUX_RADIUS",
    "FLUX_AUTO": "FLUX_AUTO",
    "MAG_AUTO": "MAG_AUTO",
    "FLUX_MAX": "FLUX_MAX",
}


@dataclass(frozen=True)
class Options:
    """How to detect.

    Parameters
    ----------
    sn
        Least signal to noise within the detection aperture.
    aper_pix
        Radius of the detection aperture.
    smooth_pix
        Sigma of the Gaussian that smooths the image for detection; 0 for none.
    min_area
        Least number of connected pixels.
    bg_size_pix
        Background mesh.
    gain
        e-/ADU.
    threads
        Cores for SExtractor.
    """

    sn: float = 5.0
    aper_pix: float = 3.0
    smooth_pix: float = 0.0
    min_area: int = 5
    bg_size_pix: int = 256
    gain: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class Detection:
    """Objects with x, y (0-based pixels), flux, fluxerr, mag, magerr, flags, fwhm, shapes, brightest first; maps."""

    objects: Table
    segmentation: NDArray[np.int32]
    filtered: NDArray[np.float32]


@dataclass(frozen=True)
class Background:
    """Level and noise, ADU/pixel, of the image's shape."""

    level: NDArray[np.float32]
    rms: NDArray[np.float32]


def background(image: NDArray[np.float32], mask: NDArray[np.bool_], size_pix: int) -> Background:
    """Estimate background and noise on a mesh; a mesh larger than the image becomes one of half of it."""
    size = max(min(size_pix, min(image.shape) // 2), 4)
    bad = mask | ~np.isfinite(image)
    clean = np.where(bad, np.float32(0), image)
    mesh = sep.Background(clean, mask=bad, bw=size, bh=size)
    level, rms = mesh.back(dtype=np.float32), mesh.rms(dtype=np.float32)
    if not np.isfinite(level).all() or not np.isfinite(rms).all():  # meshes without any pixel
        np.nan_to_num(level, copy=False, nan=float(np.median(image[~bad])))
        np.nan_to_num(rms, copy=False, nan=float(np.std(image[~bad])))
    return Background(level, rms)


def detect(
    image: NDArray[np.float32], mask: NDArray[np.bool_], options: Options, work: Path, log: Log, *, program: str | None
) -> Detection:
    """Find objects.

    Parameters
    ----------
    image
        Image, ADU, with its background.
    mask
        True where pixels are bad: objects that touch them are flagged 0x100, not dropped. Non-finite pixels are
        ignored.
    work
        Folder for temporary files.
    program
        SExtractor, as `sextractor` finds it; None uses SEP.
    """
    if program is None:
        log("SExtractor is not installed here, detecting with SEP")
        return detect_sep(image, mask, options)
    return detect_sextractor(image, mask, options, work, log, program=program)


def sextractor() -> str | None:
    """Give the path of SExtractor, or None."""
    return find_program("source-extractor", "sex", "sextractor")


def detect_sextractor(
    image: NDArray[np.float32], mask: NDArray[np.bool_], options: Options, work: Path, log: Log, *, program: str
) -> Detection:
    """Find objects with SExtractor.

    Raises
    ------
    InternalError
        When it fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="sex", dir=work))
    try:
        # SExtractor ignores NaN, but an infinity ends it
        fits.writeto(folder / "image.fits", np.where(np.isinf(image), np.float32(np.nan), image))
        fits.writeto(folder / "mask.fits", mask.astype(np.uint8))
        (folder / "columns").write_text("\n".join(_SEXTRACTOR_COLUMNS))
        (folder / "empty").write_text("")
        argv = [program, "image.fits"]
        for key, value in _sextractor_settings(image, options, folder).items():
            argv += [f"-{key}", str(value)]
        run_program(argv, folder, _TIME_LIMIT_S, lambda *_: None)
        catalog = Table.read(folder / "objects.cat", hdu=2)
        with fits.open(folder / "segmentation.fits", memmap=False) as hdus:
            segmentation = np.ascontiguousarray(hdus[0].data, np.int32)
        with fits.open(folder / "filtered.fits", memmap=False) as hdus:
            filtered = np.ascontiguousarray(hdus[0].data, np.float32)
    except OSError as exc:
        raise InternalError("detection_failed", "SExtractor gave no catalogue of this image.", reason=str(exc)) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    objects = Table({name: np.asarray(catalog[key]) for key, name in _SEXTRACTOR_COLUMNS.items()})
    objects["x"] = np.asarray(objects["x"], float) - 1
    objects["y"] = np.asarray(objects["y"], float) - 1
    objects["xerr"], objects["yerr"] = np.sqrt(objects["xerr"]), np.sqrt(objects["yerr"])
    objects["flags"] = objects["flags"].astype(np.int32) | np.where(objects["masked"] > 0, FLAG_MASKED, 0)
    objects.remove_column("masked")
    log(f"SExtractor found {len(objects)} objects")
    return Detection(_finished(objects, options), segmentation, filtered)


def _sextractor_settings(image: NDArray[np.float32], options: Options, folder: Path) -> dict[str, object]:
    settings: dict[str, object] = {
        "c": "empty",
        "VERBOSE_TYPE": "QUIET",
        "PARAMETERS_NAME": "columns",
        "CATALOG_NAME": "objects.cat",
        "CATALOG_TYPE": "FITS_LDAC",
        "CHECKIMAGE_TYPE": "SEGMENTATION,FILTERED",
        "CHECKIMAGE_NAME": "segmentation.fits,filtered.fits",
        "FLAG_IMAGE": "mask.fits",
        "WEIGHT_TYPE": "BACKGROUND",
        # masked pixels are for our own mask to say, and correcting for neighbours makes systematics
        "MASK_TYPE": "NONE",
        "SATUR_LEVEL": f"{float(np.max(image, where=np.isfinite(image), initial=0)) + 1:.8g}",
        "DETECT_THRESH": _THRESHOLD_SIGMA,
        "DETECT_MINAREA": options.min_area,
        "PHOT_APERTURES": 2 * options.aper_pix,
        "GAIN": options.gain,
        "BACK_SIZE": max(min(options.bg_size_pix, min(image.shape) // 2), 4),
        "NTHREADS": max(options.threads, 1),
        "MEMORY_PIXSTACK": 2_000_000,
        "MEMORY_OBJSTACK": 20_000,
        "FILTER": "N",
    }
    if options.smooth_pix > 0:
        kernel = gaussian(options.smooth_pix)
        np.savetxt(folder / "kernel.conv", kernel, fmt="%.7f", header="CONV NORM", comments="")
        settings |= {"FILTER": "Y", "FILTER_NAME": "kernel.conv"}
    return settings


def gaussian(sigma_pix: float) -> NDArray[np.float64]:
    """Give a normalised Gaussian kernel out to 2 sigma, at most 31 pixels wide, which is all SExtractor takes."""
    half = min(int(np.ceil(2 * sigma_pix)), 15)
    offset = np.arange(-half, half + 1)
    profile = np.exp(-0.5 * (offset / sigma_pix) ** 2)
    kernel = np.outer(profile, profile)
    return np.asarray(kernel / kernel.sum(), np.float64)


def detect_sep(image: NDArray[np.float32], mask: NDArray[np.bool_], options: Options) -> Detection:
    """Find objects with SEP.

    Raises
    ------
    InternalError
        When SEP gives up, as it does on fields too crowded for its buffers.
    """
    mesh = background(image, mask, options.bg_size_pix)
    bad = ~np.isfinite(image)
    clean = np.where(bad, np.float32(0), image - mesh.level)
    kernel = gaussian(options.smooth_pix) if options.smooth_pix > 0 else None
    sep.set_extract_pixstack(min(max(image.size, _FEW_PIXELS), _SEP_STACK_PIXELS))
    try:
        found, segmentation = sep.extract(
            clean,
            _THRESHOLD_SIGMA,
            err=np.maximum(mesh.rms, np.float32(1e-6)),
            mask=bad,
            minarea=options.min_area,
            filter_kernel=kernel,
            segmentation_map=True,
        )
    except Exception as exc:  # SEP's wrapper raises the bare class for every error of the C library
        if isinstance(exc, StepError | MemoryError):
            raise
        text = "The image is too crowded for SEP; raise the threshold `minarea`, or smooth with `initial_r0`."
        raise InternalError("detection_failed", text, reason=str(exc)) from exc
    flux, fluxerr, _ = sep.sum_circle(
        clean, found["x"], found["y"], options.aper_pix, err=mesh.rms, gain=options.gain, mask=bad
    )
    a, b = np.maximum(found["a"], 0.5), np.maximum(found["b"], 0.5)
    theta = np.clip(found["theta"], -1.5707, 1.5707)  # rounding may leave ±π/2, which SEP refuses
    auto, _, _ = sep.sum_ellipse(clean, found["x"], found["y"], a, b, theta, 5.0, mask=bad)
    auto = np.where(auto > 0, auto, found["flux"])
    radius, _ = sep.flux_radius(clean, found["x"], found["y"], 6.0 * a, 0.5, normflux=auto, subpix=5, mask=bad)
    touched = np.zeros(len(found) + 1, bool)
    touched[segmentation[mask]] = True
    # SEP's own bits are others than SExtractor's: 1 merged, 2 truncated at the edge
    flags = np.where(found["flag"] & sep.OBJ_MERGED, 2, 0) | np.where(found["flag"] & sep.OBJ_TRUNC, 8, 0)
    iy, ix = np.rint(found["y"]).astype(int), np.rint(found["x"]).astype(int)
    objects = Table(
        {
            "NUMBER": np.arange(1, len(found) + 1, dtype=np.int32),
            "x": found["x"],
            "y": found["y"],
            "xerr": np.sqrt(np.maximum(found["errx2"], 0)),
            "yerr": np.sqrt(np.maximum(found["erry2"], 0)),
            "flux": flux,
            "fluxerr": fluxerr,
            "flags": (flags | np.where(touched[1:], FLAG_MASKED, 0)).astype(np.int32),
            "fwhm": 2 * np.sqrt(np.log(2) * (found["a"] ** 2 + found["b"] ** 2)),
            "a": found["a"],
            "b": found["b"],
            "theta": np.rad2deg(found["theta"]),
            "bg": mesh.level[np.clip(iy, 0, image.shape[0] - 1), np.clip(ix, 0, image.shape[1] - 1)],
            "FLUX_RADIUS": radius,
            "FLUX_AUTO": auto,
            "MAG_AUTO": -2.5 * np.log10(np.maximum(auto, 1e-30)),
            "FLUX_MAX": found["peak"],
        }
    )
    return Detection(_finished(objects, options), np.asarray(segmentation, np.int32), clean)


def _finished(objects: Table, options: Options) -> Table:
    """Keep what is bright enough, with magnitudes, brightest first."""
    for name, column in objects.columns.items():
        if column.dtype.kind == "f":
            objects[name] = np.asarray(column, np.float64)
    flux, fluxerr = np.asarray(objects["flux"]), np.asarray(objects["fluxerr"])
    with np.errstate(invalid="ignore"):
        keep = np.isfinite(flux) & (flux > 0) & (flux > options.sn * fluxerr)
    objects = objects[keep]
    set_magnitudes(objects)
    objects.sort("flux", reverse=True)
    return objects


def set_magnitudes(objects: Table) -> None:
    """Set `mag` and `magerr` from `flux` and `fluxerr`; NaN where the flux is not positive."""
    flux = np.asarray(objects["flux"], float)
    positive = np.where(flux > 0, flux, np.nan)
    objects["mag"] = -2.5 * np.log10(positive)
    objects["magerr"] = _MAG_PER_LN * np.asarray(objects["fluxerr"], float) / positive
