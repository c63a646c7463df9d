"""What surveys know near some positions: from a local mirror, else from CDS XMatch through a cache of sky cells.

XMatch is asked around the positions, somewhat farther than is needed, and what it told is kept by small cells of the
sky: an answer then serves every later object in the same cells, whichever image it is on. Asking for whole large cells
would bring several times as many sources, and their way through XML is what a question costs.
"""

import io
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

import astropy.units as u
import numpy as np
import requests
from astropy.table import Table
from astroquery.exceptions import InvalidQueryError
from astroquery.xmatch import XMatchClass
from numpy.typing import NDArray

from ..errors import TransientError
from ..worker.step import Resources
from .archives import XMATCH, ArchiveFaultError, Log, ask, spared
from .catalogs.columns import DEC, RA
from .catalogs.mirror import read_mirror
from .catalogs.sky import Cells, cells_of, distance_deg
from .crossmatch_cells import CellCache, Circles, cell_diagonal_deg, locked_cells
from .matching import unit_vectors

Floats = NDArray[np.float64]

MAX_UPLOAD: Final = 20_000
_MARGIN_ARCSEC: Final = 1.0
"""XMatch pairs by positions of another epoch than those that it tells."""
_WANDER_ARCSEC: Final = 1.0
"""How far objects of another image of the same field are from those that were asked for: nobody is asked again."""
_UPLOADED: Final = ("asked", "asked_ra", "asked_dec")
_POSITIONS: Final = (
    ("RAJ2000", "DEJ2000"),
    ("ra_epoch2000", "dec_epoch2000"),
    ("_RAJ2000", "_DEJ2000"),
    ("RAICRS", "DEICRS"),
    ("RA_ICRS", "DE_ICRS"),
    ("RAdeg", "DEdeg"),
    ("ra", "dec"),
)
"""As the tables of VizieR name them, those of J2000 first."""


@dataclass(frozen=True)
class Survey:
    """A catalogue of everything that was there before.

    Parameters
    ----------
    code
        Name of its local mirror.
    title
        Name for users.
    table
        Its id at VizieR.
    magnitudes
        Columns that we keep, with their other names.
    """

    code: str
    title: str
    table: str
    magnitudes: Mapping[str, tuple[str, ...]]


GAIA: Final = Survey(
    "gaiaedr3",
    "Gaia eDR3",
    "I/350/gaiaedr3",
    {"Gmag": ("phot_g_mean_mag",), "BPmag": ("phot_bp_mean_mag",), "RPmag": ("phot_rp_mean_mag",)},
)
PS1: Final = Survey("ps1", "Pan-STARRS DR1", "II/349/ps1", {f"{band}mag": () for band in "grizy"})
SKYMAPPER: Final = Survey(
    "skymapper", "SkyMapper DR4", "II/379/smssdr4", {f"{band}PSF": (f"{band}_psf",) for band in "uvgriz"}
)
DES: Final = Survey("des", "DES DR2", "II/371/des_dr2", dict.fromkeys(("gmag", "rmag", "imag", "zmag", "Ymag"), ()))


def known_sources(
    survey: Survey, ra_deg: Floats, dec_deg: Floats, reach_deg: float, *, resources: Resources, log: Log
) -> Table:
    """Get all sources of a survey near positions, and others that came along.

    Parameters
    ----------
    ra_deg, dec_deg
        Positions, ICRS; at least one.
    reach_deg
        How near.

    Returns
    -------
    astropy.table.Table
        `RAJ2000`, `DEJ2000` (degrees) and the survey's magnitudes, NaN where there is none.

    Raises
    ------
    TransientError
        When XMatch is needed and cannot be reached.
    """
    began = time.monotonic()
    center = _enclosing(ra_deg, dec_deg)
    local = read_mirror(
        survey.code, center[0], center[1], center[2] + reach_deg, limit_mag=None, resources=resources, log=log
    )
    if local is not None and local.complete:
        found, source = local.stars, "the local mirror"
    else:
        found, source = _cached(survey, Circles.around(ra_deg, dec_deg, reach_deg), resources, log), XMATCH.title
    log(f"{survey.title}: {len(found)} sources from {source}, {time.monotonic() - began:.2f} s")
    return found


def _enclosing(ra_deg: Floats, dec_deg: Floats) -> tuple[float, float, float]:
    x, y, z = unit_vectors(ra_deg, dec_deg).mean(axis=0)
    ra, dec = float(np.degrees(np.arctan2(y, x)) % 360), float(np.degrees(np.arctan2(z, np.hypot(x, y))))
    return ra, dec, float(distance_deg(ra, dec, ra_deg, dec_deg).max())


def _cached(survey: Survey, circles: Circles, resources: Resources, log: Log) -> Table:
    columns = (RA, DEC, *survey.magnitudes)
    cache = CellCache(resources.cache_dir / "crossmatch" / survey.code, columns, circles.order)
    wanted = circles.cells()
    missing = cache.missing(wanted)
    if not missing.size:
        spared(XMATCH)
    else:
        with locked_cells(cache.folder, missing, circles.order):
            missing = cache.missing(wanted)  # somebody else may have asked while we waited
            asked = circles.touching(missing).wider(_WANDER_ARCSEC / 3600)
            for start in range(0, len(asked), MAX_UPLOAD):
                part = asked.part(start, start + MAX_UPLOAD)
                log(f"Asking {XMATCH.title} for {survey.title} around {len(part)} positions")
                cells, rows = query_xmatch(survey, part, resources, log)
                try:
                    cache.add(cells, rows)
                except OSError as error:
                    text = "Reference data cannot be stored at the moment, the disk may be full; try again later."
                    raise TransientError("storage_unavailable", text, reason=str(error)) from error
    return cache.read(wanted)


