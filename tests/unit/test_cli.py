"""The command line without a stack: what it parses, and what it says when it cannot go on."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from stdweb.client import ApiError
from stdweb.submit import choose, parse_config

ROOT = Path(__file__).parents[2]


def stdweb(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "stdweb", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_config_values_are_json_where_they_can_be() -> None:
    pairs = ["filter=R", "sn=4.5", "use_color=false", "cat_name=null", "target=x=1 y=2", "title="]
    assert parse_config(pairs) == {
        "filter": "R",
        "sn": 4.5,
        "use_color": False,
        "cat_name": None,
        "target": "x=1 y=2",
        "title": "",
    }


@pytest.mark.parametrize("pair", ["filter", "=R"])
def test_config_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="key=value"):
        parse_config([pair])


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    for arguments in (["status"], ["user", "list"]):
        answer = stdweb(tmp_path, *arguments)
        assert answer.returncode == 1
        assert "make up" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_an_unknown_step_is_refused_before_anything_is_uploaded(tmp_path: Path) -> None:
    (tmp_path / "image.fits").touch()
    answer = stdweb(tmp_path, "submit", "image.fits", "--steps", "inspect,photometri")
    assert answer.returncode == 2
    assert "unknown step 'photometri'; allowed: cleanup, inspect, photometry" in answer.stderr


def test_an_api_that_does_not_answer_is_said(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 40)
    answer = stdweb(tmp_path, "status", "--url", "http://127.0.0.1:9/api", "--token-file", "token")
    assert answer.returncode == 1
    assert "No answer from http://127.0.0.1:9/api" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("127.0.0.1:9/api", b"0" * 40, "begins with http:// or https://"),
        ("http://127.0.0.1:9/api", "tökén".encode(), "letters and digits only"),
        ("http://127.0.0.1:9/api", b"\xff\xfe", "letters and digits only"),
        ("http://127.0.0.1:9/api", b"", "letters and digits only"),
    ],
)
def test_an_address_or_a_token_that_is_none_is_said(tmp_path: Path, url: str, token: bytes, said: str) -> None:
    (tmp_path / "token").write_bytes(token)
    answer = stdweb(tmp_path, "status", "--url", url, "--token-file", "token")
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_is_no_token_file(tmp_path: Path) -> None:
    answer = stdweb(tmp_path, "status", "--token-file", str(tmp_path))
    assert answer.returncode == 2
    assert "is a directory" in answer.stderr


def test_files_are_chosen_by_name_and_by_folder() -> None:
    paths = ["image.fits", "targets/1.fits", "targets/2.fits", "targets2/1.fits"]
    assert choose(1, [], paths) == paths
    assert choose(1, ["targets/"], paths) == ["targets/1.fits", "targets/2.fits"]
    assert choose(1, ["targets/2.fits", "image.fits", "image.fits"], paths) == ["targets/2.fits", "image.fits"]
    with pytest.raises(ApiError, match=r"Task 1 has no file 'target'. It has: image.fits, targets/1.fits"):
        choose(1, ["image.fits", "target"], paths)


@pytest.mark.parametrize("path", ["../image.fits", "a/../../image.fits", "/etc/image.fits"])
def test_a_path_that_leads_out_of_the_folder_is_not_taken(path: str) -> None:
    with pytest.raises(ApiError, match="a path that is none"):
        choose(1, [], ["image.fits", path])


def test_a_missing_image_is_a_usage_error(tmp_path: Path) -> None:
    answer = stdweb(tmp_path, "submit", "nothing.fits")
    assert answer.returncode == 2
    assert "nothing.fits" in answer.stderr


@pytest.mark.parametrize("command", ["user", "token", "preset", "catalog", "submit", "status", "get"])
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    answer = stdweb(tmp_path, command, "--help")
    assert answer.returncode == 0
    assert "Usage" in answer.stdout
