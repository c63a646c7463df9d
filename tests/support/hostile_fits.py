"""Files that are meant to harm whoever reads them: seeded, small, each from one or more of the ways in WAYS.

They begin as good files, so that the damage is reached and not only the check of the first bytes. None is larger than
some 200 KB as it is stored; what they declare, or unpack to, may be anything.
"""
# ruff: noqa: SIM905  words are easier to read than lists of quotes

import gzip
import io
from collections.abc import Callable
from typing import Final

import numpy as np
from astropy.io import fits

from tests.support.fits import tan_header

BLOCK: Final = 2880
CARD: Final = 80
NUMBERS: Final = (
    "0 1 2 3 7 -1 -5760 17 999 1000 65536 2147483647 2147483648 4294967296 9223372036854775807 -9223372036854775808"
    " 99999999999999999999999 1.5 1E400 NaN inf -inf T F 'x' '' 0x10 1_000 1e-320 ٣"
).split()
STRUCTURE: Final = "SIMPLE BITPIX NAXIS NAXIS1 NAXIS2 NAXIS3 PCOUNT GCOUNT EXTEND XTENSION TFIELDS GROUPS END".split()
TILES: Final = "ZIMAGE ZBITPIX ZNAXIS ZNAXIS1 ZNAXIS2 ZTILE1 ZTILE2 ZCMPTYPE ZNAME1 ZVAL1 ZVAL2 TFORM1 THEAP".split()
WORLD: Final = (
    "CRPIX1 CRPIX2 CRVAL1 CRVAL2 CD1_1 CD1_2 CD2_1 CD2_2 PC1_1 PC2_2 CDELT1 CDELT2 CTYPE1 CTYPE2 LONPOLE LATPOLE"
    " A_ORDER B_ORDER AP_ORDER A_2_0 PV1_1 PV2_1 RADESYS EQUINOX WCSAXES MJD-OBS CUNIT1"
).split()
SCALING: Final = "BSCALE BZERO BLANK BOFFSET BSOFTEN DATAMIN DATAMAX".split()
MEANINGS: Final = "GAIN SATURATE FILTER DATE-OBS MJD EXPTIME OBJECT STDWEXT DATASEC CCDSEC LTV1 LTM1_1".split()

Random = np.random.Generator
Way = Callable[[Random, bytes], bytes]


def card(keyword: str, value: object) -> bytes:
    """Write a card as it comes, whether allowed or not; always of 80 bytes."""
    return f"{keyword:<8}= {value!s:>20}".encode("utf-8", "replace").ljust(CARD)[:CARD]


def good(random: Random) -> bytes:
    """Make a readable file: plain, an extension, a cube, or tile-compressed."""
    side = int(random.integers(4, 24))
    kind = random.choice([np.uint8, np.int16, np.int32, np.float32, np.float64])
    data = random.normal(100, 10, (side, side)).astype(kind)
    header = tan_header(side)
    shape = int(random.integers(5))
    if shape == 0:
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header)]
    elif shape == 1:
        hdus = [fits.PrimaryHDU(np.stack([data, data]), header)]
    elif shape == 2:
        packing = random.choice(["RICE_1", "GZIP_1", "GZIP_2", "PLIO_1"])
        packed = data.astype(np.int16) if packing == "PLIO_1" else data
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(packed, header, compression_type=packing, tile_shape=(4, 4))]
    else:
        hdus = [fits.PrimaryHDU(data, header)]
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content, output_verify="ignore")
    return content.getvalue()


def _places(content: bytes) -> list[int]:
    """List where cards begin, in the headers that come before pixels or tables."""
    starts = range(0, len(content) - CARD + 1, CARD)
    return [at for at in starts if content[at : at + 8].strip() and content[at : at + CARD].isascii()] or [0]


def _put(content: bytes, start: int, text: bytes) -> bytes:
    return content[:start] + text + content[start + len(text) :]


def _replace(random: Random, content: bytes, keywords: list[str]) -> bytes:
    """Give one of the keywords another value where it stands, else overwrite a card that does not matter."""
    keyword = str(random.choice(keywords))
    text = card(keyword, random.choice(NUMBERS))
    found = [start for start in _places(content) if content[start : start + 8] == keyword.encode().ljust(8)]
    return _put(content, int(random.choice(found or _places(content))), text)


