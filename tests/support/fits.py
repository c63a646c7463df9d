"""Makes FITS files: a small field of stars with known truth, and files that are wrong in every way seen in practice."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

CENTRE = (120.0, 35.0)
SIDE = 256
SCALE_DEG = 1 / 3600
BACKGROUND = 800.0
GAIN = 1.6


def tan_header(side: int = SIDE, centre: tuple[float, float] = CENTRE) -> fits.Header:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = centre
    header["CRPIX1"] = header["CRPIX2"] = (side + 1) / 2
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -SCALE_DEG, 0.0, 0.0, SCALE_DEG
    return header


def observation(side: int = SIDE, centre: tuple[float, float] = CENTRE) -> fits.Header:
    header = tan_header(side, centre)
    header["DATE-OBS"] = "2026-10-15T22:10:00.000"
    header["FILTER"] = "r"
    header["GAIN"] = GAIN
    header["SATURATE"] = 57000.0
    return header


def star(image: NDArray, x: float, y: float, flux: float, sigma: float = 1.5) -> None:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    image += (flux * profile).astype(image.dtype)


def field(side: int = SIDE, stars: int = 30, seed: int = 1) -> NDArray[np.float32]:
    """Stars on a flat background with its photon noise."""
    random = np.random.default_rng(seed)
    image = np.full((side, side), BACKGROUND)
    for x, y, flux in zip(*random.uniform(0, side, (2, stars)), 10 ** random.uniform(3, 5, stars), strict=True):
        star(image, x, y, flux)
    return random.normal(image, np.sqrt(image / GAIN)).astype(np.float32)


def write(path: Path, data: NDArray | None, header: fits.Header | None = None) -> Path:
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True, output_verify="ignore")
    return path


def patch_card(path: Path, keyword: str, text: str) -> None:
    """Overwrite a card of the first header with raw text, as no writer would."""
    content = bytearray(path.read_bytes())
    for start in range(0, len(content), 80):
        if content[start : start + 8].decode("ascii", "replace").rstrip() == keyword:
            content[start : start + 80] = text.ljust(80).encode("latin-1")[:80]
            path.write_bytes(content)
            return
        if content[start : start + 80].rstrip() == b"END":
            break
    raise KeyError(keyword)


def card(keyword: str, value: object) -> str:
    return f"{keyword:<8}= {value!s:>20}"


def with_cards(**cards: object) -> Callable[[Path], None]:
    """Make the writer of a good field with some cards changed; None removes one. `__` stands for a dash."""

    def make(path: Path) -> None:
        header = observation()
        for name, value in cards.items():
            key = name.replace("__", "-")
            if value is None:
                header.remove(key, ignore_missing=True)
            else:
                header[key] = value
        write(path, field(), header)

    return make


def with_pixels(change: Callable[[NDArray], NDArray], **cards: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        header = observation()
        for name, value in cards.items():
            header[name] = value
        write(path, change(field()), header)

    return make


def not_fits(path: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def only_the_first_word(path: Path) -> None:
    path.write_bytes(b"SIMPLE  =                    T")


def truncated(path: Path) -> None:
    write(path, field(), observation())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def truncated_header(path: Path) -> None:
    write(path, field(), observation())
    path.write_bytes(path.read_bytes()[:800])


def truncated_gzip(path: Path) -> None:
    gzipped(path)
    path.write_bytes(path.read_bytes()[:-2000])


def gzipped(path: Path) -> None:
    write(path, field(), observation())
    path.write_bytes(gzip.compress(path.read_bytes(), 1))


def bomb(path: Path) -> None:
    """A file that unpacks to zeros without end, nearly."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"SIMPLE  =                    T".ljust(2880))
        file.write(bytes(1 << 25))


def declares_too_much(path: Path) -> None:
    write(path, field(), observation())
    patch_card(path, "NAXIS2", card("NAXIS2", 20_000))


def declares_the_absurd(path: Path) -> None:
    write(path, field(), observation())
    patch_card(path, "NAXIS1", card("NAXIS1", 2_000_000_000))


def declares_more_than_any_disk(path: Path) -> None:
    write(path, field(), observation())
    for axis in ("NAXIS1", "NAXIS2"):
        patch_card(path, axis, card(axis, 2_000_000_000))


def declares_negative(path: Path) -> None:
    write(path, field(), observation())
    patch_card(path, "NAXIS1", card("NAXIS1", -5))


