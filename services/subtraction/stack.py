"""The step `stack`: images of the shared data directory in, `image.fits` out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from shared.contracts.params import StackParams
from shared.contracts.params.stack import StackMethod
from shared.errors import DataError, UsageError
from shared.science.headers import DEFAULT_GAIN
from shared.science.images import EXTRACTED, quiet_fits, size_of, write_image
from shared.science.stacking_combine import Planes, clip_tolerance, combine
from shared.science.stacking_grid import place, resample
from shared.science.stacking_header import (
    Member,
    combined_saturation,
    stacked_header,
    total_level,
    total_scale,
)
from shared.science.stacking_input import Prepared, prepare_input
from shared.science.stacking_stars import find_stars
from shared.taskdir import open_data
from shared.worker.step import StepContext

from .alignment import First, Laid, LeftOut, lay_over

Log = Callable[..., None]

COVERAGE: Final = "coverage.fits"
_PLANES: Final = "planes"
_FEWEST: Final = 2
_SEEING_RATIO: Final = 1.1
_PREPARING: Final = 0.8
"""Share of the time until everything is on the grid."""


def warm() -> None:
    """Load what the step needs: compiled functions from their cache, no threads."""
    flat = np.zeros((32, 32), np.float32)
    flat[::2] = 1
    find_stars(flat, flat < 0, 1.0)
    half = place(lambda x, y: (x + 0.5, y + 0.5), (32, 32))
    strip = np.stack([resample(flat, np.zeros((32, 32), np.uint8), half)[0]] * 2)
    combine(strip, "clipped_mean", scales=np.ones(2), noise_adu=np.ones(2), gains=np.ones(2))


@quiet_fits()
def stack(ctx: StepContext) -> dict[str, Any]:
    """Coadd images on the grid of the first one."""
    params = ctx.params
    if not isinstance(params, StackParams):
        raise TypeError(type(params).__name__)
    names = params.stack_filenames
    if not names:
        raise UsageError(
            "no_images",
            "There is nothing to stack. Set stack_filenames to at least two images of the shared data directory.",
        )
    ctx.log(f"Stacking {len(names)} images, method {params.stack_method}")
    for name in sorted({name for name in names if names.count(name) > 1}):
        ctx.log(f"Warning: {name} is named {names.count(name)} times; its noise is counted as if it were independent")
    job = _Stack(ctx, params)
    for number, name in enumerate(names):
        ctx.progress(_PREPARING * number / len(names), f"image {number + 1} of {len(names)}")
        job.add(name)
    ctx.progress(_PREPARING, "combining")
    job.finish(len(names))
    ctx.log("Done")
    return {}


class _Stack:
    def __init__(self, ctx: StepContext, params: StackParams) -> None:
        self._ctx = ctx
        self._params = params
        self._method: StackMethod = params.stack_method
        self._first: First | None = None
        self._header = fits.Header()
        self._members: list[Member] = []
        self._left_out: list[str] = []

    def add(self, name: str) -> None:
        """Put an image on the grid, or leave it out."""
        log = self._ctx.log
        one = _prepared(self._ctx, name, self._params)
        if one is None:
            self._left_out.append(f"{name} has no finite pixels")
            if self._first is None:
                raise DataError(
                    "no_grid",
                    f"{name}, the first image, has no pixels that can be used. Name another one first.",
                )
            return
        if self._first is None:
            laid = self._start(one)
        else:
            try:
                laid = lay_over(self._first, one, log)
            except LeftOut as reason:
                log(f"Warning: {reason}; it is left out")
                self._left_out.append(str(reason))
                return
        self._take(one, laid)

    def _start(self, one: Prepared) -> Laid:
        self._first = First.of(one, self._ctx.log)
        self._header = one.header
        shape = self._first.shape
        self._planes = Planes(self._ctx.work / _PLANES, shape)
        self._saturated = np.zeros(shape, np.uint8)
        # what backgrounds add to their medians, when they are kept
        self._slopes = np.zeros(shape if not self._params.stack_subtract_bg else (0, 0), np.float32)
        self._sloped = np.zeros(self._slopes.shape, np.uint8)
        return Laid(place(lambda x, y: (x, y), shape), 1.0, self._first.stars.fwhm_pix)

    def _take(self, one: Prepared, laid: Laid) -> None:
        placement = laid.placement
        image, saturated = resample(one.image, one.flags, placement)
        covered = float(np.isfinite(image).mean())
        if not covered:
            self._left_out.append(f"{one.name} has no pixel on the grid")
            self._ctx.log(f"Warning: {self._left_out[-1]}; it is left out")
            return
        self._planes.add(image)
        self._saturated += saturated
        area, facts = placement.mean_area, one.facts
        level_adu = one.level_adu * area
        if not self._params.stack_subtract_bg:
            background, _ = resample(one.background, np.zeros_like(one.flags), placement)
            here = np.isfinite(background)
            self._slopes[here] += background[here] - np.float32(level_adu)
            self._sloped += here
        member = Member(
            name=one.name,
            facts=facts,
            scale=laid.scale,
            noise_adu=one.noise_adu * area,
            level_adu=level_adu,
            saturation_adu=None if facts.saturation_adu is None else facts.saturation_adu * area,
            gain=facts.gain or 0.0,
            fwhm_pix=laid.fwhm_pix,
        )
        self._members.append(member)
        self._ctx.log(
            f"{one.name}: {size_of(one.image.shape)} pixels, background {one.level_adu:.6g} ADU, "
            f"noise {one.noise_adu:.4g} ADU, covers {100 * covered:.1f} % of the grid"
        )

    def finish(self, asked: int) -> None:
        """Combine what is on the grid."""
        log, method = self._ctx.log, self._method
        members = _with_gains(self._members, log)
        if len(members) < _FEWEST:
            reasons = "; ".join(dict.fromkeys(self._left_out))[:500]
            raise DataError(
                "too_few_images",
                f"Only {len(members)} of {asked} images can be stacked, at least two are needed: {reasons}.",
            )
        _note_bands(members, log)
        saturation_adu = combined_saturation(members, method, background_kept=not self._params.stack_subtract_bg)
        header = stacked_header(self._header, members, method, saturation_adu, log)
        if self._params.ext is not None:  # so that inspect does not look for it in the stack
            header[EXTRACTED] = (self._params.ext, "extension that the images were taken from")
        image, coverage = self._combined(members)
        if saturation_adu is not None:
            self._lift_saturated(image, saturation_adu, len(members))
        (self._ctx.work / _PLANES).unlink()
        self._ctx.progress(0.95, "writing")
        uncovered = float((coverage == 0).mean())
        log(f"{len(members)} images combined, {coverage.mean():.4g} to a pixel; {100 * uncovered:.2f} % have none")
        if uncovered == 1:
            raise DataError("empty_stack", "No pixel of the stack has a value. Check whether the images overlap.")
        write_image(self._ctx.work / "image.fits", image, header)
        cover_header = header.copy()
        for key in ("SATURATE", "GAIN"):
            cover_header.remove(key, ignore_missing=True)
        cover_header["BUNIT"] = ("", "images that count")
        write_image(self._ctx.work / COVERAGE, coverage, cover_header)

    def _combined(self, members: Sequence[Member]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        method = self._method
        scales, noise, gains = (
            np.array([getattr(member, key) for member in members]) for key in ("scale", "noise_adu", "gain")
        )
        fwhm_pix = np.array([member.fwhm_pix for member in members])
        _note_seeing(fwhm_pix, method, self._ctx.log)
        factor, tolerance = total_scale(members, method), clip_tolerance(fwhm_pix)
        image = np.empty(self._saturated.shape, np.float32)
        coverage = np.empty(image.shape, np.int16)
        for rows, strip in self._planes.strips():
            flux, coverage[rows] = combine(
                strip, method, scales=scales, noise_adu=noise, gains=gains, tolerance=tolerance
            )
            image[rows] = flux * np.float32(factor)
            self._ctx.progress(_PREPARING + 0.15 * rows.stop / len(image), "combining")
        if not self._params.stack_subtract_bg:
            weight = np.float32(len(members) if method == "sum" else 1) / np.maximum(self._sloped, 1)
            image += self._slopes * weight + np.float32(total_level(members, method))
        return image, coverage

    def _lift_saturated(self, image: NDArray[np.float32], saturation_adu: float, count: int) -> None:
        """Let pixels that are too low for saturation be seen as saturated.

        One image is enough in a sum; the other methods reject what a single one of several has.
        """
        needed = 1 if self._method == "sum" or count <= _FEWEST else 2
        low = (self._saturated >= needed) & (image < saturation_adu)
        # the next number of four bytes: the level in the header has more digits
        image[low] = np.nextafter(np.float32(saturation_adu), np.float32(np.inf))
        self._ctx.log(f"{int((self._saturated >= needed).sum())} pixels are saturated")


def _prepared(ctx: StepContext, name: str, params: StackParams) -> Prepared | None:
    folder = ctx.resources.data_dir
    try:
        with open_data(folder if folder is not None else Path(), name) as path:
            return prepare_input(name, path, ext=params.ext, mask_cosmics=params.stack_mask_cosmics, log=ctx.log)
    except FileNotFoundError as error:
        raise UsageError(
            "no_file",
            f"There is no file {name} in the shared data directory. See GET /api/files/ for what is there.",
        ) from error


def _with_gains(members: Sequence[Member], log: Log) -> list[Member]:
    """Assume a gain for images that tell none: the median of the others."""
    known = [member.gain for member in members if member.gain > 0]
    missing = [member.name for member in members if not member.gain > 0]
    gain = float(np.median(known)) if known else DEFAULT_GAIN
    if missing:
        log(f"Warning: no gain in the header of {', '.join(missing)[:300]}; {gain:g} e-/ADU is assumed")
    return [member if member.gain > 0 else _with_gain(member, gain) for member in members]


def _with_gain(member: Member, gain: float) -> Member:
    return Member(**{**vars(member), "gain": gain})


def _note_seeing(fwhm_pix: NDArray[np.float64], method: StackMethod, log: Log) -> None:
    known = fwhm_pix[np.isfinite(fwhm_pix)]
    if not known.size:
        return
    log(f"FWHM on the grid {known.min():.2f} to {known.max():.2f} pixels")
    if method == "median" and known.max() > _SEEING_RATIO * known.min():
        log("Warning: the median of images of different seeing keeps no fluxes: their mean may be better")


def _note_bands(members: Sequence[Member], log: Log) -> None:
    bands: dict[str, int] = {}
    for member in members:
        bands[member.facts.band] = bands.get(member.facts.band, 0) + 1
    if len(bands) > 1:
        mix = ", ".join(f"{count} in {band}" for band, count in bands.items())
        log(f"Warning: the images are of several bands ({mix}); the stack is taken for {members[0].facts.band}")
