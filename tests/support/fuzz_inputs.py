"""What a guided fuzzer changes instead of FITS files: the same without blanks, so that a letter more moves no card.

    3 bytes of options | header lines | newline = newline | pixels | newline = newline | header lines | ...

Lines become cards of 80 bytes, headers and pixels are filled up to blocks of 2880 bytes.
"""

import gzip
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.support.hostile_fits import (
    BLOCK,
    CARD,
    MEANINGS,
    NUMBERS,
    SCALING,
    STRUCTURE,
    TILES,
    WAYS,
    WORLD,
    good,
    packed,
    packed_and_cut,
)

MAX_INPUT_BYTES: Final = 2048
BORDER: Final = b"\n=\n"
_OPTIONS: Final = 3
_PIXEL_BYTES: Final = 512
_RAW, _PACKED, _EXT = 1, 2, 4
_TEXTS: Final = ("'RA---TAN'", "'DEC--SIP'", "'2026-01-01T00:00:00'", "'RICE_1'", "'[1:9,1:9]'", "&'", "CONTINUE  '")
_WORDS: Final = ("HIERARCH ", "HISTORY stdweb: asinh scaling", "CTYPE1A", "CRPIX1A", "TIME-OBS", "NAXIS999", "PS1_1")


@dataclass(frozen=True)
class FuzzInput:
    """What a fuzzer's bytes mean.

    Parameters
    ----------
    content
        The file.
    ext
        Number of the extension to look at; None for the first usable one.
    numbers
        Two bytes to choose options from.
    """

    content: bytes
    ext: int | None
    numbers: tuple[int, int]


def file_of(data: bytes) -> FuzzInput:
    """Make the file of a fuzzer's bytes."""
    flags, first, second = data[:_OPTIONS].ljust(_OPTIONS, b"\0")
    content = data[_OPTIONS:]
    if not flags & _RAW:
        content = b"".join(
            (_pixels if number % 2 else _header)(part) for number, part in enumerate(content.split(BORDER))
        )
    if flags & _PACKED:
        content = gzip.compress(content, 1)
    return FuzzInput(content, first % 4 if flags & _EXT else None, (first, second))


def _header(lines: bytes) -> bytes:
    content = b"".join(line[:CARD].ljust(CARD) for line in lines.split(b"\n"))
    return content.ljust(_whole(len(content)))


def _pixels(start: bytes) -> bytes:
    """Repeat what there is up to the end of a block."""
    size = _whole(len(start))
    return (start * (size // len(start) + 1))[:size] if start else b""


def _whole(size: int) -> int:
    return max(-(-size // BLOCK), 1) * BLOCK


def _folded(content: bytes) -> bytes:
    """Write a FITS file as a fuzzer's bytes; it need not be a good one."""
    parts: list[bytes] = []
    place = 0
    while place < len(content):
        lines: list[bytes] = []
        while place < len(content) and (not lines or lines[-1] != b"END"):
            lines.append(content[place : place + CARD].rstrip().replace(b"\n", b" "))
            place += CARD
        parts.append(b"\n".join(lines))
        place = _whole(place) if place else 0
        following = content.find(b"XTENSION=", place)
        data = content[place : following if following >= 0 else len(content)]
        parts.append(data[:_PIXEL_BYTES].rstrip(b"\0").replace(BORDER, b""))
        place += len(data)
    return BORDER.join(parts)


def seed_inputs(seed: int, count: int) -> list[bytes]:
    """Make inputs to begin with, good and hostile ones; the same for the same seed."""
    made: list[bytes] = []
    ways = [way for way in WAYS if way not in {packed, packed_and_cut}]
    for number in range(seed, seed + count):
        random = np.random.default_rng(number)
        content = good(random)
        if number % 2:
            content = ways[int(random.integers(len(ways)))](random, content)
        options = bytes([_PACKED * (number % 16 == 0) | _EXT * (number % 4 == 1), *random.bytes(2)])
        folded = options + _folded(content)
        made += [folded] if len(folded) <= MAX_INPUT_BYTES else []
    return made


def dictionary() -> str:
    """Give words that cards are made of, as libFuzzer's dictionaries are written."""
    words = [f"{key:<8}= " for key in {*STRUCTURE, *TILES, *WORLD, *SCALING, *MEANINGS}]
    words += [*(number for number in NUMBERS if number.isascii()), *_TEXTS, *_WORDS, BORDER.decode(), "\nEND"]
    escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in sorted(words))
    return "".join(f'"{word}"\n' for word in escaped)