def twenty_thousand_square(path: Path) -> None:
    """A header of 20,000 × 20,000 bytes with no more than its first block behind it."""
    header = observation()
    primary = fits.PrimaryHDU(np.zeros((16, 16), np.uint8), header)
    primary.writeto(path, overwrite=True)
    patch_card(path, "NAXIS1", card("NAXIS1", 20_000))
    patch_card(path, "NAXIS2", card("NAXIS2", 20_000))


def bad_bitpix(path: Path) -> None:
    write(path, field(), observation())
    patch_card(path, "BITPIX", card("BITPIX", 17))


def bscale_is_text(path: Path) -> None:
    header = observation()
    header["BSCALE"] = 1.0
    hdu = fits.PrimaryHDU(field().astype(np.int16), header)
    hdu.header["BSCALE"] = 2.0
    hdu.writeto(path, overwrite=True, output_verify="ignore")
    content = path.read_bytes()
    start = content.index(b"BSCALE  ") if b"BSCALE  " in content else content.index(b"GAIN    ")
    path.write_bytes(content[:start] + b"BSCALE  = 'one     '".ljust(80) + content[start + 80 :])


def table_only(path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(5.0))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


def no_data(path: Path) -> None:
    fits.PrimaryHDU().writeto(path, overwrite=True)


def one_dimensional(path: Path) -> None:
    write(path, np.arange(1000, dtype=np.float32))


def one_pixel(path: Path) -> None:
    write(path, np.ones((1, 1), np.float32))


def one_row(path: Path) -> None:
    write(path, np.arange(1000, dtype=np.float32).reshape(1, 1000))


def in_extension(path: Path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["OBSERVER"] = "nobody"
    fits.HDUList([primary, fits.ImageHDU(field(), observation())]).writeto(path, overwrite=True)


def compressed(path: Path) -> None:
    image = fits.CompImageHDU(field().astype(np.int16), observation(), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, overwrite=True)


def damaged_compression(path: Path) -> None:
    compressed(path)
    content = bytearray(path.read_bytes())
    content[-60_000:-2880] = bytes(len(content[-60_000:-2880]))
    path.write_bytes(content)


def cube(path: Path) -> None:
    write(path, np.stack([field(), field(seed=2), field(seed=3)]), observation())


def thin_cube(path: Path) -> None:
    write(path, field()[None, None], observation())


def junk_behind(path: Path) -> None:
    write(path, field(), observation())
    path.write_bytes(path.read_bytes() + b"junk" * 1000)


def illegal_cards(path: Path) -> None:
    header = observation()
    header["XYZ1"] = 1
    header["XYZ2"] = 2
    write(path, field(), header)
    patch_card(path, "XYZ1", "XYZ1    = 'no end of this string")
    patch_card(path, "XYZ2", "XYZ2    = caf\xe9 \x01\x02")


def unsigned(path: Path) -> None:
    write(path, np.clip(field() + 40_000, 0, 65_535).astype(np.uint16), observation())


def scaled(path: Path) -> None:
    hdu = fits.PrimaryHDU(field(), observation())
    hdu.scale("int16", bzero=1000.5, bscale=0.5)
    hdu.writeto(path, overwrite=True)


def blanks(path: Path) -> None:
    data = field().astype(np.int16)
    data[:20] = -32768
    header = observation()
    header["BLANK"] = -32768
    write(path, data, header)


def big_endian_doubles(path: Path) -> None:
    write(path, field().astype(">f8"), observation())


def asinh(path: Path) -> None:
    header = observation()
    header["BOFFSET"], header["BSOFTEN"] = 10.0, 100.0
    write(path, (2.5 * np.log10(np.e) * np.arcsinh((field() - 10) / 200)).astype(np.float32), header)


def _tpv(**more: float) -> dict[str, float]:
    return {"PV1_0": 0.0, "PV1_1": 1.001, "PV1_2": 0.0, "PV2_0": 0.0, "PV2_1": 1.001, **more}


TPV = _tpv(PV1_4=1e-3, PV2_7=1e-3)


def not_finite(image: NDArray) -> NDArray:
    image[:40] = np.nan
    image[40:50] = np.inf
    image[50:60] = -np.inf
    return image


def saturated(image: NDArray) -> NDArray:
    image[:, : int(0.99 * image.shape[1])] = 65_535
    return image
