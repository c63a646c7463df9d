"""The shared data directory, presets and reference tables."""

from typing import Any

import httpx
import pytest

from tests.support.conformance import TIMESTAMP, Site, check_error, check_ok, needs

FILTERS = ("U", "B", "V", "R", "I", "u", "g", "r", "i", "z", "y", "G", "BP", "RP", "J", "H", "Ks")
CATALOGS = ("gaiadr3syn", "ps1", "skymapper", "sdss", "atlas", "gaiaedr3", "2mass", "vhs")
TEMPLATES = ("custom", "ps1", "ls", "skymapper", "des", "decaps", "ztf", "2mass")


def sloan(letter: str, *more: str) -> list[str]:
    return [
        *(f"sdss{letter}", f"SDSS {letter}", f"SDSS-{letter}", f"SDSS-{letter}'", f"Sloan-{letter}"),
        *(f"sloan{letter}", f"Sloan {letter}", f"S{letter}", f"S{letter.upper()}", f"s{letter.upper()}"),
        *more,
    ]


def folder_of(site: Site) -> str:
    return (site.data_file or needs("DATA_FILE")).rpartition("/")[0]


@pytest.mark.parametrize("slash", ["", "/"])
def test_listing_has_directories_first(owner: httpx.Client, site: Site, slash: str) -> None:
    path = folder_of(site).rpartition("/")[0]
    for folder in ("", f"/{path}"):
        rows = check_ok(owner.get(f"/files{folder}{slash}"))
        assert rows
        kinds = [row["is_dir"] for row in rows]
        assert kinds == sorted(kinds, reverse=True)
        for kind in (True, False):
            names = [row["name"] for row in rows if row["is_dir"] is kind]
            assert names == sorted(names)
        for row in rows:
            assert set(row) == {"name", "path", "size", "modified", "is_dir"}
            assert row["path"].endswith(row["name"])
            assert TIMESTAMP.fullmatch(row["modified"])


def test_path_of_a_row_leads_to_it(owner: httpx.Client, site: Site) -> None:
    folder = folder_of(site)
    for row in check_ok(owner.get(f"/files/{folder}/")):
        assert row["path"] == f"{folder}/{row['name']}"
        assert owner.head(f"/files/{row['path']}").status_code == 200


def test_download(owner: httpx.Client, site: Site) -> None:
    path = f"/files/{site.data_file or needs('DATA_FILE')}"
    answer = owner.get(path)
    assert answer.status_code == 200
    assert answer.content.startswith(b"SIMPLE")
    assert answer.headers["content-disposition"].startswith("attachment")
    part = owner.get(path, headers={"Range": "bytes=0-5"})
    assert (part.status_code, part.content) == (206, b"SIMPLE")
    assert owner.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_every_user_may_read_it(stranger: httpx.Client, site: Site) -> None:
    assert stranger.get(f"/files/{site.data_file or needs('DATA_FILE')}").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_it_is_read_only(owner: httpx.Client, site: Site, method: str) -> None:
    for path in ("", "/", f"/{site.data_file or needs('DATA_FILE')}", "/new.txt"):
        check_error(owner.request(method, f"/files{path}"), 405)


@pytest.mark.parametrize("path", ["nothing.fits", "nothing/", "nothing/at/all", "nothing.fits/preview/"])
def test_what_is_not_there_is_404(owner: httpx.Client, path: str) -> None:
    check_error(owner.get(f"/files/{path}"), 404)


def test_preview_of_what_is_no_image_is_400(owner: httpx.Client, site: Site) -> None:
    rows = check_ok(owner.get(f"/files/{folder_of(site)}/"))
    other = next((row["path"] for row in rows if row["name"].endswith(".txt")), None)
    if other is None:
        pytest.skip("needs a text file beside the image in the shared data directory")
    check_error(owner.get(f"/files/{other}/preview/"), 400)


def test_preview_of_a_directory_is_a_path(owner: httpx.Client, site: Site) -> None:
    check_error(owner.get(f"/files/{folder_of(site)}/preview/"), 404)


def test_a_directory_that_is_called_preview_is_a_path(owner: httpx.Client, site: Site) -> None:
    parent = folder_of(site).rpartition("/")[0]
    rows = check_ok(owner.get(f"/files/{parent}/"))
    if not any(row["name"] == "preview" and row["is_dir"] for row in rows):
        pytest.skip("needs a folder `preview` above that of the image in the shared data directory")
    for slash in ("", "/"):
        inside = check_ok(owner.get(f"/files/{parent}/preview{slash}"))
        assert [row["name"] for row in inside] == ["kept.txt"]


