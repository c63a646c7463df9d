"""Repairing headers: each fault alone, and that nothing right is touched."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from shared.contracts.edits import IMAGE
from shared.errors import DataError
from shared.science.images import quiet_fits
from shared.science.repair import repair_header
from shared.science.wcs import usable_wcs
from tests.support import fits as files
from tests.support.edits import fix_request, run_edit
from tests.unit.test_edits import sip_header, tpv_header


def header_with(*cards: str, without: tuple[str, ...] = ()) -> fits.Header:
    """Give the header of a good observation with cards as no writer would write them."""
    good = files.observation()
    for key in without:
        del good[key]
    text = "".join(str(card) for card in good.cards) + "".join(card.ljust(80)[:80] for card in cards)
    with quiet_fits():
        return fits.Header.fromstring(text.encode("latin-1", "replace"))


def repaired(*cards: str, without: tuple[str, ...] = ()) -> tuple[fits.Header, list[str]]:
    header, notes = repair_header(header_with(*cards, without=without))
    for card in header.cards:
        card.verify("exception")
    again, nothing = repair_header(header)
    assert nothing == []
    assert again.tostring() == header.tostring()
    return header, notes


def test_a_good_header_stays_as_it_is() -> None:
    for good in (files.observation(), sip_header(), tpv_header()):
        header, notes = repair_header(good)
        assert notes == []
        assert header.tostring() == good.tostring()


@pytest.mark.parametrize(
    ("card", "key", "value", "told"),
    [
        ("OBJECT  = NGC 123", "OBJECT", "NGC 123", 0),
        ("OBJECT  = 'NGC 123", "OBJECT", "NGC 123", 1),
        ("exptime = 3.0", "EXPTIME", 3.0, 0),
        ("EXPTIME = '60.5'", "EXPTIME", 60.5, 1),
        ("EXPTIME = 12,5", "EXPTIME", 12.5, 1),
        ("EXPTIME =1.5", "EXPTIME", 1.5, 1),
        ("EGAIN   = '1.5D+00'", "EGAIN", 1.5, 1),
        ("AIRMASS = '2'", "AIRMASS", 2, 1),
        ("FOO%BAR = 3", "FOO_BAR", 3, 1),
        ("AB CD   = 'x'", "AB_CD", "x", 1),
        ("FLAG    = TRUE", "FLAG", "TRUE", 0),
        ("EQUINOX = 'J2000'", "EQUINOX", 2000.0, 1),
        ("EPOCH   = 2000.0", "EQUINOX", 2000.0, 1),
        ("RADECSYS= 'FK5'", "RADESYS", "FK5", 1),
    ],
)
def test_cards_are_mended(card: str, key: str, value: object, told: int) -> None:
    header, notes = repaired(card)
    assert header[key] == value
    assert type(header[key]) is type(value)
    assert len(notes) == told


@pytest.mark.parametrize("card", ["ZP      = NaN", "ZP      = 'nan'", "ZP      = -inf", "%%%%%%%%= 3"])
def test_cards_that_say_nothing_go(card: str) -> None:
    header, notes = repaired(card)
    assert "ZP" not in header
    assert len(header) == len(files.observation())
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("cards", "date"),
    [
        (("DATE-OBS= '29/11/51'",), "1951-11-29T00:00:00"),
        (("DATE-OBS= '29/11/51'", "TIME-OBS= '1:02:03.5'"), "1951-11-29T01:02:03.500000"),
        (("DATE-OBS= '15/10/2026'",), "2026-10-15T00:00:00"),
        (("DATE-OBS= '2026-10-15 22:10:00'",), "2026-10-15T22:10:00"),
        (("DATE-OBS= '2026-10-15T22:10:00Z'",), "2026-10-15T22:10:00"),
        (("DATE-OBS= '2026-10-15'", "UT      = '22:10:00'"), "2026-10-15T22:10:00"),
        (("DATEOBS = '2026-10-15T22:10:00'",), "2026-10-15T22:10:00"),
        (("MJD-OBS = 61328.5",), "2026-10-15T12:00:00"),
        (("DATE-OBS= 'yesterday'",), "yesterday"),
        (("DATE-OBS= '2026-10-15'",), "2026-10-15"),
    ],
)
def test_dates_become_standard(cards: tuple[str, ...], date: str) -> None:
    header, _ = repaired(*cards, without=("DATE-OBS",))
    assert header["DATE-OBS"] == date


def test_of_repeated_cards_one_stays() -> None:
    header, notes = repaired("CRVAL1  = 121.5", "FILTER  = 'g'", "COMMENT one", "COMMENT two")
    assert (header["CRVAL1"], header["FILTER"]) == (121.5, "r")
    assert (header.count("CRVAL1"), header.count("FILTER"), header.count("COMMENT")) == (1, 1, 2)
    assert notes == ["CRVAL1: 2 cards, one kept", "FILTER: 2 cards, one kept"]


def place(header: fits.Header) -> np.ndarray:
    """Map some pixels of a header to the sky."""
    x, y = np.meshgrid(np.linspace(0, 255, 5), np.linspace(0, 255, 5))
    with quiet_fits():
        return np.array(WCS(header, naxis=2).all_pix2world(x.ravel(), y.ravel(), 0))


def test_one_matrix_stays() -> None:
    header, notes = repaired("PC1_1   = 1.0", "PC2_2   = 1.0", "CDELT1  = 0.5", "CDELT2  = 0.5", "CROTA2  = 30.0")
    assert not {"PC1_1", "PC2_2", "CDELT1", "CDELT2", "CROTA2"} & set(header)
    assert len(notes) == 2
    assert np.array_equal(place(header), place(files.observation()))


SIP_TERMS = [f"{key:<8}= {value!r}" for key, value in sip_header().items() if key.startswith(("A_", "B_"))]
PV_TERMS = [f"{key:<8}= {value!r}" for key, value in tpv_header().items() if key.startswith("PV")]


@pytest.mark.parametrize(
    ("cards", "truth", "gone"),
    [
        (SIP_TERMS, sip_header(), ()),
        ([card for card in SIP_TERMS if "ORDER" not in card], sip_header(), ()),
        ([card for card in SIP_TERMS if card.startswith("A")], files.tan_header(), ("A_ORDER", "A_2_0")),
        ([*SIP_TERMS, "PV1_1   = 1.2", "PV2_1   = 1.3"], sip_header(), ("PV1_1", "PV2_1")),
        (PV_TERMS, tpv_header(), ()),
    ],
    ids=["no -SIP", "no order", "half a polynomial", "SIP and PV", "SCAMP"],
)
def test_types_say_what_distortion_there_is(cards: list[str], truth: fits.Header, gone: tuple[str, ...]) -> None:
    header, notes = repaired(*cards)
    assert notes
    assert not set(gone) & set(header)
    truth["CRPIX1"] = truth["CRPIX2"] = header["CRPIX1"]
    assert (header["CTYPE1"], header["CTYPE2"]) == (truth["CTYPE1"], truth["CTYPE2"])
    assert np.abs(place(header) - place(truth)).max() < 1e-9  # degrees
    assert usable_wcs(header) is not None


def test_a_type_without_its_polynomial_loses_the_name() -> None:
    header, notes = repaired("CTYPE1  = 'RA---TAN-SIP'", "CTYPE2  = 'DEC--TAN-SIP'", without=("CTYPE1", "CTYPE2"))
    assert (header["CTYPE1"], header["CTYPE2"]) == ("RA---TAN", "DEC--TAN")
    assert len(notes) == 2


def test_types_and_units_are_spelt_as_the_standard_does() -> None:
    cards = ("CTYPE1  = 'ra--tan'", "CTYPE2  = 'DEC---TAN '", "CUNIT1  = 'Degrees'", "CUNIT2  = 'DEG'")
    header, _ = repaired(*cards, without=("CTYPE1", "CTYPE2"))
    assert [header[key] for key in ("CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2")] == ["RA---TAN", "DEC--TAN", "deg", "deg"]
    assert np.array_equal(place(header), place(files.observation()))


@pytest.mark.parametrize(
    "cards",
    [
        ("CD1_1   = 0.0", "CD1_2   = 0.0", "CD2_1   = 0.0", "CD2_2   = 0.0"),
        ("CRVAL1  = 'none'",),
        ("CD1_1   = 'x'",),
        ("CRVAL1  = NaN", "CRPIX1  = NaN"),
    ],
)
def test_coordinates_that_say_nothing_go(cards: tuple[str, ...]) -> None:
    header, notes = repaired(*cards, without=tuple(card[:8].strip() for card in cards))
    if "NaN" in cards[0]:
        assert "CRVAL1" not in header
        return
    assert not {"CTYPE1", "CRVAL1", "CRPIX2", "CD2_2"} & set(header)
    assert "world coordinates that give no scale or position removed" in notes


def no_end_padding(path: Path) -> None:
    files.write(path, files.field(250), files.observation(250))
    path.write_bytes(path.read_bytes()[: 2880 + 4 * 250 * 250])


@pytest.mark.parametrize("make", [files.illegal_cards, files.bscale_is_text, no_end_padding])
def test_files_that_break_the_standard_conform_afterwards(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / IMAGE)
    path = run_edit(tmp_path, fix_request()) / IMAGE
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert np.isfinite(hdus[0].data).all()
        for card in hdus[0].header.cards:
            card.verify("exception")
    assert path.stat().st_size % 2880 == 0
    assert usable_wcs(fits.getheader(path)) is not None


def test_what_was_repaired_is_told_in_the_history(tmp_path: Path) -> None:
    files.with_cards(DATE__OBS="29/11/51")(tmp_path / IMAGE)
    history = list(fits.getheader(run_edit(tmp_path, fix_request()) / IMAGE)["HISTORY"])
    assert history == ["stdweb: fix: DATE-OBS: '29/11/51' became 1951-11-29T00:00:00"]


def test_damaged_headers_are_repaired_or_refused(tmp_path: Path) -> None:
    """Random damage to the cards, but for those that say how long the file is."""
    header = sip_header()
    header["LONGSTR"] = "x" * 150
    header["HIERARCH ESO DET X"] = 3
    content = files.write(tmp_path / "good.fits", files.field(32), header).read_bytes()
    random = np.random.default_rng(8)
    repaired_files = 0
    for number in range(60):
        damaged = bytearray(content)
        for place in random.integers(480, 2880, random.integers(1, 12)):
            damaged[place] = random.choice(np.frombuffer(b"'=/ .-+0E&,N\x00\x0c\xe9", np.uint8))
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / IMAGE).write_bytes(damaged)
        with contextlib.suppress(DataError), quiet_fits():
            path = run_edit(folder, fix_request()) / IMAGE
            with fits.open(path) as hdus:
                hdus.verify("exception")
                for card in hdus[0].header.cards:
                    card.verify("exception")
                assert hdus[0].data.shape == (32, 32)
            repaired_files += 1
    assert repaired_files > 40