def _insert(content: bytes, cards: list[bytes]) -> bytes:
    """Put cards before the end of the first header, which grows by whole blocks."""
    end = next((start for start in range(0, len(content), CARD) if content[start : start + 8] == b"END     "), 0)
    stop = -(-(end + CARD) // BLOCK) * BLOCK
    header = content[:end] + b"".join(cards) + b"END".ljust(CARD)
    return header.ljust(-(-len(header) // BLOCK) * BLOCK) + content[stop:]


def structure(random: Random, content: bytes) -> bytes:
    return _replace(random, content, STRUCTURE)


def tiles(random: Random, content: bytes) -> bytes:
    return _replace(random, content, TILES)


def world(random: Random, content: bytes) -> bytes:
    for _ in range(int(random.integers(1, 6))):
        content = _replace(random, content, WORLD)
    return content


def no_matrix(random: Random, content: bytes) -> bytes:
    names = [f"{random.choice(['CD', 'PC'])}{i}_{j}" for i in (1, 2) for j in (1, 2)]
    return _insert(content, [card(name, random.choice(["0.0", "NaN", "1E-300"])) for name in names])


def scaling(random: Random, content: bytes) -> bytes:
    names = random.choice(SCALING, 2)
    return _insert(content, [card(name, random.choice([*NUMBERS, "1E308", "-1E308"])) for name in names])


def meanings(random: Random, content: bytes) -> bytes:
    texts = [*NUMBERS, "'%s%n%x'", "'{0.__class__}'", "'2026-99-99T99:99:99'", "'[1:0,-5:99999999999999999999]'"]
    return _insert(content, [card(name, random.choice(texts)) for name in random.choice(MEANINGS, 3)])


def bytes_anywhere(random: Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in random.integers(0, len(content), int(random.integers(1, 20))):
        damaged[place] = random.integers(256)
    return bytes(damaged)


def cards_anywhere(random: Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in random.integers(0, min(len(content), 2 * BLOCK), int(random.integers(1, 20))):
        damaged[place] = random.choice(np.frombuffer(b"'=/ .-+0E&,N\x00\x0c\n\xe9", np.uint8))
    return bytes(damaged)


def cut(random: Random, content: bytes) -> bytes:
    return content[: int(random.integers(0, len(content)))]


def swapped(random: Random, content: bytes) -> bytes:
    first, second = random.choice(_places(content), 2)
    one, other = content[first : first + CARD], content[second : second + CARD]
    return _put(_put(content, int(first), other), int(second), one)


def twice(random: Random, content: bytes) -> bytes:
    keyword = str(random.choice([*STRUCTURE, *SCALING, *WORLD]))
    return _insert(content, [card(keyword, random.choice(NUMBERS)) for _ in range(int(random.integers(1, 40)))])


def continued(random: Random, content: bytes) -> bytes:
    """Strings that never end, or are of nothing."""
    first = random.choice([b"LONGSTR = 'x&'", b"OBJECT  = '&'", b"HIERARCH A B = 'x&'"]).ljust(CARD)
    more = random.choice([b"CONTINUE  'y&'", b"CONTINUE  '&'", b"CONTINUE", b"CONTINUE= 'y&'"]).ljust(CARD)
    return _insert(content, [first, *[more] * int(random.integers(1, 500))])


def hierarch(random: Random, content: bytes) -> bytes:
    texts = [b"HIERARCH", b"HIERARCH =", b"HIERARCH  = 1", b"HIERARCH " + b"A " * 34, b"HIERARCH END = 1"]
    texts += [b"HIERARCH NAXIS1 = 99999999", b"hierarch x y='", b"HIERARCH \xc3\xa9 = 'x'"]
    return _insert(content, [random.choice(texts).ljust(CARD) for _ in range(int(random.integers(1, 20)))])


def comments(random: Random, content: bytes) -> bytes:
    text = random.choice([b"HISTORY ", b"COMMENT ", b"        ", b"\xff" * 8]) + random.bytes(72)
    return _insert(content, [text] * int(random.integers(1, 300)))


def many_parts(random: Random, content: bytes) -> bytes:
    cards = [b"XTENSION= 'IMAGE   '".ljust(CARD), card("BITPIX", 8), card("NAXIS", 1)]
    cards += [card("NAXIS1", random.choice(["0", "-2880", "1"])), card("PCOUNT", 0), card("GCOUNT", 1)]
    part = b"".join([*cards, b"END"]).ljust(BLOCK)
    primary = b"".join([card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0), b"END"]).ljust(BLOCK)
    return primary + part * int(random.integers(1, 50)) + content


def table(random: Random, content: bytes) -> bytes:
    rows = fits.BinTableHDU.from_columns([fits.Column("x", random.choice(["E", "20A", "K"]))], nrows=5)
    made = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), rows]).writeto(made, output_verify="ignore")
    return made.getvalue() + content[: BLOCK * int(random.integers(3))]


def packed(random: Random, content: bytes) -> bytes:
    return gzip.compress(content + bytes(int(random.integers(1 << 22))), 1)


def packed_and_cut(random: Random, content: bytes) -> bytes:
    return cut(random, gzip.compress(content, 1))


WAYS: Final[tuple[Way, ...]] = (
    structure,
    tiles,
    world,
    no_matrix,
    scaling,
    meanings,
    bytes_anywhere,
    cards_anywhere,
    cut,
    swapped,
    twice,
    continued,
    hierarch,
    comments,
    many_parts,
    table,
    packed,
    packed_and_cut,
)


def hostile(seed: int) -> bytes:
    """Make a file; the same for the same seed."""
    random = np.random.default_rng(seed)
    content = good(random)
    for number in random.integers(len(WAYS), size=int(random.choice([1, 1, 2, 3]))):
        content = WAYS[number](random, content) if content else content
    return content
