"""The simulator: the same for the same seed, and its truth is what the image shows."""

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from shared.science.catalogs import fetch_catalog
from shared.worker.step import Resources
from stdweb.sky import make_sky, simulate, simulate_template, simulate_wide
from stdweb.sky.observe import COLOR_TERM, COSMIC_RAY, HOT_PIXEL
from stdweb.sky.render import aperture_fraction, draw_galaxies, draw_stars

SIZE = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sky")


@pytest.fixture(scope="module")
def observation(folder):
    return simulate(folder / "first", size=SIZE, seed=5, mirror_dir=folder / "mirror")


@pytest.fixture(scope="module")
def isolated(observation):
    truth = observation.truth
    inside = np.all([(truth[axis] > 30) & (truth[axis] < SIZE - 30) for axis in "xy"], axis=0)
    chosen = np.flatnonzero(inside & (truth["re"] == 0) & (truth["m_nat"] > 14.5) & (truth["m_nat"] < 18))
    near = cKDTree(np.c_[truth["x"], truth["y"]]).query_ball_point(np.c_[truth["x"], truth["y"]][chosen], 20)
    alone = [
        all(other == star or truth["m_nat"][other] > truth["m_nat"][star] + 4 for other in others)
        for star, others in zip(chosen, near, strict=True)
    ]
    return truth[chosen[alone]]


def test_the_same_seed_gives_the_same_files(observation, folder):
    again = simulate(folder / "again", size=SIZE, seed=5)
    assert again.image.read_bytes() == observation.image.read_bytes()
    assert (folder / "again" / "truth.ecsv").read_bytes() == (folder / "first" / "truth.ecsv").read_bytes()
    other = simulate(folder / "other", size=SIZE, seed=6)
    assert other.image.read_bytes() != observation.image.read_bytes()


def test_aperture_sums_find_the_zero_point(observation, isolated):
    assert len(isolated) > 30
    image = fits.getdata(observation.image).astype(float)
    image -= sep.Background(image, bw=128, bh=128)
    flux, _, _ = sep.sum_circle(image, np.array(isolated["x"]), np.array(isolated["y"]), 3.8, subpix=0)
    found = -2.5 * np.log10(np.maximum(flux, 1)) + isolated["zp"]
    correction = observation.aperture_zero_point_mag(3.8) - observation.zero_point_mag
    assert np.median(found + correction - isolated["m_nat"]) == pytest.approx(0, abs=0.005)  # mag


def test_centroids_lie_where_the_true_wcs_says(observation, isolated):
    image = fits.getdata(observation.image).astype(float)
    image -= sep.Background(image, bw=128, bh=128)
    x, y, flag = sep.winpos(image, np.array(isolated["x"]), np.array(isolated["y"]), 3.8 / 2.35)
    sky_x, sky_y = observation.wcs.all_world2pix(isolated["ra"], isolated["dec"], 0)
    good = flag == 0
    assert np.median(x[good] - sky_x[good]) == pytest.approx(0, abs=0.01)  # pixels
    assert np.median(y[good] - sky_y[good]) == pytest.approx(0, abs=0.01)


def test_the_header_is_only_roughly_right(observation):
    header = fits.getheader(observation.image)
    assert "OBJECT" not in header
    assert header["FILTER"] == "r"
    rough = WCS(header)
    assert rough.sip is None
    center = SIZE / 2
    dx, dy = np.array(rough.all_world2pix(*observation.wcs.all_pix2world(center, center, 0), 0)) - center
    assert 1 < np.hypot(dx, dy) < 6  # pixels


def test_artefacts_are_where_they_are_said_to_be(observation):
    image, artefacts = fits.getdata(observation.image).astype(float), fits.getdata(observation.artefacts)
    assert artefacts.shape == image.shape
    background = sep.Background(image, bw=128, bh=128)
    sigma = (image - background) / background.globalrms
    assert (artefacts == COSMIC_RAY).sum() > 300
    assert (artefacts == HOT_PIXEL).sum() > 40
    for kind in (COSMIC_RAY, HOT_PIXEL):
        assert (sigma[artefacts == kind] > 5).mean() > 0.99
    assert (sigma[artefacts == 0] > 5).mean() < 0.1


def test_both_mirrors_calibrate_the_image(observation, folder, tmp_path):
    site = Resources(cache_dir=tmp_path, mirror_dir=folder / "mirror")
    lines = []
    truth = observation.truth[(observation.truth["re"] == 0) & (observation.truth["r"] > 14)]
    for code in ("ps1", "gaiadr3syn"):
        stars = fetch_catalog(code, 210.0, 40.0, 0.2, band="R", limit_mag=17.0, resources=site, log=lines.append)
        assert "simulated sky" in lines[0]
        scale = np.cos(np.radians(40.0))
        tree = cKDTree(np.c_[truth["ra"] * scale, truth["dec"]])
        distance, index = tree.query(np.c_[stars["RAJ2000"] * scale, stars["DEJ2000"]])
        hit = distance < 0.3 / 3600
        assert hit.sum() > 50
        for band in "gri":
            assert np.nanmedian(stars[f"{band}mag"][hit] - truth[band][index[hit]]) == pytest.approx(0, abs=0.003)
        for band in "BVRI":
            assert np.nanmedian(stars[f"{band}mag"][hit] - truth[band][index[hit]]) == pytest.approx(0, abs=0.003)


