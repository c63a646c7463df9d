"""Targets: pixel positions, coordinates in any usual notation, or names that Sesame and TNS know."""

import contextlib
import hashlib
import json
import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales

from ..errors import TransientError, UsageError
from ..worker.step import Resources
from .archives import SESAME, TNS, ArchiveFaultError, Log, ask, spared, write_atomically

MAX_TARGETS: Final = 1000
MAX_LINE_LENGTH: Final = 200
FULL_TURN_DEG: Final = 360.0
RIGHT_ANGLE_DEG: Final = 90.0

_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PIXEL: Final = re.compile(rf"x\s*=\s*({_NUMBER})[\s,;]+y\s*=\s*({_NUMBER})", re.IGNORECASE)
_DEGREES: Final = re.compile(rf"({_NUMBER})(?:°|\s*deg|d)?[\s,;]+({_NUMBER})(?:°|\s*deg|d)?", re.IGNORECASE)
_SEXAGESIMAL: Final = re.compile(
    r"(\d{1,3})[\s:hd]+(\d{1,2})[\s:m']+(\d{1,2}\.?\d*)[s\"]?[\s,;]*([+-]?)\s*(\d{1,2})[\s:d°]+(\d{1,2})[\s:m']+(\d{1,2}\.?\d*)[s\"]?",
    re.IGNORECASE,
)
_LOOKS_LIKE_COORDINATES: Final = re.compile(r"[\d+\-.][\d\s.,;:+\-°'\"hmsdegHMSDEG]*")
_NAME: Final = re.compile(r"[\w\s.+\-*\[\]()'&:/,#]+")
_TRANSIENT: Final = re.compile(r"(AT|SN|TDE|ZTF)\s*(\d{2,4}\w+)", re.IGNORECASE)
# lines that are whole: of an answer that was cut off, half of a number would be another place
_POSITION: Final = re.compile(rf"^%J\s+({_NUMBER})\s+({_NUMBER})\s.*\n", re.MULTILINE)
_UNKNOWN: Final = re.compile(r"^#!.*\n", re.MULTILINE)

SESAME_URLS: Final = ("https://cds.unistra.fr/cgi-bin/nph-sesame", "https://vizier.cfa.harvard.edu/viz-bin/nph-sesame")
TNS_URL: Final = "https://api.ztf.fink-portal.org/api/v1/resolver"


@dataclass(frozen=True)
class Target:
    """A position of interest.

    Parameters
    ----------
    name
        As the user wrote it.
    ra_deg, dec_deg
        ICRS; NaN for a pixel position on an image without WCS.
    x, y
        0-based pixel position; None unless it was given so.
    """

    name: str
    ra_deg: float
    dec_deg: float
    x: float | None = None
    y: float | None = None


def resolve_targets(text: str, wcs: WCS | None, resources: Resources, log: Log) -> list[Target]:
    """Read a list of targets, one a line.

    A line is a pixel position (`x=123.4 y=567.8`), or coordinates (decimal degrees, hours and degrees in sexagesimal
    notation, with units), or a name. Text is only ever compared with these patterns and sent, quoted, to the resolvers.

    Raises
    ------
    UsageError
        For a line that is none of these, a name that nobody knows, or too many lines.
    TransientError
        When a name has to be looked up and the resolver cannot be reached.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_TARGETS:
        message = f"There are {len(lines)} targets; at most {MAX_TARGETS} are allowed."
        raise UsageError("too_many_targets", message)
    targets = []
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_LENGTH:
            message = (
                f"Line {number} of the targets is longer than {MAX_LINE_LENGTH} characters; give one target a line."
            )
            raise UsageError("bad_target", message)
        targets.append(_resolve(line, number, wcs, resources, log))
    return targets


def targets_of(config: Mapping[str, Any]) -> list[Target]:
    """Read the targets that `inspect` computed from a task's config; entries without a position are left out."""
    found = []
    for entry in config.get("targets") or []:
        if not isinstance(entry, Mapping):
            continue
        ra, dec, x, y = (_number(entry.get(key)) for key in ("ra", "dec", "x", "y"))
        if (ra is None or dec is None) and (x is None or y is None):
            continue
        position = (math.nan, math.nan) if ra is None or dec is None else (ra, dec)
        found.append(Target(str(entry.get("name", "")), *position, x, y))
    return found


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _resolve(line: str, number: int, wcs: WCS | None, resources: Resources, log: Log) -> Target:
    if match := _PIXEL.fullmatch(line):
        x, y = float(match[1]), float(match[2])
        ra_deg, dec_deg = _sky_of(x, y, wcs)
        log(f"Target {line}: pixel position")
        return Target(line, ra_deg, dec_deg, x, y)
    position = parse_coordinates(line)
    if position is None:
        if _LOOKS_LIKE_COORDINATES.fullmatch(line):
            message = (
                f"Line {number} of the targets, '{line}', is no valid position; write degrees ('10.68 41.27'), hours"
                " and degrees ('00:42:44.3 +41:16:09') or pixels ('x=123.4 y=567.8')."
            )
            raise UsageError("bad_target", message)
        position = resolve_name(line, number, resources, log)
    log(f"Target {line}: RA {position[0]:.6f} Dec {position[1]:+.6f} deg")
    return Target(line, *position)


