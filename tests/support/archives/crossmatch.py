"""What CDS XMatch and SkyBoT answer."""

from collections.abc import Mapping, Sequence
from email import policy
from email.parser import BytesParser
from urllib.parse import parse_qs

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io.votable import from_table
from astropy.table import Table
from scipy.spatial import cKDTree

from .votable import xml_of

Answer = tuple[str, bytes]
XML = "text/xml"
NO_TABLE = (
    '<?xml version="1.0" encoding="UTF-8"?><VOTABLE version="1.1"><INFO ID="QUERY_STATUS" name="QUERY_STATUS" '
    'value="ERROR">Could not find table {}</INFO></VOTABLE>'
)
SKYBOT_FIELDS = (
    ("num", "char", "meta.id;meta.number", ""),
    ("name", "char", "meta.id;meta.main", ""),
    ("ra", "char", "pos.eq.ra;meta.main", "h:m:s"),
    ("de", "char", "pos.eq.dec;meta.main", "d:m:s"),
    ("class", "char", "meta.code.class;src.class", ""),
    ("magV", "double", "phot.mag;em.opt.V", "mag"),
    ("errpos", "double", "stat.error.sys", "arcsec"),
    ("angdist", "double", "pos.angDistance", "arcsec"),
)


def table_names(tables: Mapping[str, Table]) -> Answer:
    """List all tables, which astroquery asks for before each question."""
    return "text/plain", "\n".join(tables).encode()


def xmatch(content_type: str, body: bytes, tables: Mapping[str, Table]) -> Answer | None:
    """Answer an upload of positions with all pairs within the radius; None for a table that there is not."""
    asked = _parts(content_type, body)
    assert (asked["request"], asked["RESPONSEFORMAT"]) == ("xmatch", "votable")
    name = asked["cat2"].removeprefix("vizier:")
    if name not in tables:
        return None
    ours, theirs = Table.read(asked["cat1"], format="ascii.csv"), tables[name]
    radius_arcsec = float(asked["distMaxArcsec"])
    assert radius_arcsec <= 180
    first = SkyCoord(ours[asked["colRA1"]], ours[asked["colDec1"]], unit="deg")
    second = SkyCoord(theirs["RAJ2000"], theirs["DEJ2000"], unit="deg")
    near = cKDTree(_vectors(second)).query_ball_point(_vectors(first), 2 * np.sin(np.radians(radius_arcsec / 7200)))
    i = np.repeat(np.arange(len(ours)), [len(found) for found in near])
    j = np.array([index for found in near for index in found], int)
    answer = Table({"angDist": first[i].separation(second[j]).arcsec})
    for column in ours.colnames:
        answer[column] = ours[column][i]
    for column in theirs.colnames:
        answer[column] = theirs[column][j]
    return XML, xml_of(from_table(answer))


def skybot(query: str, bodies: Sequence[tuple[str, float, float, float]]) -> Answer:
    """Answer a cone search: name, RA, Dec (degrees) and V of each body."""
    asked = {key: values[0] for key, values in parse_qs(query).items()}
    assert (asked["-mime"], asked["-refsys"]) == ("votable", "EQJ2000")
    assert 2_400_000 < float(asked["-ep"]) < 2_600_000  # JD
    center = SkyCoord(float(asked["-ra"]), float(asked["-dec"]), unit="deg")
    rows = []
    for number, (name, ra, dec, mag) in enumerate(bodies, start=1):
        place = SkyCoord(ra, dec, unit="deg")
        if (away := center.separation(place)).deg > float(asked["-rd"]):
            continue
        values = (
            str(number),
            name,
            place.ra.to_string("hour", sep=" ", precision=5, pad=True),
            place.dec.to_string("deg", sep=" ", precision=4, pad=True, alwayssign=True),
            "MB&gt;Middle",
            f"{mag:.2f}",
            "0.100",
            f"{away.arcsec:.3f}",
        )
        rows.append("<TR>" + "".join(f"<TD>{value}</TD>" for value in values) + "</TR>")
    fields = "".join(
        f'<FIELD ID="{name}" name="{name}" ucd="{ucd}" datatype="{kind}" {_size(kind)}unit="{unit}"/>'
        for name, kind, ucd, unit in SKYBOT_FIELDS
    )
    table = f"<TABLE>{fields}<DATA><TABLEDATA>{''.join(rows)}</TABLEDATA></DATA></TABLE>" if rows else ""
    page = (
        '<?xml version="1.0" encoding="UTF-8"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        f'<RESOURCE type="results"><INFO name="QUERY_STATUS" value="OK"/>{table}</RESOURCE></VOTABLE>'
    )
    return XML, page.encode()


def _size(kind: str) -> str:
    return 'arraysize="*" ' if kind == "char" else ""


def _parts(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser(policy=policy.HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()
        for part in message.iter_parts()
    }


def _vectors(places: SkyCoord) -> np.ndarray:
    return np.stack([axis.value for axis in (places.cartesian.x, places.cartesian.y, places.cartesian.z)], axis=-1)
