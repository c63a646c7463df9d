"""Templates of the surveys, against servers that speak as the archives do: what they give, and how they fail."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from shared.errors import TransientError, UsageError
from shared.science import archives as guard
from shared.science.templates import Template, get_template
from shared.worker.step import Resources
from tests.support.archives import ArchiveServer, Behaviour
from tests.support.archives.images import FWHM_ARCSEC, Stars
from tests.support.reprojection import Grid, tan, with_sip

pytest_plugins = ["tests.support.archives.fixtures"]

SHAPE = (260, 300)
FLUX = 2e4
SCALE_ARCSEC = 1.2
PLACES = {  # each on the seam of two pieces of the survey
    "ps1": (150.0, 20.9964),
    "ls": (150.0, 20.0),
    "ztf": (150.0, 21.0),
    "2mass": (10.0, 0.0),
    "skymapper": (10.0, -45.0),
    "des": (10.0, -45.0),
    "decaps": (250.0, -45.0),
}


class Field:
    """An image of 300 × 260 pixels at the place of a survey, and the stars on it."""

    def __init__(self, source: str, server: ArchiveServer, resources: Resources) -> None:
        self.source, self.server, self.resources = source, server, resources
        ra_deg, dec_deg = PLACES[source]
        self.wcs = with_sip(
            tan(SCALE_ARCSEC, SHAPE, rotation_deg=170.0, ra_deg=ra_deg, dec_deg=dec_deg), SHAPE, bend_pix=2.0
        )
        self.stars = Grid.on(self.wcs, SHAPE, spacing_pix=26)
        flux = np.full(self.stars.x.size, FLUX)
        flux[7] = 40 * FLUX
        server.stars = Stars(self.stars.ra_deg, self.stars.dec_deg, flux, saturation_flux=10 * FLUX)
        self.lines: list[str] = []

    def get(self, band: str = "r", shape: tuple[int, int] = SHAPE) -> Template:
        return get_template(
            self.source,
            band,
            self.wcs.deepcopy(),  # as in another process: one object does not stand calls from several threads
            shape,
            resources=self.resources,
            log=lambda *words: self.lines.append(str(words[0])),
        )

    def check(self, template: Template) -> None:
        """Compare with the stars that were drawn."""
        ordinary = np.arange(self.stars.x.size) != 7
        flux, offset_pix = self.stars.measure(np.nan_to_num(template.image), radius_pix=6.0)
        whole = np.array([not template.mask[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7].any()
                          for x, y in zip(self.stars.x, self.stars.y, strict=True)])  # fmt: skip
        good = ordinary & whole
        assert good.sum() > 0.7 * ordinary.sum()
        assert np.median(flux[good]) == pytest.approx(FLUX, rel=0.003)
        assert np.abs(flux[good] / FLUX - 1).max() < 0.02  # noise of the archive's pixels
        assert np.median(offset_pix[good]) < 0.05
        assert template.fwhm_pix == pytest.approx(FWHM_ARCSEC / SCALE_ARCSEC, abs=0.35)


@pytest.fixture
def field(archives: ArchiveServer, resources: Resources, request: pytest.FixtureRequest) -> Field:
    return Field(request.param, archives, resources)


def of(*sources: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("field", sources, indirect=True)


@of("ps1")
def test_skycells_are_put_together(field: Field) -> None:
    template = field.get()
    field.check(template)
    assert template.coverage > 0.98
    assert template.image.dtype == np.float32
    # the saturated star is masked; the bit that good pixels have as well is not
    x, y = round(field.stars.x[7]), round(field.stars.y[7])
    assert template.mask[y - 1 : y + 2, x - 1 : x + 2].all()
    assert template.mask.sum() < 400
    # electrons per second times the exposure: 1.1 e-/count, 400 to 800 s
    assert 1.1 * 400 <= template.gain <= 1.1 * 800
    assert template.band == "r"
    cells = {request.path.rsplit("/", 1)[1] for request in field.server.asked}
    assert cells == {f"rings.v3.skycell.1799.{n}.stk.r.unconv{m}.fits" for n in ("024", "025") for m in ("", ".mask")}
    assert "2 pieces" in field.lines[-1]
    # a second run, and its neighbour, find everything in the cache
    before = len(field.server.asked)
    np.testing.assert_array_equal(field.get().image, template.image)
    field.get(shape=(100, 100))
    assert len(field.server.asked) == before


@of("ls")
def test_bricks_are_put_together(field: Field) -> None:
    template = field.get("R")
    field.check(template)
    assert template.coverage > 0.98
    x, y = round(field.stars.x[7]), round(field.stars.y[7])
    assert template.mask[y, x]
    assert template.mask.sum() < 400  # what belongs to another brick is no fault
    assert template.gain == 10_000
    names = {request.path.removeprefix("/cfs/cosmo/data/legacysurvey/") for request in field.server.asked}
    assert names == {
        f"dr10/south/coadd/{brick[:3]}/{brick}/legacysurvey-{brick}-{kind}.fits.fz"
        for brick in ("1498p200", "1501p200")
        for kind in ("image-r", "maskbits")
    }


@of("ztf")
def test_a_hips_is_asked_for_in_blocks_of_the_sky(field: Field) -> None:
    template = field.get("g")
    field.check(template)
    assert template.coverage == 1.0
    asked = [parse_qs(urlsplit(request.path).query) for request in field.server.asked]
    assert {query["hips"][0] for query in asked} == {"CDS/P/ZTF/DR7/g"}
    assert all(query["projection"] == ["TAN"] and query["format"] == ["fits"] for query in asked)
    # pixels as the survey's own
    assert float(asked[0]["fov"][0]) / int(asked[0]["width"][0]) * 3600 == pytest.approx(1.01, rel=1e-4)
    field.wcs.wcs.crval = [150.01, 21.01]
    field.get("g")
    assert len(field.server.asked) == len(asked)


HIPS = [
    ("skymapper", "U", "CDS/P/skymapper-U"),
    ("skymapper", "R", "CDS/P/Skymapper/DR4/r"),
    ("skymapper", "z", "CDS/P/skymapper-Z"),
    ("des", "g", "CDS/P/DES-DR2/g"),
    ("decaps", "I", "CDS/P/DECaPS/DR2/i"),
    ("2mass", "Ks", "CDS/P/2MASS/K"),
]


@pytest.mark.parametrize(("field", "band", "hips"), HIPS, indirect=["field"])
def test_names_of_hips(field: Field, band: str, hips: str) -> None:
    field.server.behave("hips2fits", Behaviour.ABSENT)
    with pytest.raises(UsageError, match="has nothing in band"):
        field.get(band)
    assert {parse_qs(urlsplit(request.path).query)["hips"][0] for request in field.server.asked} == {hips}


@pytest.mark.parametrize(
    ("field", "missing"), [("ps1", "024.stk.r.unconv.fits"), ("ls", "1501p200-image")], indirect=["field"]
)
def test_a_missing_cell_leaves_a_masked_part(field: Field, missing: str) -> None:
    field.server.stars = dataclasses.replace(field.server.stars, missing=missing)
    template = field.get()
    assert 0.3 < template.coverage < 0.7
    assert np.isnan(template.image[template.mask]).mean() > 0.9
    assert any("archive has no " in line and missing in line for line in field.lines)


@of("ps1")
def test_without_a_mask_the_log_says_so(field: Field) -> None:
    field.server.stars = dataclasses.replace(field.server.stars, missing="mask")
    template = field.get()
    assert template.coverage > 0.98
    assert not template.mask[round(field.stars.y[7]), round(field.stars.x[7])]
    assert any(line.startswith("Warning: ") and "saturated stars are not masked" in line for line in field.lines)


@of("ps1", "ls", "des")
def test_nothing_here_names_source_and_place(field: Field) -> None:
    for archive in ("ps1", "legacysurvey"):
        field.server.behave(archive, Behaviour.ABSENT)
    field.server.behave("hips2fits", Behaviour.NOTHING)
    ra_deg, dec_deg = PLACES[field.source]
    with pytest.raises(UsageError, match=rf"has nothing in band r within 0.07 deg of RA {ra_deg:.4f}, Dec ") as caught:
        field.get()
    assert caught.value.code == "no_template"
    assert f"{abs(dec_deg):.4f}. Set template to another one" in caught.value.user_message


@of("ps1")
def test_south_of_the_survey_nobody_is_asked(field: Field) -> None:
    field.wcs.wcs.crval = [150.0, -60.0]
    with pytest.raises(UsageError, match="Pan-STARRS DR2 has nothing in band r"):
        field.get()
    assert field.server.asked == []


@of("ps1")
def test_a_field_of_too_many_cells_is_refused(field: Field) -> None:
    field.wcs = tan(60.0, SHAPE, ra_deg=150.0, dec_deg=21.0)
    with pytest.raises(UsageError, match=r"needs \d+ pieces of Pan-STARRS DR2, at most 64") as caught:
        field.get()
    assert caught.value.code == "field_too_large"
    assert field.server.asked == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Archives that are given little time."""
    from shared.science.templates import surveys

    for name in ("PS1", "LEGACY", "HIPS_TEMPLATES"):
        archive = getattr(surveys, name)
        monkeypatch.setattr(surveys, name, guard.Archive(archive.code, archive.title, deadline_s=1.0, attempts=2))
    return