def query_xmatch(survey: Survey, circles: Circles, resources: Resources, log: Log) -> tuple[Cells, Table]:
    """Ask XMatch for all sources in the cells that touch circles, without any cache.

    Not STDPipe's `xmatch_objects`: that one has no limit on the time of the whole answer, asks for the list of all
    tables first, and keeps answers on the disk of one machine.

    Returns
    -------
    tuple
        The cells, and the sources with the `cell` of each.

    Raises
    ------
    TransientError
        When XMatch does not answer.
    """
    cells = circles.cells()
    radius_arcsec = 3600 * (circles.radius_deg + cell_diagonal_deg(cells, circles.order)) + _MARGIN_ARCSEC
    upload = Table(
        [np.arange(len(circles)), np.round(circles.ra_deg, 7), np.round(circles.dec_deg, 7)], names=_UPLOADED
    )

    def call(http: requests.Session) -> Table:
        client = _Client()
        client._session = http  # noqa: SLF001  the only way to bound the time of the whole answer
        try:
            response = client.query_async(
                cat1=upload,
                cat2=f"vizier:{survey.table}",
                max_distance=radius_arcsec * u.arcsec,
                colRA1=_UPLOADED[1],
                colDec1=_UPLOADED[2],
                cache=False,
            )
        except (InvalidQueryError, ValueError, TypeError, AttributeError, IndexError) as error:
            msg = f"the question was refused ({type(error).__name__})"
            raise ArchiveFaultError(msg) from error
        return _sources(response.content, survey)

    sources = ask(XMATCH, call, resources.cache_dir, log)
    sources["cell"] = cells_of(sources[RA], sources[DEC], circles.order) if len(sources) else np.empty(0, np.uint64)
    return cells, sources[np.isin(sources["cell"], cells)]


class _Client(XMatchClass):  # type: ignore[misc]
    """Knows what is a table of VizieR without asking for the list of all of them."""

    def is_table_available(self, table_id: object) -> bool:
        return isinstance(table_id, str) and table_id.startswith("vizier:")


def _sources(content: bytes, survey: Survey) -> Table:
    if b"</VOTABLE>" not in content[-200:] or b'value="OVERFLOW"' in content:
        msg = "the answer is cut off"
        raise ArchiveFaultError(msg)
    wanted = {name for pair in _POSITIONS for name in pair} | {_UPLOADED[0]}
    wanted |= {name for own, others in survey.magnitudes.items() for name in (own, *others)}
    try:
        columns, count = _columns(content, wanted)
    except (ET.ParseError, ValueError, TypeError, IndexError, KeyError) as error:
        msg = f"the answer cannot be parsed ({type(error).__name__})"
        raise ArchiveFaultError(msg) from error
    position = next((pair for pair in _POSITIONS if set(pair) <= set(columns)), None)
    if not count:
        return Table({name: np.empty(0) for name in (RA, DEC, *survey.magnitudes)})
    if position is None or _UPLOADED[0] not in columns:
        msg = "the answer has no positions"
        raise ArchiveFaultError(msg)
    rows = Table({RA: columns[position[0]], DEC: columns[position[1]]})
    for name, others in survey.magnitudes.items():
        known = next((one for one in (name, *others) if one in columns), None)
        rows[name] = np.full(count, np.nan) if known is None else columns[known]
    rows = rows[np.isfinite(rows[RA]) & np.isfinite(rows[DEC])]
    # circles overlap
    numbers = np.stack([np.nan_to_num(rows[name], nan=-1.0) for name in rows.colnames], axis=-1)
    _, once = np.unique(numbers, axis=0, return_index=True)
    return rows[np.sort(once)]


def _columns(content: bytes, wanted: set[str]) -> tuple[dict[str, Floats], int]:
    """Read columns of numbers of the first table of a VOTable, and count its rows.

    XMatch writes a TABLEDATA of dozens of columns; astropy takes ten times as long, and reads what comes otherwise.
    """
    root = ET.fromstring(content)  # noqa: S314  expat bounds the growth of entities
    table = next(_parts(root, "RESOURCE", "TABLE"), None)
    if table is None:
        msg = "there is no table"
        raise ValueError(msg)
    data = next(_parts(table, "DATA", "TABLEDATA"), None)
    if data is None:
        return _by_astropy(content, wanted)
    rows = list(_parts(data, "TR"))
    columns = {}
    for number, field in enumerate(_parts(table, "FIELD")):
        if (name := field.get("name", "")) in wanted:
            nulls = {None, "", *(one.get("null") for one in _parts(field, "VALUES"))}
            texts = [row[number].text for row in rows]
            columns[name] = np.array([np.nan if text in nulls else float(text or "") for text in texts], np.float64)
    return columns, len(rows)


def _parts(element: ET.Element, *path: str) -> Iterator[ET.Element]:
    """Go through the elements on a path of names, whatever their namespace."""
    yield from element.iterfind("/".join(f"{{*}}{name}" for name in path))


def _by_astropy(content: bytes, wanted: set[str]) -> tuple[dict[str, Floats], int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VOTable warnings about units and versions
        answer = Table.read(io.BytesIO(content), format="votable", use_names_over_ids=True)
    columns = {
        name: np.ma.filled(np.ma.asarray(answer[name]).astype(np.float64), np.nan)
        for name in answer.colnames
        if name in wanted
    }
    return columns, len(answer)