def _sky_of(x: float, y: float, wcs: WCS | None) -> tuple[float, float]:
    if wcs is None or not wcs.is_celestial or not proj_plane_pixel_scales(wcs).all():
        return math.nan, math.nan
    try:
        ra, dec = wcs.all_pix2world(x, y, 0)
    except (NoConvergence, ValueError):
        return math.nan, math.nan
    return float(ra), float(dec)


def parse_coordinates(text: str) -> tuple[float, float] | None:
    """Read right ascension and declination, ICRS degrees; None when `text` is no position."""
    line = text.strip()
    if match := _DEGREES.fullmatch(line):
        ra_deg, dec_deg = float(match[1]), float(match[2])
    elif match := _SEXAGESIMAL.fullmatch(line):
        minutes_seconds = [float(match[group]) for group in (2, 3, 6, 7)]
        if max(minutes_seconds) >= 60:  # noqa: PLR2004  of a sexagesimal digit
            return None
        in_degrees = "d" in line[match.start(1) : match.start(2)].lower()
        ra_deg = _from_parts(match[1], match[2], match[3]) * (1 if in_degrees else 15)
        dec_deg = _from_parts(match[5], match[6], match[7]) * (-1 if match[4] == "-" else 1)
    elif _LOOKS_LIKE_COORDINATES.fullmatch(line):
        try:
            coordinates = SkyCoord(line)  # '10h42m +41d16m' and its like
        except ValueError:
            return None
        ra_deg, dec_deg = float(coordinates.ra.deg), float(coordinates.dec.deg)
    else:
        return None
    inside = 0 <= ra_deg <= FULL_TURN_DEG and -RIGHT_ANGLE_DEG <= dec_deg <= RIGHT_ANGLE_DEG
    return (ra_deg % FULL_TURN_DEG, dec_deg) if inside else None


def _from_parts(whole: str, minutes: str, seconds: str) -> float:
    return float(whole) + float(minutes) / 60 + float(seconds) / 3600


def resolve_name(name: str, number: int, resources: Resources, log: Log) -> tuple[float, float]:
    """Look a name up in the cache, in Sesame, and in TNS when it looks like a transient's; ICRS degrees.

    Not STDPipe's `resolve`: its requests have no time-out, and it does not tell unknown from unreachable.

    Raises
    ------
    UsageError
        When nobody knows the name.
    TransientError
        When the resolver cannot be reached.
    """
    if "://" in name or not _NAME.fullmatch(name):
        message = f"Line {number} of the targets, '{name}', is neither a position nor a name; write one target a line."
        raise UsageError("bad_target", message)
    key = hashlib.sha256(" ".join(name.lower().split()).encode()).hexdigest()[:32]
    cached = resources.cache_dir / "names" / f"{key}.json"
    try:
        ra_deg, dec_deg = json.loads(cached.read_text())
    except (OSError, ValueError, TypeError):
        pass
    else:
        spared(SESAME)
        return float(ra_deg), float(dec_deg)
    position = _ask_resolvers(name, resources, log)
    if position is None:
        message = (
            f"Line {number} of the targets, '{name}': no such name in SIMBAD, NED, VizieR or TNS; check it, or give"
            " coordinates."
        )
        raise UsageError("unknown_target", message)
    with contextlib.suppress(OSError):  # a full disk costs the next one a question
        write_atomically(cached, json.dumps(position).encode())
    return position


def _ask_resolvers(name: str, resources: Resources, log: Log) -> tuple[float, float] | None:
    transient = _TRANSIENT.fullmatch(name)
    try:
        position = ask(SESAME, lambda http: _ask_sesame(http, name), resources.cache_dir, log)
    except TransientError:
        if transient is None:
            raise
        position = ask(TNS, lambda http: _ask_tns(http, transient), resources.cache_dir, log)
        if position is None:
            raise
        return position
    if position is None and transient is not None:
        position = ask(TNS, lambda http: _ask_tns(http, transient), resources.cache_dir, log)
    return position


def _ask_sesame(http: requests.Session, name: str) -> tuple[float, float] | None:
    failure: requests.RequestException | None = None
    for url in SESAME_URLS:
        try:
            answer = http.get(f"{url}/SNV?{urllib.parse.quote(name)}")
            answer.raise_for_status()
        except requests.RequestException as error:
            failure = error
            continue
        match = _POSITION.search(answer.text)
        if match is None and not _UNKNOWN.search(answer.text):
            msg = "the answer is not Sesame's, or cut off"
            raise ArchiveFaultError(msg)
        return (float(match[1]), float(match[2])) if match else None
    raise failure or ArchiveFaultError


def _ask_tns(http: requests.Session, name: re.Match[str]) -> tuple[float, float] | None:
    spelled = f"{name[1].upper()} {name[2]}" if name[2].startswith("2") else name[0]
    for query in ({"name": spelled}, {"name": spelled, "reverse": True}):
        answer = http.post(TNS_URL, json={"resolver": "tns", **query})
        answer.raise_for_status()
        try:
            rows = answer.json()
            if rows:
                return float(rows[0]["d:ra"]), float(rows[0]["d:declination"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            msg = "the answer of the transient name resolver is broken"
            raise ArchiveFaultError(msg) from error
    return None
