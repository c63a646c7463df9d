"""Pictures of sky surveys through hips2fits, shown beside cutouts; nice to have, never worth failing for."""

import contextlib
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import requests
from astropy.io import fits
from numpy.typing import NDArray

from ..worker.step import Resources
from .archives import HIPS, PASSING, ArchiveFaultError, Log, ask, locked, spared, unavailable, write_atomically

HIPS_URLS: Final = (
    "https://alasky.cds.unistra.fr/hips-image-services/hips2fits",
    "https://alaskybis.cds.unistra.fr/hips-image-services/hips2fits",
)
MAX_SIZE: Final = 2048
PS1_SOUTHERN_LIMIT_DEG: Final = -30.0
_ASINH: Final = 0.4 * np.log(10)

_LETTERS: Final = {
    **dict.fromkeys(("U", "B", "V", "u", "g", "BP"), "g"),
    **dict.fromkeys(("R", "r", "G"), "r"),
    **dict.fromkeys(("I", "i", "RP"), "i"),
    "z": "z",
    "y": "y",
}
_SKYMAPPER: Final = {"u": "U", "U": "U", "z": "Z", "y": "Z"}


def survey_for(band: str, dec_deg: float) -> str:
    """Give the HiPS whose picture fits a band at a declination: 2MASS, Pan-STARRS, SkyMapper in the far south."""
    if band in {"J", "H", "Ks"}:
        return f"CDS/P/2MASS/{band[0]}"
    if dec_deg > PS1_SOUTHERN_LIMIT_DEG:
        letter = _LETTERS.get(band, "r")
        return f"CDS/P/PanSTARRS/DR1/{letter}"
    if band in _SKYMAPPER:
        return f"CDS/P/skymapper-{_SKYMAPPER[band]}"
    return f"CDS/P/Skymapper/DR4/{_LETTERS.get(band, 'r')}"


def unreachable(survey: str) -> str:
    """Tell users that there is no picture, and what it means."""
    return (
        f"Warning: no picture of {survey}, {HIPS.title} cannot be reached at the moment. Nothing else needs it; "
        "run the step again later to have it"
    )


def survey_picture(
    ra_deg: float,
    dec_deg: float,
    *,
    size: int,
    pixel_scale_arcsec: float,
    survey: str,
    resources: Resources,
    log: Log,
) -> tuple[NDArray[np.float64], fits.Header] | None:
    """Get a square picture of the sky around a position.

    Not STDPipe's `get_hips_image`: that one has no limit on the time of the whole answer, keeps every download in
    astropy's cache and says nothing of why there is no picture.

    Parameters
    ----------
    ra_deg, dec_deg
        Centre, ICRS.
    size
        Side of the picture, pixels.
    pixel_scale_arcsec
        Scale, arcsec per pixel; north is up.
    survey
        By its HiPS id, see `survey_for`.
    resources
        Where the cache is.
    log
        Takes a line of the step's log.

    Returns
    -------
    tuple
        Picture in linear units and its header with a WCS; None where the survey has nothing.

    Raises
    ------
    TransientError
        When there is no answer.
    """
    side = int(np.clip(size, 1, MAX_SIZE))
    query = {
        "hips": survey,
        "width": side,
        "height": side,
        "ra": f"{ra_deg:.6f}",
        "dec": f"{dec_deg:.6f}",
        "fov": f"{side * pixel_scale_arcsec / 3600:.6f}",
        "projection": "TAN",
        "coordsys": "icrs",
        "format": "fits",
    }
    content = _fetch(query, resources.cache_dir, log)
    try:
        picture, header = _open(content)
    except ArchiveFaultError as error:
        raise unavailable(HIPS, reason=str(error)) from error
    if not np.isfinite(picture).any():
        return None
    if "PanSTARRS" in survey and not survey.endswith("/g"):  # all but g are in asinh magnitudes
        picture = 2 * np.sinh(picture * _ASINH)
    return picture, header


def _fetch(query: dict[str, Any], cache_dir: Path, log: Log) -> bytes:
    name = hashlib.sha256(repr(sorted(query.items())).encode()).hexdigest()[:32]
    path = cache_dir / "surveys" / name[:2] / f"{name}.fits"

    def call(http: requests.Session) -> bytes:
        failure: Exception | None = None
        for url in HIPS_URLS:
            try:
                answer = http.get(url, params=query)
                answer.raise_for_status()
                _open(answer.content)
            except PASSING as error:
                failure = error
            else:
                return answer.content
        raise failure or ArchiveFaultError

    with locked(path.parent / f"{name}.lock", timeout_s=2 * HIPS.deadline_s):
        if path.exists():
            spared(HIPS)
            return path.read_bytes()
        content = ask(HIPS, call, cache_dir, log)
        with contextlib.suppress(OSError):  # a full disk costs the next one a question
            write_atomically(path, content)
    return content


def _open(content: bytes) -> tuple[NDArray[np.float64], fits.Header]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cut-off file warns before it fails
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                data, header = hdus[0].data, hdus[0].header
    except (OSError, ValueError, TypeError) as error:
        msg = "the answer is no FITS image"
        raise ArchiveFaultError(msg) from error
    if data is None or data.ndim != 2:  # noqa: PLR2004  an image has two axes
        msg = "the answer has no image"
        raise ArchiveFaultError(msg)
    return np.asarray(data, dtype=np.float64), header