def test_the_natural_system_is_the_band_with_its_color_term(tmp_path):
    red = simulate(tmp_path, size=128, seed=1, filter="R").truth
    np.testing.assert_allclose(red["m_nat"], red["R"] + COLOR_TERM * (red["B"] - red["V"]))
    with pytest.raises(ValueError, match="allowed: B, V, R, I"):
        simulate(tmp_path, size=128, filter="Q")


def test_drawing_keeps_the_flux():
    image = np.zeros((200, 200))
    draw_stars(image, np.array([99.7]), np.array([100.2]), np.array([1e6]), 3.0)
    assert image.sum() == pytest.approx(1e6, rel=1e-3)
    flux, _, _ = sep.sum_circle(image, [99.7], [100.2], 5.0, subpix=0)
    assert flux[0] / 1e6 == pytest.approx(aperture_fraction(5.0, 3.0), abs=5e-4)


def test_half_of_a_galaxy_lies_within_its_half_light_radius():
    galaxy = make_sky(0.0, 0.0, 1.0, seed=1, stars_per_deg2=0, galaxies_per_deg2=10)[:1]
    galaxy["x"], galaxy["y"], galaxy["flux"] = 150.3, 149.6, 1e6
    galaxy["re"], galaxy["q"] = 16.0, 1.0
    image = np.zeros((300, 300))
    draw_galaxies(image, galaxy, fwhm_pix=2.0, pixel_scale_arcsec=1.0)
    flux, _, _ = sep.sum_circle(image, [150.3], [149.6], 16.0, subpix=0)
    assert flux[0] / 1e6 == pytest.approx(0.5, abs=0.02)


def test_wide_field_shows_tycho_stars_and_no_wcs(tmp_path):
    wide = simulate_wide(tmp_path, size=512)
    header = fits.getheader(wide.image)
    assert "CTYPE1" not in header
    assert "CRVAL1" not in header
    bright = wide.truth[(wide.truth["kind"] == "tycho") & (wide.truth["VT"] < 10)]
    image = fits.getdata(wide.image)
    shown = image[np.round(bright["y"]).astype(int).clip(0, 511), np.round(bright["x"]).astype(int).clip(0, 511)]
    assert len(bright) > 3
    assert np.all(shown > 2000)  # ADU over a background of 1200


@pytest.fixture(scope="module")
def night(folder):
    return simulate(folder / "night", size=SIZE, seed=5, transients=30)


def summed(image, x, y, radius_pix):
    image = image.astype(float)
    image -= sep.Background(image, bw=64, bh=64)
    return sep.sum_circle(image, np.array(x, float), np.array(y, float), radius_pix, subpix=0)[0]


def test_transients_are_in_the_image_and_in_no_mirror(night, observation):
    truth = night.truth
    new = truth[truth["kind"] == "transient"]
    assert len(new) == 30
    old = truth[truth["kind"] != "transient"]
    assert np.array_equal(old["id"], observation.truth["id"])
    hosts = new["host"][new["host"] >= 0]
    assert len(hosts) == len(set(hosts)) >= 5
    by_id = {row["id"]: row for row in old}
    assert {by_id[host]["kind"] for host in hosts} == {"galaxy"}
    away = [np.hypot(row["x"] - by_id[row["host"]]["x"], row["y"] - by_id[row["host"]]["y"])
            / by_id[row["host"]]["re"] for row in new if row["host"] >= 0]  # fmt: skip
    assert min(away) >= 0.3
    assert max(away) <= 1.5
    x, y = night.wcs.all_world2pix(new["ra"], new["dec"], 0)
    np.testing.assert_allclose([x, y], [new["x"], new["y"]], atol=1e-3)
    alone = new[(new["host"] < 0) & (new["m_nat"] < 18)]
    found = summed(fits.getdata(night.image), alone["x"], alone["y"], 3.8)
    expected = alone["flux"] * aperture_fraction(3.8, night.fwhm_pix)
    np.testing.assert_allclose(found / expected, 1, atol=0.1)


def test_the_template_is_the_same_sky_without_them_deeper_on_another_grid(night, folder):
    simulate_template(folder / "template.fits", night)
    image, header = fits.getdata(folder / "template.fits"), fits.getheader(folder / "template.fits")
    wcs = WCS(header)
    truth = night.truth
    corners = wcs.all_world2pix(*night.wcs.all_pix2world([0, SIZE, SIZE, 0], [0, 0, SIZE, SIZE], 0), 0)
    assert min(map(np.min, corners)) > 0
    assert max(map(np.max, corners)) < image.shape[0]
    stars = truth[(truth["re"] == 0) & (truth["kind"] == "star") & (truth["m_nat"] > 15.5) & (truth["m_nat"] < 17.5)]
    x, y = wcs.all_world2pix(stars["ra"], stars["dec"], 0)
    whole = np.all([(axis > 20) & (axis < image.shape[0] - 20) for axis in (x, y)], axis=0)
    expected = stars["flux"] * aperture_fraction(6.0, 3.0 * 0.8 / 0.9)
    ratio = (summed(image, x, y, 6.0) / expected)[whole]
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    new = truth[(truth["kind"] == "transient") & (truth["host"] < 0)]
    nothing = summed(image, *wcs.all_world2pix(new["ra"], new["dec"], 0), 3.8)
    # noise of an aperture in one exposure: 2.5 times what the sky's electrons give in 25
    assert np.abs(nothing).max() < 600  # ADU; the faintest transient has 520 in the image, the brightest 52,000
    noise = [
        1.4826 * np.median(np.abs(np.diff(one, axis=0))) / np.sqrt(2)
        for one in (image, fits.getdata(night.image).astype(float))
    ]
    assert noise[0] < noise[1] / 4
