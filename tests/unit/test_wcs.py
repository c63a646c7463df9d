import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from shared.science.astrometry_sip import fit_sip, from_tangent_plane, tangent_plane
from shared.science.images import clean_header, quiet_fits
from shared.science.wcs import field_moc, field_of, moc_string, pixel_of, pixel_scale_deg, usable_wcs, wcs_header
from tests.support import fits as made


def header_with(**cards: object) -> fits.Header:
    header = fits.Header({"NAXIS": 2, "NAXIS1": made.SIDE, "NAXIS2": made.SIDE})
    header.update(made.tan_header())
    for key, value in cards.items():
        if value is None:
            header.remove(key)
        else:
            header[key] = value
    return header


def separation_arcsec(one: WCS, header: fits.Header) -> float:
    """Largest distance on the sky between a solution and what astropy makes of a header."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 255, 9), np.linspace(0, 255, 9)))
    with quiet_fits():
        other = WCS(header, naxis=2)
        there = other.pixel_to_world(x, y)
    return float(SkyCoord(*one.all_pix2world(x, y, 0), unit="deg").separation(there.icrs).arcsec.max())


GOOD = {
    "plain": {},
    "TAN with PV terms": made.TPV,
    "TPV": {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", **made.TPV},
    "SIP": {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 2,
        "B_ORDER": 2,
        "A_2_0": 1e-5,
        "B_0_2": -2e-5,
    },
    "IRAF leftovers": {
        "WAT0_001": "system=image",
        "WAT1_001": "wtype=tan axtype=ra",
        "LTV1": -3.0,
        "LTM1_1": 1.0,
        "WCSDIM": 2,
    },
    "galactic": {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "B1950": {"RADESYS": "FK4", "EQUINOX": 1950.0},
    "declination first": {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 35.0, "CRVAL2": 120.0},
    "zenithal": {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 40.0},
    "third axis": {"NAXIS": 3, "NAXIS3": 1},
}


@pytest.mark.parametrize("cards", GOOD.values(), ids=GOOD.keys())
def test_usable_headers_mean_what_they_say(cards):
    header = header_with(**cards)
    wcs = usable_wcs(header)
    assert wcs is not None
    assert separation_arcsec(wcs, header) < 0.05
    assert wcs.wcs.ctype[0] in {"RA---TAN", "RA---TAN-SIP"}
    # what is stored is what was found
    assert separation_arcsec(WCS(wcs_header(wcs)), wcs_header(wcs)) < 1e-6
    again = usable_wcs(wcs_header(wcs))
    np.testing.assert_allclose(again.all_pix2world(10, 250, 0), wcs.all_pix2world(10, 250, 0), atol=1e-9)


def test_sip_without_the_suffix_is_applied():
    cards = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_0_2": -2e-5}
    named = header_with(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **cards)
    assert separation_arcsec(usable_wcs(header_with(**cards)), named) < 1e-6


def test_numbers_written_as_strings():
    assert separation_arcsec(usable_wcs(header_with(CRVAL1="120.0", CD1_1=str(-made.SCALE_DEG))), header_with()) < 1e-6


def test_half_a_distortion_is_left_out():
    assert separation_arcsec(usable_wcs(header_with(A_ORDER=2, A_2_0=1e-5)), header_with()) < 1e-6


def test_absurd_distortion_is_left_out():
    cards = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 100.0, "B_0_2": 100.0}
    assert separation_arcsec(usable_wcs(header_with(**cards)), header_with()) < 1e-6


UNUSABLE = {
    "zeros": {"CD1_1": 0.0, "CD2_2": 0.0, "CRVAL1": 0.0, "CRVAL2": 0.0, "CRPIX1": 0.0, "CRPIX2": 0.0},
    "singular": {"CD1_1": 1e-4, "CD1_2": 1e-4, "CD2_1": 1e-4, "CD2_2": 1e-4},
    "no scale": {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None},
    "no position": {"CRVAL1": None},
    "sexagesimal position": {"CRVAL1": "08:00:00"},
    "text for a scale": {"CD1_1": "small"},
    "100 arcsec a pixel": {"CD1_1": -100 / 3600, "CD2_2": 100 / 3600},
    "not celestial": {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
    "unknown projection": {"CTYPE1": "RA---XXX", "CTYPE2": "DEC--XXX"},
}


@pytest.mark.parametrize("cards", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_headers(cards):
    assert usable_wcs(clean_header(header_with(**cards))) is None


def test_repeated_cards_that_are_no_numbers_go_together():
    header = header_with(EQUINOX="x")
    header.append(("EQUINOX", "y"), end=True)
    assert usable_wcs(header) is not None


def test_empty_header():
    assert usable_wcs(fits.Header()) is None


def plate_header() -> fits.Header:
    """A plate solution as the Digitized Sky Survey writes it; the plate's centre is the field's."""
    header = fits.Header({"NAXIS": 2, "NAXIS1": made.SIDE, "NAXIS2": made.SIDE, "EQUINOX": 2000.0})
    header.update(
        {"PLTRAH": 8, "PLTRAM": 0, "PLTRAS": 0.0, "PLTDECSN": "+", "PLTDECD": 35, "PLTDECM": 0, "PLTDECS": 0.0}
    )
    header.update({"PLTSCALE": 67.2, "XPIXELSZ": 25.28, "YPIXELSZ": 25.28, "CNPIX1": 5000 - 128, "CNPIX2": 5000 - 128})
    header.update({"PPO1": 0.0, "PPO2": 0.0, "PPO3": 5000 * 25.28, "PPO4": 0.0, "PPO5": 0.0, "PPO6": 5000 * 25.28})
    for axis in "XY":
        for number in range(1, 21):
            header[f"AMD{axis}{number}"] = 67.2 if number == 1 else 0.0
    return header


def test_plate_solution():
    wcs = usable_wcs(plate_header())
    assert wcs is not None
    ra, dec, radius = field_of(wcs, (made.SIDE, made.SIDE))
    scale_deg = 67.2 * 25.28e-3 / 3600
    assert pixel_scale_deg(wcs) == pytest.approx(scale_deg, rel=1e-3)
    assert (ra, dec) == pytest.approx(made.CENTRE, abs=2 * scale_deg)
    assert radius == pytest.approx(scale_deg * 128 * 2**0.5, rel=0.01)


@pytest.mark.parametrize("centre", [(120.0, 35.0), (0.0, -89.9), (359.99, 0.0)])
def test_field_and_its_coverage(centre):
    header = made.tan_header(1000, centre)
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 1000, 1000
    wcs = usable_wcs(header)
    ra, dec, radius = field_of(wcs, (1000, 1000))
    # rows and columns centre at 499.5 and the reference is pixel 500.5, counted from 1
    assert SkyCoord(ra, dec, unit="deg").separation(SkyCoord(*centre, unit="deg")).arcsec < 0.01
    assert radius == pytest.approx(1000 / 3600 / 2**0.5, rel=1e-3)
    moc = field_moc(wcs, (1000, 1000))
    area_deg2 = moc.sky_fraction * 4 * np.pi * np.rad2deg(1) ** 2
    assert area_deg2 == pytest.approx((1000 / 3600) ** 2, rel=0.15)
    assert moc.contains_skycoords(SkyCoord(ra, dec, unit="deg")).all()
    assert len(moc_string(moc)) < 20_000
    assert "/" in moc_string(moc)


def test_pixels_of_positions():
    wcs = usable_wcs(header_with())
    assert pixel_of(wcs, *made.CENTRE) == pytest.approx((127.5, 127.5), abs=1e-6)
    assert np.isnan(pixel_of(wcs, 300.0, -35.0)).all()


def test_tangent_plane_there_and_back():
    ra, dec = np.array([119.0, 120.0, 121.0]), np.array([34.0, 35.0, 36.0])
    xi, eta = tangent_plane(ra, dec, 120.0, 35.0)
    np.testing.assert_allclose(from_tangent_plane(xi, eta, 120.0, 35.0), [ra, dec], atol=1e-12)
    assert np.isnan(tangent_plane(np.array([300.0]), np.array([-35.0]), 120.0, 35.0)).all()


def test_fitted_solution_and_its_inverse():
    header = header_with(
        CTYPE1="RA---TAN-SIP",
        CTYPE2="DEC--TAN-SIP",
        A_ORDER=3,
        B_ORDER=3,
        A_2_0=2e-5,
        A_1_2=1e-8,
        B_1_1=1e-5,
        B_0_3=1e-8,
    )
    truth = WCS(header)
    x, y = np.random.default_rng(2).uniform(0, 255, (2, 300))
    ra, dec = truth.all_pix2world(x, y, 0)
    fitted = fit_sip(x, y, ra, dec, shape=(256, 256), order=3)
    assert separation_arcsec(fitted, header) < 1e-5
    # the inverse polynomials serve programs that do not iterate
    u, v = (np.stack(fitted.wcs_world2pix(ra, dec, 1)).T - fitted.wcs.crpix).T
    shift_u, shift_v = (
        sum(matrix[i, j] * u**i * v**j for i in range(4) for j in range(4)) for matrix in (fitted.sip.ap, fitted.sip.bp)
    )
    assert (
        np.hypot(u + shift_u - (x + 1 - fitted.wcs.crpix[0]), v + shift_v - (y + 1 - fitted.wcs.crpix[1])).max() < 0.05
    )
