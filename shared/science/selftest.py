"""Start-up check of the science stack: versions that break calibration silently, programs that are missing."""

import shutil
from importlib.metadata import version
from typing import Final

import numpy as np
import sep

from ..errors import InternalError
from .centroid import windowed_centroids
from .images import quiet_fits

_PROGRAMS: Final = {
    ("source-extractor", "sex", "sextractor"): "objects are then detected by SEP",
    ("scamp",): "astrometry then has one fallback less",
    ("solve-field",): "blind matching is then impossible",
}
_ZERO_POINT: Final = 25.0
_STARS: Final = 60
_ZERO_POINT_TOLERANCE_MAG: Final = 0.02
_CENTROID_TOLERANCE_PIX: Final = 0.01


def self_test() -> list[str]:
    """Try what the steps rely on, in less than two seconds.

    Returns
    -------
    list of str
        What is missing but can be done without; empty when all is well.

    Raises
    ------
    InternalError
        When results would be wrong or no step could run.
    """
    _check_detection()
    _check_robust_fit()
    return [
        f"{names[0]} is not installed: {consequence}"
        for names, consequence in _PROGRAMS.items()
        if not any(shutil.which(name) for name in names)
    ]


def versions() -> dict[str, str]:
    """Give the versions of the packages that results depend on."""
    return {
        name: version(name)
        for name in ("stdpipe", "numpy", "scipy", "astropy", "photutils", "sep", "statsmodels", "scikit-learn", "numba")
    }


def _fatal(what: str, **details: object) -> InternalError:
    return InternalError("self_test", f"The science stack is broken: {what}.", versions=versions(), **details)


def _check_detection() -> None:
    """Detect and centre one star: SEP and numba work, and agree on where pixels are."""
    y, x = np.mgrid[:64, :64]
    image = (1000 * np.exp(-((x - 30.3) ** 2 + (y - 33.6) ** 2) / (2 * 1.5**2))).astype(np.float32)
    found = sep.extract(image, 10.0)
    if len(found) != 1:
        raise _fatal(f"SEP finds {len(found)} objects where one is")
    centre_x, centre_y = windowed_centroids(image, found["x"], found["y"], 3.5)
    if np.hypot(centre_x[0] - 30.3, centre_y[0] - 33.6) > _CENTROID_TOLERANCE_PIX:
        raise _fatal("centroids are wrong", x=float(centre_x[0]), y=float(centre_y[0]))


def _check_robust_fit() -> None:
    """Calibrate stars of known zero point with outliers; statsmodels 0.15 breaks STDPipe's robust fits."""
    from stdpipe.photometry import match

    random = np.random.default_rng(1)
    ra, dec = 10 + random.uniform(-0.1, 0.1, _STARS), 20 + random.uniform(-0.1, 0.1, _STARS)
    magnitudes = random.uniform(14, 17, _STARS)
    measured = magnitudes - _ZERO_POINT + random.normal(0, 0.01, _STARS)
    measured[:3] += 1.0
    errors = np.full(_STARS, 0.01)
    with quiet_fits():
        try:
            solution = match(
                ra, dec, measured, errors, np.zeros(_STARS, int), ra, dec, magnitudes, cat_magerr=errors, robust=True
            )
        except TypeError as error:
            raise _fatal(
                "robust calibration fails, most likely for another version of statsmodels", reason=str(error)
            ) from error
    if solution is None:
        raise _fatal("robust calibration finds no solution")
    zero_point = float(np.median(solution["zero_model"]))
    if abs(zero_point - _ZERO_POINT) > _ZERO_POINT_TOLERANCE_MAG:
        raise _fatal("robust calibration finds a wrong zero point", zero_point=zero_point)
