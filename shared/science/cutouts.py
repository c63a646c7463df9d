"""Cutouts around objects: image, mask, and a picture of a sky survey on the same grid."""

import threading
import time as clock
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

from ..errors import StepError
from ..worker.step import Resources
from .archives import Log
from .cutout_files import CutoutWriter, corner_of, crop
from .images import quiet_fits
from .surveys import survey_for, survey_picture, unreachable
from .wcs import pixel_scale_deg

Picture = tuple[NDArray[np.float64], fits.Header]

_PICTURES_TIME_LIMIT_S: Final = 60.0
"""Pictures are shown beside results; nobody waits for a slow archive."""
_META: Final = ("name", "ra", "dec", "x", "y", "mag", "magerr", "mag_calib", "mag_calib_err", "mag_limit", "flags")


@dataclass(frozen=True)
class Scene:
    """What cutouts are taken from.

    Parameters
    ----------
    image, mask
        Of one shape; True is bad.
    band
        Of the image, for the choice of the survey.
    time
        ISO 8601, UTC; None when unknown.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    wcs: WCS
    band: str
    time: str | None

    def covers(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which positions lie on the image; NaN does not."""
        rows, columns = self.image.shape
        half = 0.5
        return np.asarray((x > -half) & (x < columns - half) & (y > -half) & (y < rows - half))


def write_cutouts(
    scene: Scene,
    table: Table,
    pattern: str,
    work: Path,
    *,
    half_size_pix: int,
    max_pictures: int,
    resources: Resources,
    log: Log,
    workers: int = 1,
) -> list[str | None]:
    """Write a cutout for every row of a table that lies on the image.

    Parameters
    ----------
    table
        With `x y ra dec` and further columns, of which some go into the cutouts' headers.
    pattern
        Names of the files below `work`, to be formatted with the number of the row.
    max_pictures
        How many rows get a picture of a survey.
    workers
        How many pictures are asked for at once.

    Returns
    -------
    list
        The name of each row's file; None for those that are not on the image.
    """
    inside = scene.covers(np.asarray(table["x"], float), np.asarray(table["y"], float))
    writer, time = CutoutWriter(scene.wcs), None if scene.time is None else Time(scene.time).to_value("fits")
    size = 2 * half_size_pix + 1
    names: list[str | None] = [pattern.format(number) if inside[number] else None for number in range(len(table))]
    (work / pattern).parent.mkdir(exist_ok=True)
    pictured = [row for number, row in enumerate(table) if inside[number] and number < max_pictures]
    pictures = iter(_pictures(scene, pictured, size=size, resources=resources, log=log, workers=workers))
    for row, name in zip(table, names, strict=True):
        if name is None:
            continue
        facts = {key: row[key] for key in _META if key in table.colnames}
        corner = corner_of(row["x"], row["y"], half_size_pix)
        planes = {"image": crop(scene.image, corner, size), "mask": crop(scene.mask, corner, size)}
        picture = next(pictures, None)
        if picture is not None:
            planes["template"] = on_grid(*picture, scene.wcs, corner, size)
        with quiet_fits():
            writer.write(work / name, planes, facts | ({} if time is None else {"time": time}), corner)
    return names


def _pictures(
    scene: Scene, rows: Iterable[Row], *, size: int, resources: Resources, log: Log, workers: int
) -> list[Picture | None]:
    """Give the pictures of rows in their order, None for all after the first that could not be had."""
    scale_arcsec = 3600 * pixel_scale_deg(scene.wcs)
    end = clock.monotonic() + _PICTURES_TIME_LIMIT_S
    stopped = threading.Lock()
    empty: list[str] = []

    def picture(place: tuple[float, float]) -> Picture | None:
        if stopped.locked():
            return None
        survey = survey_for(scene.band, place[1])
        try:
            found = survey_picture(
                *place, size=size, pixel_scale_arcsec=scale_arcsec, survey=survey, resources=resources, log=log
            )
        except StepError:
            if stopped.acquire(blocking=False):  # said once
                log(unreachable(survey))
            return None
        if found is None:
            empty.append(survey)
        if clock.monotonic() > end and stopped.acquire(blocking=False):
            log("The survey's pictures take too long: further cutouts go without")
        return found

    # what threads do to the filters of warnings is undone here
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        pictures = list(pool.map(picture, [(float(row["ra"]), float(row["dec"])) for row in rows]))
    for survey in dict.fromkeys(empty):
        log(f"Note: no picture of {survey}, the survey has nothing here ({empty.count(survey)} cutouts)")
    return pictures


def on_grid(
    picture: NDArray[np.float64], header: fits.Header, onto: WCS, corner: tuple[int, int], size: int
) -> NDArray[np.float32]:
    """Resample a survey picture, bilinear, to the grid of a cutout, so that both look the same way.

    Parameters
    ----------
    onto
        Of the image.
    corner
        First column and row of the cutout in the image, 0-based pixels.
    """
    from scipy.ndimage import map_coordinates

    y, x = np.mgrid[0:size, 0:size]
    ra, dec = onto.all_pix2world(corner[0] + x.ravel(), corner[1] + y.ravel(), 0)
    px, py = WCS(header).all_world2pix(ra, dec, 0, quiet=True)
    values = map_coordinates(picture, [py, px], order=1, mode="nearest")
    half = 0.5
    values[(px < -half) | (py < -half) | (px > picture.shape[1] - half) | (py > picture.shape[0] - half)] = np.nan
    return np.asarray(values.reshape(size, size), np.float32)