def test_presets_have_id_name_and_config(owner: httpx.Client, site: Site) -> None:
    name = site.preset or needs("PRESET")
    rows = check_ok(owner.get("/presets/"))
    assert all(set(row) == {"id", "name", "config"} for row in rows)
    (row,) = (row for row in rows if row["name"] == name)
    assert row["config"] == {"filter": "V", "sn": 4}
    assert check_ok(owner.get(f"/presets/{row['id']}/")) == row


@pytest.mark.parametrize("some_id", ["0", "999999999", "x", "-1", "1e3", "9" * 40, "%00"])
def test_an_unknown_preset_is_404(owner: httpx.Client, some_id: str) -> None:
    check_error(owner.get(f"/presets/{some_id}/"), 404)


def test_reference_lists_all_codes_in_order(anonymous: httpx.Client) -> None:
    answer = check_ok(anonymous.get("/reference/"))
    assert list(answer) == ["filters", "catalogs", "templates"]
    assert answer["filters"] == list(FILTERS)
    assert answer["catalogs"] == list(CATALOGS)
    assert answer["templates"] == list(TEMPLATES)


def test_filters_have_name_and_aliases(anonymous: httpx.Client) -> None:
    table = check_ok(anonymous.get("/reference/filters/"))
    assert tuple(table) == FILTERS
    assert all(set(row) == {"name", "aliases"} for row in table.values())
    assert table["R"] == {"name": "Johnson-Cousins R", "aliases": ["Rc"]}
    assert table["I"]["aliases"] == ["Ic", "I'"]
    assert table["u"] == {"name": "Sloan u", "aliases": sloan("u")}
    for band in "gri":
        assert table[band] == {"name": f"Pan-STARRS {band}", "aliases": sloan(band, f"ZTF_{band}")}
    for band in "zy":
        assert table[band] == {"name": f"Pan-STARRS {band}", "aliases": sloan(band)}
    assert table["BP"] == {"name": "Gaia BP", "aliases": []}
    assert table["Ks"] == {"name": "2MASS Ks", "aliases": ["K"]}


CATALOG_ROWS = {
    "gaiadr3syn": ("Gaia DR3 synphot", "U B V R I u g r i z y", "rmag"),
    "ps1": ("Pan-STARRS DR1", "B V R I g r i z y", "rmag"),
    "skymapper": ("SkyMapper DR4", "B V R I g r i z y", "rPSF"),
    "sdss": ("SDSS DR16", "u g r i z", "rmag"),
    "atlas": ("ATLAS-REFCAT2", "B V R I g r i z", "rmag"),
    "gaiaedr3": ("Gaia eDR3", "G BP RP", "Gmag"),
    "2mass": ("2MASS PSC", "J H Ks", "Jmag"),
    "vhs": ("VHS DR5", "J H Ks", "Jap3"),
}


def test_catalogs_have_name_filters_and_limit(anonymous: httpx.Client) -> None:
    table = check_ok(anonymous.get("/reference/catalogs/"))
    assert tuple(table) == CATALOGS
    for code, (name, filters, limit) in CATALOG_ROWS.items():
        assert table[code] == {"name": name, "filters": filters.split(), "limit": limit}


def test_templates_have_name_and_sometimes_filters(anonymous: httpx.Client) -> None:
    table = check_ok(anonymous.get("/reference/templates/"))
    assert tuple(table) == TEMPLATES
    assert all(set(row) <= {"name", "filters"} and row["name"] for row in table.values())
    filters: dict[str, Any] = {code: row.get("filters") for code, row in table.items()}
    assert filters["custom"] is None
    assert list(filters["ps1"]) == list("griz")
    assert list(filters["ztf"]) == list("gri")
    assert list(filters["skymapper"]) == list("ugriz")
    assert list(filters["2mass"]) == ["J", "H", "Ks"]


@pytest.mark.parametrize("table", ["bands", "Filters", "filter", "filters%00", "..", "filters/x"])
def test_another_table_is_404(anonymous: httpx.Client, table: str) -> None:
    answer = anonymous.get(f"/reference/{table}/")
    if table == "..":  # the client makes /api/ of it
        assert answer.status_code in {401, 404}
        return
    check_error(answer, 404)