FAULTS = [
    Behaviour.SLOW,
    Behaviour.BROKEN,
    Behaviour.TRUNCATED,
    Behaviour.CUT,
    Behaviour.GARBAGE,
    Behaviour.DOWN,
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@of("ps1")
def test_an_archive_that_does_not_answer_well_is_a_passing_failure(field: Field, fault: Behaviour) -> None:
    field.server.behave("ps1", fault)
    began = time.monotonic()
    with pytest.raises(TransientError, match="the Pan-STARRS archive cannot be reached") as caught:
        field.get()
    assert time.monotonic() - began < 20  # s
    assert caught.value.code == "archive_unavailable"
    # nothing of it is kept
    assert not [path for path in field.resources.cache_dir.rglob("*.fits") if not path.name.startswith(".")]


@of("ps1")
def test_one_failure_is_asked_again(field: Field) -> None:
    field.server.behave("ps1", Behaviour.BROKEN, Behaviour.OK)
    assert field.get().coverage > 0.9
    assert any("asking again" in line for line in field.lines)


@of("ps1", "ztf")
def test_an_image_of_another_place_is_not_used_and_not_kept(field: Field) -> None:
    archive = {"ps1": "ps1", "ztf": "hips2fits"}[field.source]
    field.server.behave(archive, Behaviour.LYING)
    with pytest.raises(TransientError, match="sent an image that cannot be used") as caught:
        field.get()
    assert caught.value.code == "bad_answer"
    assert any("sent something else than the image that was asked for: it " in line for line in field.lines)
    # the next attempt at the step asks again, until all that was bad is replaced
    field.server.behave(archive, Behaviour.OK)
    for _ in range(4):
        try:
            template = field.get()
        except TransientError:
            continue
        break
    assert template.coverage > 0.9


@of("ps1")
def test_a_damaged_file_of_the_cache_is_fetched_again(field: Field) -> None:
    template = field.get()
    for path in field.resources.cache_dir.rglob("*025*unconv.fits"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 :] = b"\xff" * len(content[len(content) // 3 :])
        path.write_bytes(content)
    with pytest.raises(TransientError):
        field.get()
    np.testing.assert_array_equal(field.get().image, template.image)


@pytest.mark.usefixtures("quick")
@of("ps1")
def test_the_breaker_spares_a_dead_archive(field: Field) -> None:
    field.server.behave("ps1", Behaviour.DOWN)
    with pytest.raises(TransientError):
        field.get()
    asked = len(field.server.asked)
    with pytest.raises(TransientError):
        field.get()
    assert len(field.server.asked) == asked
    assert "left alone" in " ".join(field.lines)


@of("ps1")
def test_who_wants_the_same_at_the_same_time_asks_once(field: Field) -> None:
    found: list[Template] = []
    threads = [threading.Thread(target=lambda: found.append(field.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 3
    assert len(field.server.asked) == 4  # two cells, image and mask
    assert all(np.array_equal(one.image, found[0].image, equal_nan=True) for one in found)


@of("ps1")
def test_a_cache_that_cannot_be_written_is_said(field: Field) -> None:
    folder = field.resources.cache_dir / "templates"
    folder.mkdir(parents=True)
    (folder / "ps1").write_text("a file where a folder should be")
    with pytest.raises(TransientError, match="cache is full or not writable"):
        field.get()
