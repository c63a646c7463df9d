"""Templates of the surveys: Pan-STARRS skycells, Legacy Survey bricks, and the others as HiPS through hips2fits."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ...contracts.bands import TEMPLATES
from ...errors import DataError, UsageError
from ...worker.step import Resources
from ..archives import HIPS_TEMPLATES, LEGACY, PS1, Log
from ..headers import number_in
from ..surveys import HIPS_URLS
from ..wcs import pixel_scale_deg
from .cells import CellTable, blocks_on, legacy_bricks, ps1_skycells
from .fetch import ImageCache, Wanted
from .pieces import Image, Mask, Piece, Sky, look_at, read_bad, read_part

MAX_PIECES: Final = 64
"""Most files of a survey that a frame may need, images alone; skycells have 60 MB each."""

_PS1_URL: Final = "https://ps1images.stsci.edu/rings.v3.skycell"
_PS1_BAD_BITS: Final = 0x7FFF  # all but the undocumented last one, which good pixels have as well
_PS1_GAIN_RANGE: Final = (0.1, 10.0)
_LEGACY_URL: Final = "https://portal.nersc.gov/cfs/cosmo/data/legacysurvey"
_LEGACY_RELEASES: Final = {"S": "dr10/south", "N": "dr9/north"}
# saturated in any exposure, or bad in all of them. That a pixel is another brick's too (bit 0) says nothing against it
_LEGACY_BAD_BITS: Final = {"g": 0x0024, "r": 0x0048, "z": 0x0090, "i": 0xC000}
_BLOCK_PIX: Final = 2000
"""Side of a block of a HiPS: 17 MB, which the service makes in some seconds."""
_BLOCK_TOLERANCE: Final = 0.01
"""How far a picture may lie from its place, as a fraction of its side."""


@dataclass(frozen=True)
class _Survey:
    """A HiPS by the band of the template, and the size of the survey's own pixels."""

    hips: Mapping[str, str]
    scale_arcsec: float


HIPS_SURVEYS: Final[Mapping[str, _Survey]] = {
    "skymapper": _Survey(
        {
            "u": "CDS/P/skymapper-U",
            **{band: f"CDS/P/Skymapper/DR4/{band}" for band in "gri"},
            "z": "CDS/P/skymapper-Z",
        },
        0.497,
    ),
    "des": _Survey({band: f"CDS/P/DES-DR2/{band}" for band in "griz"}, 0.263),
    "decaps": _Survey({band: f"CDS/P/DECaPS/DR2/{band}" for band in "griz"}, 0.262),
    "ztf": _Survey({band: f"CDS/P/ZTF/DR7/{band}" for band in "gri"}, 1.01),
    "2mass": _Survey({"J": "CDS/P/2MASS/J", "H": "CDS/P/2MASS/H", "Ks": "CDS/P/2MASS/K"}, 1.0),
}


def survey_pieces(
    source: str, band: str, wcs: WCS, shape: tuple[int, int], *, resources: Resources, log: Log
) -> Iterator[Piece]:
    """Give the pieces of a survey that lie on a frame, as they arrive.

    Parameters
    ----------
    source, band
        The survey, a key of `TEMPLATES` other than `custom`, and one of its bands.
    wcs, shape
        Of the frame.
    resources
        Where the cache is.
    log
        Takes lines of the step's log.

    Raises
    ------
    UsageError
        When the frame is too large for the survey.
    TransientError
        When the archive does not answer, or sends something else.
    """
    if source == "ps1":
        return _cells(PS1_CELLS, band, wcs, shape, ImageCache(PS1, resources.cache_dir, log))
    if source == "ls":
        return _cells(LEGACY_CELLS, band, wcs, shape, ImageCache(LEGACY, resources.cache_dir, log))
    cache = ImageCache(HIPS_TEMPLATES, resources.cache_dir, log)
    return _blocks(source, band, wcs, shape, cache)


@dataclass(frozen=True)
class _Contents:
    """What the numbers in an archive's files mean.

    Parameters
    ----------
    bad_bits
        Of the mask.
    divisor
        That takes pixels to the survey's common unit.
    empty
        Value of pixels without any exposure; None where they are NaN.
    gain
        Electrons per common unit; None where nobody says.
    """

    bad_bits: int = 0
    divisor: float = 1.0
    empty: float | None = None
    gain: float | None = None


@dataclass(frozen=True)
class _Stored:
    """Files of the cache, read in parts."""

    sky: Sky
    image: Path
    mask: Path | None
    contents: _Contents
    cache: ImageCache

    def read(self, rows: slice, columns: slice) -> tuple[Image, Mask]:
        """Read rows and columns: image in the survey's common unit, and mask."""
        path = self.image
        try:
            part = read_part(path, rows, columns)
            if self.contents.empty is not None:
                part[part == self.contents.empty] = np.nan
            part /= np.float32(self.contents.divisor)
            bad = ~np.isfinite(part)
            if self.mask is not None:
                path = self.mask
                bad |= read_bad(path, self.sky.shape, rows, columns, self.contents.bad_bits)
        except DataError as error:
            raise self.cache.forget(path, error.user_message) from error
        return part, bad

    def piece(self) -> Piece:
        """Give it as a piece of a template."""
        return Piece(self.sky.wcs, self.sky.shape, self.read, self.contents.gain)


