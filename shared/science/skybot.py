"""Known bodies of the solar system in a field, by SkyBoT of IMCCE."""

import contextlib
import hashlib
import io
import json
import warnings
from dataclasses import dataclass
from typing import Final

import astropy.units as u
import numpy as np
import requests
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Table
from astropy.time import Time
from astroquery.imcce import SkybotClass

from ..worker.step import Resources
from .archives import SKYBOT, ArchiveFaultError, Log, ask, locked, spared, write_atomically

MAX_RADIUS_DEG: Final = 10.0
_ANSWERED: Final = b"</VOTABLE>"
_NEEDED: Final = ("name", "ra", "de")


@dataclass(frozen=True)
class Body:
    """Where a body was.

    Parameters
    ----------
    ra_deg, dec_deg
        Geocentric, J2000.
    mag
        In V; None when unknown.
    """

    name: str
    ra_deg: float
    dec_deg: float
    mag: float | None


def known_bodies(
    ra_deg: float, dec_deg: float, radius_deg: float, time: str, *, resources: Resources, log: Log
) -> list[Body]:
    """List the known bodies in a cone at a time.

    Not STDPipe's `xmatch_skybot`: that one takes every failure for an empty field.

    Parameters
    ----------
    time
        ISO 8601, UTC.

    Raises
    ------
    TransientError
        When SkyBoT does not answer.
    """
    # a little more than asked, so that a field that was solved again finds its answer
    place = round(ra_deg, 2), round(dec_deg, 2), min(np.ceil(100 * radius_deg + 2) / 100, MAX_RADIUS_DEG)
    epoch = Time(time, scale="utc")
    key = hashlib.sha256(repr((place, round(epoch.jd * 1440))).encode()).hexdigest()[:32]
    path = resources.cache_dir / "skybot" / key[:2] / f"{key}.json"
    with locked(path.with_suffix(".lock"), timeout_s=4 * SKYBOT.deadline_s):
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = [Body(*row) for row in json.loads(path.read_text())]
            spared(SKYBOT)
            return known
        log(f"Asking {SKYBOT.title} for bodies at {epoch.isot}")

        def call(http: requests.Session) -> list[Body]:
            client = SkybotClass()
            client._session = http  # noqa: SLF001  the only way to bound the time of the whole answer
            center = SkyCoord(place[0], place[1], unit="deg")
            answer = client.cone_search_async(center, place[2] * u.deg, epoch, cache=False)
            return _bodies(answer.content)

        bodies = ask(SKYBOT, call, resources.cache_dir, log)
        with contextlib.suppress(OSError):  # a full disk costs the next one a question
            rows = [[body.name, body.ra_deg, body.dec_deg, body.mag] for body in bodies]
            write_atomically(path, json.dumps(rows).encode())
    return bodies


def _bodies(content: bytes) -> list[Body]:
    if _ANSWERED not in content[-200:] or b'name="QUERY_STATUS" value="ERROR"' in content:
        msg = "the answer is cut off, or an error of the server"
        raise ArchiveFaultError(msg)
    if b"<TABLE" not in content.replace(b"<TABLEDATA", b""):
        return []  # it says so where nothing is in the field
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units such as h:m:s
            rows = Table.read(io.BytesIO(content), format="votable", use_names_over_ids=True)
        if not len(rows):
            return []
        names, ras, decs = (list(map(str, rows[name])) for name in _NEEDED)
        ra, dec = Angle(ras, unit=u.hourangle).deg, Angle(decs, unit=u.deg).deg
        mags = np.ma.filled(np.ma.asarray(rows["magV"]).astype(float), np.nan) if "magV" in rows.colnames else None
    except (ValueError, TypeError, IndexError, KeyError) as error:
        msg = f"the answer cannot be parsed ({type(error).__name__})"
        raise ArchiveFaultError(msg) from error
    return [
        Body(name, float(ra[row]), float(dec[row]), None if mags is None or np.isnan(mags[row]) else float(mags[row]))
        for row, name in enumerate(names)
    ]
