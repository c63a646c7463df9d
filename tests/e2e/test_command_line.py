"""`make status`, `stdweb` and the demonstration on a running stack."""

import re
import time
from pathlib import Path

from astropy.table import Table


def test_status_lists_every_process_as_ready(stack) -> None:
    answer = stack.run("stdweb.stack", "status")
    assert answer.returncode == 0, answer.stdout
    for name in ("rabbitmq", "store", "gateway", "inspect", "photometry"):
        assert re.search(rf"{name}\s+│ ready", answer.stdout), answer.stdout


def test_a_second_start_leaves_the_stack_as_it_is(stack) -> None:
    before = stack.pid("gateway")
    answer = stack.run("stdweb.stack", "up")
    assert answer.returncode == 0, answer.stdout
    assert stack.state.base_url in answer.stdout
    assert stack.pid("gateway") == before


def test_submit_status_get(stack, observation, tmp_path: Path) -> None:
    submitted = stack.run(
        "stdweb", "submit", str(observation.image), "--steps", "inspect", "--config", "filter=R", "--wait"
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    task_id = re.search(r"^Task (\d+)$", submitted.stdout, re.MULTILINE).group(1)
    assert "inspect_done" in submitted.stdout
    listed = stack.run("stdweb", "status")
    assert re.search(rf"│ {task_id}\s+│ inspect_done", listed.stdout), listed.stdout
    got = stack.run("stdweb", "get", task_id, "mask.fits", "inspect.log", "--to", str(tmp_path))
    assert got.returncode == 0, got.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mask.fits", "inspect.log"}
    missing = stack.run("stdweb", "get", task_id, "mask.fits", "nothing.txt", "--to", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"Task {task_id} has no file 'nothing.txt'. It has: image.fits, inspect.log" in missing.stderr
    assert not (tmp_path / "none").exists()
    no_folder = stack.run("stdweb", "get", task_id, "inspect.log", "--to", str(tmp_path / "mask.fits" / "in"))
    assert no_folder.returncode == 1
    assert "Cannot write" in no_folder.stderr
    assert "Traceback" not in no_folder.stderr


def test_files_in_folders_are_saved_in_folders(stack, tmp_path: Path) -> None:
    note = tmp_path / "a [b] note.txt"
    note.write_text("seen\n")
    submitted = stack.run("stdweb", "submit", str(note))
    assert submitted.returncode == 0, submitted.stderr
    assert "a [b] note.txt" in submitted.stdout
    task_id = int(re.search(r"^Task (\d+)$", submitted.stdout, re.MULTILINE).group(1))
    with stack.client() as client:
        for name in ("notes/first.txt", "notes/deep/first.txt"):
            client.upload(task_id, name, note)
    for names, there in (
        ([], {"image.fits", "notes/first.txt", "notes/deep/first.txt"}),
        (["notes/deep"], {"notes/deep/first.txt"}),
    ):
        to = tmp_path / f"saved {len(there)}"
        got = stack.run("stdweb", "get", str(task_id), *names, "--to", str(to))
        assert got.returncode == 0, got.stderr
        assert {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()} == there
    refused = stack.run("stdweb", "submit", str(note), "--config", "sn=x")
    assert refused.returncode == 1
    assert refused.stderr.count("must be a valid number") == 1


def test_users_tokens_and_presets(stack, tmp_path: Path) -> None:
    added = stack.run(
        "stdweb",
        "user",
        "add",
        "anna",
        "--password-stdin",
        "--group",
        "nova",
        "--grant",
        "view_all_tasks",
        stdin="a-long-secret\n",
    )
    assert added.returncode == 0, added.stderr
    again = stack.run("stdweb", "user", "add", "anna", "--password-stdin", stdin="other\n")
    assert again.returncode == 1
    assert "anna" in again.stderr
    assert "Traceback" not in again.stderr
    assert re.search(r"anna\s+│\s+│ nova\s+│ view_all_tasks", stack.run("stdweb", "user", "list").stdout)
    token = stack.run("stdweb", "token", "create", "anna").stdout.strip()
    (tmp_path / "token").write_text(token)
    options = ("--url", stack.state.base_url, "--token-file", str(tmp_path / "token"))
    assert stack.run("stdweb", "status", *options).returncode == 0
    assert "Revoked 1 tokens" in stack.run("stdweb", "token", "revoke", "anna").stdout
    deadline = time.monotonic() + 15  # the gateway may know a token for another 5 s
    while stack.run("stdweb", "status", *options).returncode != 1:
        assert time.monotonic() < deadline, "the token is still taken"
    assert stack.run("stdweb", "preset", "add", "deep", "--config", "sn=3").returncode == 0
    assert re.search(r'deep\s+│ {"sn": 3}', stack.run("stdweb", "preset", "list").stdout)


def test_demonstration_finds_the_truth(stack) -> None:
    shown = stack.run("stdweb.demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    measured, true = re.search(r"zero point\s+│ (\S+) ± \S+ mag\s+│ (\S+) mag", shown.stdout).groups()
    assert abs(float(measured) - float(true)) < 0.01
    (residual,) = re.search(r"residual, WCS\s+│ (\S+) mas", shown.stdout).groups()
    assert float(residual) < 8
    assert len(Table.read(stack.folder / "demo" / "objects.vot")) > 2000