@dataclass(frozen=True)
class _CellArchive:
    """An archive of cells: where they are, the image and mask of one, and what is in them."""

    source: str
    table: Callable[[], CellTable]
    files: Callable[[str, str], Sequence[Wanted]]
    contents: Callable[[str, fits.Header], _Contents]


def _cells(archive: _CellArchive, band: str, wcs: WCS, shape: tuple[int, int], cache: ImageCache) -> Iterator[Piece]:
    table = archive.table()
    cells = table.on(wcs, shape)
    _check_count(archive.source, len(cells))
    groups = [archive.files(str(table.name[cell]), band) for cell in cells]
    for number, (image, mask) in cache.each(groups):
        if image is None:
            cache.say(f"{cache.archive.title} has no {groups[number][0].name.rpartition('/')[2]}")
            continue
        if mask is None:
            name = groups[number][1].name.rpartition("/")[2]
            cache.say(f"Warning: {cache.archive.title} has no {name}: saturated stars are not masked")
        cell = cells[number]
        try:
            sky = look_at(image, float(table.ra_deg[cell]), float(table.dec_deg[cell]), table.half_deg)
        except DataError as error:
            raise cache.forget(image, error.user_message) from error
        yield _Stored(sky, image, mask, archive.contents(band, sky.header), cache).piece()


def _check_count(source: str, count: int) -> None:
    if count > MAX_PIECES:
        raise UsageError(
            "field_too_large",
            f"The image needs {count} pieces of {TEMPLATES[source].name}, at most {MAX_PIECES} are fetched. Crop the "
            "image, or upload custom_template.fits and set template to custom.",
        )


def _ps1_files(name: str, band: str) -> Sequence[Wanted]:
    projection, cell = name.split(".")
    stem = f"rings.v3.skycell.{name}.stk.{band}.unconv"
    return [
        Wanted([f"{_PS1_URL}/{projection}/{cell}/{file}"], f"ps1/{projection}/{file}")
        for file in (f"{stem}.fits", f"{stem}.mask.fits")
    ]


def _ps1_contents(_band: str, header: fits.Header) -> _Contents:
    # stacks have a zero point of 25 + 2.5 log10(exposure); divided by the exposure it is 25 in all of them
    exposure_s = number_in(header, "EXPTIME")
    exposure_s = exposure_s if exposure_s is not None and exposure_s > 0 else 1.0
    gain = number_in(header, "CELL.GAIN")
    plausible = gain is not None and _PS1_GAIN_RANGE[0] <= gain <= _PS1_GAIN_RANGE[1]
    return _Contents(_PS1_BAD_BITS, divisor=exposure_s, gain=gain * exposure_s if plausible and gain else None)


def _legacy_files(name: str, band: str) -> Sequence[Wanted]:
    half, brick = name.split("/")
    release = _LEGACY_RELEASES[half]
    folder = f"{_LEGACY_URL}/{release}/coadd/{brick[:3]}/{brick}"
    return [
        Wanted([f"{folder}/{file}"], f"ls/{release.replace('/', '-')}/{brick[:3]}/{file}")
        for file in (f"legacysurvey-{brick}-image-{band}.fits.fz", f"legacysurvey-{brick}-maskbits.fits.fz")
    ]


def _legacy_contents(band: str, _header: fits.Header) -> _Contents:
    return _Contents(_LEGACY_BAD_BITS[band], empty=0.0)


PS1_CELLS: Final = _CellArchive("ps1", ps1_skycells, _ps1_files, _ps1_contents)
LEGACY_CELLS: Final = _CellArchive("ls", legacy_bricks, _legacy_files, _legacy_contents)


def _blocks(source: str, band: str, wcs: WCS, shape: tuple[int, int], cache: ImageCache) -> Iterator[Piece]:
    survey = HIPS_SURVEYS[source]
    hips = survey.hips[band]
    # pixels of the survey, or of a coarser level of its pyramid that is still finer than the image
    level = max(math.floor(math.log2(3600 * pixel_scale_deg(wcs) / survey.scale_arcsec)), 0)
    scale_deg = survey.scale_arcsec * 2**level / 3600
    blocks = blocks_on(wcs, shape, _BLOCK_PIX * scale_deg)
    _check_count(source, len(blocks))
    sides = [math.ceil(block.side_deg / scale_deg) for block in blocks]
    groups = [
        [
            Wanted(
                HIPS_URLS,
                f"hips/{hips.replace('/', '-')}/{level}/{block.name}.fits",
                {
                    "hips": hips,
                    "width": str(side),
                    "height": str(side),
                    "ra": f"{block.ra_deg:.8f}",
                    "dec": f"{block.dec_deg:.8f}",
                    "fov": f"{side * scale_deg:.8f}",
                    "projection": "TAN",
                    "coordsys": "icrs",
                    "format": "fits",
                },
            )
        ]
        for block, side in zip(blocks, sides, strict=True)
    ]
    for number, (path,) in cache.each(groups):
        if path is None:
            continue
        block, side = blocks[number], sides[number]
        try:
            sky = look_at(path, block.ra_deg, block.dec_deg, _BLOCK_TOLERANCE * block.side_deg, shape=(side, side))
        except DataError as error:
            raise cache.forget(path, error.user_message) from error
        yield _Stored(sky, path, None, _Contents(), cache).piece()
