"""The step `simple_transients` on a small field with stars that no catalogue has: files, options, bad input."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.table import Table
from astropy.wcs import WCS

from services.transients import core
from shared.contracts.results import CANDIDATES_FILE, Candidates
from shared.errors import DataError, InternalError, StepError, TransientError, UsageError
from tests.support.transients import Search


def without(search: Search, *names: str) -> Search:
    search.missing.update(names)
    return search


def parquet(table: Table) -> bytes:
    sink = io.BytesIO()
    columns = {name: pa.array(np.asarray(table[name]).tolist()) for name in table.colnames}
    typed = {
        name: column.cast(pa.float64()) if column.type == pa.null() else column for name, column in columns.items()
    }
    pq.write_table(pa.table(typed), sink)
    return sink.getvalue()


def test_new_stars_are_found_and_nothing_else(search: Search) -> None:
    candidates = search.run()
    found = search.found(candidates)
    assert found.mean() >= 0.9
    assert len(search.false(candidates)) <= 1
    nearest = [
        np.hypot(search.injected["x"] - row["x"], search.injected["y"] - row["y"]).argmin() for row in candidates
    ]
    offset = np.asarray(candidates["mag_calib"] - search.injected["m_nat"][nearest])
    assert np.median(offset) == pytest.approx(0, abs=0.03)  # mag
    assert list(candidates["mag_calib"]) == sorted(candidates["mag_calib"])


def test_every_file_that_is_promised_is_there_and_right(search: Search) -> None:
    candidates = search.run(cutout_size=12)
    assert {path.name for path in search.work.iterdir()} - {"cache"} == {
        "candidates_simple.vot",
        "candidates_simple.reg",
        CANDIDATES_FILE,
        "candidates_simple",
    }
    table = parse_single_table(search.work / "candidates_simple.vot")
    fields = {field.name: field for field in table.fields}
    assert (str(fields["mag_calib"].unit), fields["ra"].ucd) == ("mag", "pos.eq.ra;meta.main")
    assert all(fields[name].ucd and fields[name].description for name in ("name", "time", "x", "flux", "flags"))
    lines = (search.work / "candidates_simple.reg").read_text().splitlines()
    assert [line.split("{")[1] for line in lines if line.startswith("circle(")] == [
        f"{name}}}" for name in candidates["name"]
    ]
    summary = Candidates.model_validate_json((search.work / CANDIDATES_FILE).read_bytes())
    assert (summary.filter, summary.mag_system, summary.time) == ("r", "AB", "2026-11-02T21:35:40Z")
    assert summary.found == len(candidates)
    assert [row.name for row in summary.candidates] == list(candidates["name"])
    assert [row.mag_calib for row in summary.candidates] == pytest.approx(list(candidates["mag_calib"]))
    files = sorted(path.name for path in (search.work / "candidates_simple").iterdir())
    assert [f"candidates_simple/{name}" for name in files] == [row.cutout for row in summary.candidates]
    for row, name in zip(summary.candidates, files, strict=True):
        with fits.open(search.work / "candidates_simple" / name) as hdus:
            assert {hdu.name for hdu in hdus[1:]} == {"IMAGE", "MASK"}  # no archive is there for a picture
            image, wcs = hdus["IMAGE"].data, WCS(hdus["IMAGE"].header)
        assert image.shape == (25, 25)
        x, y = wcs.all_world2pix(row.ra, row.dec, 0)
        assert (x, y) == (pytest.approx(12, abs=0.51), pytest.approx(12, abs=0.51))
        assert np.argmax(image[10:15, 10:15]) in {6, 7, 8, 11, 12, 13, 16, 17, 18}


def test_a_cone_leaves_what_is_in_it(search: Search) -> None:
    everything = search.run()
    center = search.injected[int(np.flatnonzero(search.found(everything))[0])]
    near = search.run(simple_center=f"x={center['x']:.2f} y={center['y']:.2f}", simple_sr0=60 / 3600)
    distance = np.hypot(everything["x"] - center["x"], everything["y"] - center["y"])
    assert set(near["name"]) == set(everything["name"][distance < 60])  # arcsec, as pixels of this image
    assert 0 < len(near) < len(everything)
    around = search.run(simple_sr0=60 / 3600)
    assert "around the centre of the image" in search.log
    assert len(around) < len(everything)


def test_a_match_counts_by_its_brightness(search: Search) -> None:
    strict, default = search.run(simple_mag_diff=0), search.run()
    all_but_saturated = search.run(simple_mag_diff=50)
    assert set(strict["name"]) == set(default["name"]) == set(all_but_saturated["name"])
    # a faint source below one of the new stars
    star = default[0]
    catalog = Table.read(search.folder / "cat.parquet")
    catalog.add_row(catalog[0])
    catalog[-1]["RAJ2000"], catalog[-1]["DEJ2000"], catalog[-1]["rmag"] = star["ra"], star["dec"], star["mag_calib"] + 3
    search.replace("cat.parquet", parquet(catalog))
    assert star["name"] in search.run()["name"]
    assert star["name"] not in search.run(simple_mag_diff=0)["name"]
    assert star["name"] not in search.run(simple_mag_diff=4)["name"]


def test_what_another_task_did_not_see_is_dropped(search: Search, tmp_path) -> None:
    everything = search.run()
    for task_id, keep in ((7, everything[1:]), (8, everything[:-1])):
        (tmp_path / str(task_id)).mkdir()
        keep["ra", "dec"].write(tmp_path / str(task_id) / "objects.parquet")
        search.others[task_id] = tmp_path / str(task_id)
    assert set(search.run(simple_others="7")["name"]) == set(everything["name"][1:])
    assert set(search.run(simple_others="7, 8")["name"]) == set(everything["name"][1:-1])
    assert "were detected in task 8 as well" in search.log


def test_another_task_without_photometry_or_with_a_damaged_one_is_an_error(search: Search, tmp_path) -> None:
    with pytest.raises(UsageError, match="task 9 has no photometry"):
        search.run(simple_others="9")
    (tmp_path / "objects.parquet").write_bytes(b"PAR1 not really")
    search.others[9] = tmp_path
    with pytest.raises(UsageError, match="task 9 cannot be read"):
        search.run(simple_others="9")
    Table({"x": [1.0]}).write(tmp_path / "objects.parquet", overwrite=True)
    with pytest.raises(UsageError, match="task 9 cannot be read"):
        search.run(simple_others="9")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"simple_center": "10 -60", "simple_sr0": 1}, "cone_outside", "does not touch the image"),
        ({"simple_center": "210 40"}, "no_radius", "give simple_sr0"),
        ({"simple_center": "x=1 y=2\nx=3 y=4", "simple_sr0": 1}, "bad_target", "more than one"),
        ({"simple_center": "400 95", "simple_sr0": 1}, "bad_target", "no valid position"),
        ({"simple_skybot": True, "time": None}, "no_time", "set time"),
    ],
)
def test_options_that_cannot_be_used(search: Search, options: dict[str, object], code: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        search.run(**options)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        (["objects.parquet"], "no_photometry"),
        (["image.fits"], "no_photometry"),
        (["photometry.json"], "bad_photometry"),
        (["image.wcs"], "bad_photometry"),
    ],
)
def test_without_photometry_the_error_says_so(search: Search, missing: list[str], code: str) -> None:
    with pytest.raises(DataError, match="photometry") as caught:
        without(search, *missing).run()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("objects.parquet", b""),
        ("objects.parquet", b"PAR1PAR1PAR1"),
        ("cat.parquet", b"garbage"),
        ("photometry.json", b"{]"),
        ("photometry.json", b"[1]"),
        ("photometry.json", b'{"filter": "../x"}'),
        ("image.wcs", b"garbage"),
        ("image.fits", b"garbage"),
    ],
)
def test_files_that_users_replaced_end_as_an_error_that_names_them(search: Search, name: str, content: bytes) -> None:
    search.replace(name, content)
    with pytest.raises(StepError) as caught:
        search.run()
    assert not isinstance(caught.value, InternalError)
    if name != "image.fits":
        assert name in caught.value.user_message


def test_no_candidates_is_a_result(search: Search) -> None:
    objects = Table.read(search.folder / "objects.parquet")
    search.replace("objects.parquet", parquet(objects[:0]))
    assert len(search.run()) == 0
    assert "No candidates" in search.lines
    assert "circle" not in (search.work / "candidates_simple.reg").read_text()
    summary = Candidates.model_validate_json((search.work / CANDIDATES_FILE).read_bytes())
    assert (summary.found, summary.candidates) == (0, ())


def test_an_empty_or_missing_reference_catalogue_leaves_the_surveys(search: Search) -> None:
    default = search.run()
    catalog = Table.read(search.folder / "cat.parquet")
    search.replace("cat.parquet", parquet(catalog[:0]))
    assert set(search.run()["name"]) == set(default["name"])
    (search.work.parent / "own" / "cat.parquet").unlink()
    assert set(without(search, "cat.parquet").run()["name"]) == set(default["name"])
    assert "cat.parquet is gone" in search.log


def test_ten_thousand_candidates_are_cut_and_the_log_says_so(search: Search) -> None:
    objects = Table.read(search.folder / "objects.parquet")
    good = objects[core.good_flags(objects["flags"], prefilter=True) & (np.asarray(objects["mag_calib"]) > 0)]
    count = 10_000
    many = Table(np.tile(good.as_array(), count // len(good) + 1)[:count])
    # a place that the mirror covers and where there is nothing: each object a little beside the others' matches
    many["mag_calib"] = np.linspace(5.0, 6.0, count)
    search.replace("objects.parquet", parquet(many))
    candidates = search.run(simple_blends=False)
    assert len(candidates) == 100
    assert max(candidates["mag_calib"]) == pytest.approx(np.linspace(5.0, 6.0, count)[99])
    assert f"of {count} candidates the 100 brightest are kept" in search.log
    summary = Candidates.model_validate_json((search.work / CANDIDATES_FILE).read_bytes())
    assert (summary.found, len(summary.candidates)) == (count, 100)


def test_without_mirror_and_archives_the_failure_is_passing_and_named(search: Search) -> None:
    search.mirror_dir = None
    with pytest.raises(TransientError, match="CDS XMatch cannot be reached"):
        search.run()
    assert not list(search.work.glob("candidates*"))


def test_an_image_that_photometry_saw_otherwise(search: Search, tmp_path) -> None:
    """An image that was changed after photometry would hide its results; a mask of another shape is an error."""
    fits.writeto(tmp_path / "mask.fits", np.zeros((5, 5), np.uint8))
    search.replace("mask.fits", (tmp_path / "mask.fits").read_bytes())
    with pytest.raises(DataError):
        search.run()
