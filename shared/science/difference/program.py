"""The HOTPANTS program: files out, a list of arguments, files in.

It is called here and not through STDPipe, which puts a command line together for a shell. Every option comes from the
closed list, as a number or a letter that has been checked; the names of files are ours.

What the program leaves: the difference on the zero point of the image (`-n i`), what was convolved, difference over
noise, and noise. Sums of kernels are in its header as text with four digits; therefore it gets the template on about
the scale of the image.
"""

import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ...contracts.params.hotpants import HotpantsExtra
from ...errors import InternalError, UsageError
from ..processes import find_program, run_program
from .basis import matching_basis, piece_radius
from .compose import Measured, finish, side_of
from .model import Difference, Log, Options, Pixels
from .prepare import Frame
from .stars import Stars

_TIME_LIMIT_S: Final = 1800.0
_BAD: Final = 1e-30
"""What the program writes where it has no difference."""
_PLANES: Final = 4
_FITTED: Final = ("ko", "bgo", "nrx", "nry", "nsx", "nsy", "nss", "ft", "sft", "nft", "ssig", "ks", "kfm", "kcs")
"""Options that are handed over as they are. `n`, `fi`, `fin` and `okn` are applied to what comes back."""


def hotpants_program() -> str | None:
    """Give the path of HOTPANTS, or None."""
    return find_program("hotpants")


def arguments(image: Frame, template: Frame, fwhm_pix: tuple[float, float], extra: HotpantsExtra) -> tuple[str, ...]:
    """Give the arguments of the program, without its name.

    Parameters
    ----------
    fwhm_pix
        Of image and template.
    """
    basis = matching_basis(*sorted(fwhm_pix, reverse=True), gaussians=extra.gaussians, radius=extra.r)
    given: dict[str, object] = {
        "inim": "image.fits",
        "tmplim": "template.fits",
        "outim": "difference.fits",
        "imi": "image_mask.fits",
        "tmi": "template_mask.fits",
        "ini": "image_noise.fits",
        "tni": "template_noise.fits",
        "ssf": "stars.xy",
    }
    for letter, frame in (("i", image), ("t", template)):
        low, high = float(frame.pixels.min()), float(frame.pixels.max())
        margin = 0.01 * (high - low)
        # limits are inclusive; what is saturated is in the mask
        given |= {f"{letter}l": low - margin, f"{letter}u": high + margin, f"{letter}uk": high + margin}
        if frame.gain is not None:
            given[f"{letter}g"] = frame.gain
    given |= {name: value for name in _FITTED if (value := getattr(extra, name)) is not None}
    # the program refuses pieces that are smaller than its kernel
    half = max(extra.rss or piece_radius(max(fwhm_pix)), basis.radius)
    given |= {"r": basis.radius, "rss": half, "n": "i", "fi": _BAD, "v": 1}
    if extra.c != "u":
        given["c"] = side_of(*fwhm_pix, extra.c)[0]
    words = [word for name, value in given.items() for word in (f"-{name}", _word(value))]
    words += ["-ng", str(len(basis.gaussians))]
    words += [_word(number) for gaussian in basis.gaussians for number in gaussian]
    return (*words, "-sconv", "-allm")


def _word(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def subtract(
    image: Frame,
    template: Frame,
    stars: Stars,
    fwhm_pix: tuple[float, float],
    *,
    options: Options,
    program: str,
    log: Log,
) -> Difference:
    """Run the program.

    Raises
    ------
    UsageError
        Without a folder to work in.
    InternalError
        When the program fails, or leaves no difference.
    TransientError
        At the time limit.
    """
    if options.work is None:
        raise UsageError("no_work_folder", "The HOTPANTS program needs a folder to work in.")
    extra = options.hotpants
    ratio = _about(image, template, stars)
    template = _scaled(template, ratio)
    folder = Path(tempfile.mkdtemp(prefix="hotpants", dir=options.work))
    try:
        _write(folder, image, template, stars)
        words = arguments(image, template, fwhm_pix, extra)
        log("Running HOTPANTS", *words)
        run_program([program, *words], folder, _TIME_LIMIT_S, log)
        planes, header = _read(folder / "difference.fits", image.shape)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    difference, convolved, noise = planes
    bad = image.bad | template.bad | (difference == np.float32(_BAD)) | ~np.isfinite(difference)
    if bad.all():
        raise InternalError("hotpants_failed", "HOTPANTS gave no difference of this image. Try the engine sfft.")
    kernel_sum = _kernel_sum(header)
    of_image = any(str(value).upper().startswith("I") for value in header["CONVOL*"].values())
    if of_image:
        convolved -= difference  # it is the image that was convolved; the template is what was subtracted
    measured = Measured(
        ratio / kernel_sum if of_image else ratio * kernel_sum,
        float("nan"),
        float("nan"),
        fwhm_pix[1] if of_image else fwhm_pix[0],
        len(stars),
    )
    return finish(
        difference, convolved, noise, bad, side="image" if of_image else "template", measured=measured, extra=extra
    )


def _write(folder: Path, image: Frame, template: Frame, stars: Stars) -> None:
    for name, frame in (("image", image), ("template", template)):
        fits.writeto(folder / f"{name}.fits", frame.pixels)
        fits.writeto(folder / f"{name}_mask.fits", frame.bad.astype(np.uint8))
        fits.writeto(folder / f"{name}_noise.fits", np.sqrt(frame.variance))
    np.savetxt(folder / "stars.xy", np.column_stack([stars.x + 1, stars.y + 1]), fmt="%d")


def _read(path: Path, shape: tuple[int, int]) -> tuple[tuple[Pixels, Pixels, Pixels], fits.Header]:
    """Read difference, convolved template and noise; the third plane, of significance, is made anew."""
    try:
        with fits.open(path, memmap=False) as hdus:
            planes: list[NDArray[np.float32]] = [
                np.ascontiguousarray(hdu.data, np.float32) for hdu in hdus[:_PLANES] if hdu.data is not None
            ]
            header = hdus[0].header.copy()
    except OSError as error:
        raise InternalError("hotpants_failed", "HOTPANTS left no difference. Try the engine sfft.") from error
    if len(planes) != _PLANES or any(plane.shape != shape for plane in planes):
        raise InternalError("hotpants_failed", "HOTPANTS left an incomplete difference. Try the engine sfft.")
    return (planes[0], planes[1], planes[3]), header


def _kernel_sum(header: fits.Header) -> float:
    """Give the median over the regions."""
    try:
        sums = [float(value) for value in header["KSUM*"].values()]
    except ValueError:
        sums = []
    found = float(np.median(sums)) if sums else math.nan
    if not 0 < found < math.inf:
        raise InternalError(
            "hotpants_failed", "HOTPANTS found no usable kernel. Try the engine sfft.", kernel_sum=str(found)
        )
    return found


def _about(image: Frame, template: Frame, stars: Stars) -> float:
    """Give about the flux in the image over that in the template, by the peaks of stars."""
    peaks, others = image.pixels[stars.y, stars.x], template.pixels[stars.y, stars.x]
    known = (peaks > 0) & (others > 0)
    return float(np.median(peaks[known] / others[known])) if known.any() else 1.0


def _scaled(frame: Frame, factor: float) -> Frame:
    """Give a frame in another unit of flux."""
    return replace(
        frame,
        pixels=frame.pixels * np.float32(factor),
        sky=frame.sky * np.float32(factor),
        variance=frame.variance * np.float32(factor**2),
        gain=None if frame.gain is None else frame.gain / factor,
    )
