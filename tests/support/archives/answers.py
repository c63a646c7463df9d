"""What VizieR (VOTable over ASU), Sesame in both formats, Fink's resolver and hips2fits answer."""

import io
import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

import numpy as np
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import Table
from astropy.wcs import WCS

from . import images
from .votable import xml_of

Answer = tuple[str, bytes]
EMPTY = (
    b'<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
    b'<RESOURCE name="none"><INFO name="QUERY_STATUS" value="OK"/></RESOURCE></VOTABLE>'
)
HOSTS = {
    "api.ztf.fink-portal.org": "tns",
    "cdsxmatch.u-strasbg.fr": "xmatch",
    "ssp.imcce.fr": "skybot",
    "ps1images.stsci.edu": "ps1",
    "portal.nersc.gov": "legacysurvey",
}
RADIUS_UNITS_DEG = {"-c.rd": 1.0, "-c.rm": 1 / 60, "-c.rs": 1 / 3600}


def archive_of(host: str, path: str) -> str | None:
    """Tell which archive a request is for; None for a host that we do not play."""
    if path.startswith("/viz-bin/votable"):
        return "vizier"
    if "nph-sesame" in path:
        return "sesame"
    if path.endswith("/hips2fits"):
        return "hips2fits"
    return HOSTS.get(host)


def vizier(body: str, tables: Mapping[str, Table]) -> Answer:
    """Answer a cone query; constraints on columns are `<20` and its like."""
    asked = dict(line.split("=", 1) for line in body.splitlines() if "=" in line)
    stars = tables.get(asked["-source"])
    if stars is None:
        return "text/xml", EMPTY
    ra, dec = (float(part) for part in re.findall(r"[+-]?[\d.]+(?:e[+-]?\d+)?", asked["-c"]))
    radius_deg = next(float(asked[key]) * unit for key, unit in RADIUS_UNITS_DEG.items() if key in asked)
    keep = _distance_deg(ra, dec, stars["RAJ2000"], stars["DEJ2000"]) <= radius_deg
    for column in set(stars.colnames) & set(asked):
        keep &= np.asarray(stars[column], dtype=float) < float(asked[column].removeprefix("<"))
    chosen = stars[keep]
    if not len(chosen):
        return "text/xml", EMPTY
    for name in chosen.colnames:
        chosen[name].unit = "mag" if name.endswith("mag") else "deg" if name.endswith("J2000") else None
    document = from_table(chosen)
    document.resources[0].tables[0].name = asked["-source"]
    return "text/xml", xml_of(document)


def sesame(path: str, query: str, names: Mapping[str, tuple[float, float]]) -> Answer:
    """Answer a look-up, in XML when the options ask for it (`-oxp…`), else as text."""
    name = unquote(query).strip()
    position = names.get(name.lower())
    if "/-ox" in path:
        found = (
            f'<Resolver name="S=Simbad"><jradeg>{position[0]}</jradeg><jdedeg>{position[1]}</jdedeg>'
            f"<oname>{name}</oname></Resolver>"
            if position
            else "<INFO>*** Nothing found ***</INFO>"
        )
        page = f'<?xml version="1.0"?><Sesame><Target option="SNVA"><name>{name}</name>{found}</Target></Sesame>'
        return "text/xml", page.encode()
    if position is None:
        return (
            "text/plain",
            f"# {name}\t#Q1\n#=S=Simbad:    0     0\n#!SIMBAD: No known catalog could be found\n".encode(),
        )
    lines = f"# {name}\t#Q1\n#=S=Simbad:    1     0\n%J {position[0]:.8f} {position[1]:+.8f} = somewhere\n#====Done\n"
    return "text/plain", lines.encode()


def tns(body: bytes, names: Mapping[str, tuple[float, float]]) -> Answer:
    """Answer as the resolver of Fink does for TNS."""
    name = str(json.loads(body)["name"])
    position = names.get(name.lower())
    rows = [{"d:fullname": name, "d:ra": position[0], "d:declination": position[1]}] if position else []
    return "application/json", json.dumps(rows).encode()


def hips2fits(query: str, stars: images.Stars | None) -> Answer:
    """Answer with a picture of the stars; without them its brightest pixel is the centre."""
    asked = {key: values[0] for key, values in parse_qs(query).items()}
    width, height = int(asked["width"]), int(asked["height"])
    if "wcs" in asked:
        wcs = WCS(fits.Header(json.loads(asked["wcs"])))
    else:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [float(asked["ra"]), float(asked["dec"])]
        wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
        scale = float(asked["fov"]) / max(width, height)
        wcs.wcs.cdelt = [-scale, scale]
    if stars is None:
        v, u = np.ogrid[0:height, 0:width]
        picture = np.exp(-((u - (width - 1) / 2) ** 2 + (v - (height - 1) / 2) ** 2) / 18)
    else:
        picture = images.hips_picture(wcs, (height, width), stars)
    sink = io.BytesIO()
    fits.PrimaryHDU(picture.astype(np.float32), wcs.to_header(relax=True)).writeto(sink)
    return "image/fits", sink.getvalue()


def without_pixels(picture: bytes) -> bytes:
    """Give a picture as it is where a survey has nothing."""
    with fits.open(io.BytesIO(picture)) as hdus:
        hdus[0].data[:] = np.nan
        sink = io.BytesIO()
        hdus.writeto(sink)
    return sink.getvalue()


def _distance_deg(ra, dec, ras, decs):
    a, b, c, d = (np.radians(np.asarray(value, dtype=float)) for value in (ra, dec, ras, decs))
    cosine = np.sin(b) * np.sin(d) + np.cos(b) * np.cos(d) * np.cos(a - c)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
