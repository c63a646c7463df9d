"""Files of the guard, and the CA bundle."""

import certifi
import pytest
import requests

from shared.errors import TransientError
from shared.science.archives import Archive, ArchiveFaultError, apply_ca_bundle, ask, write_atomically

ONCE = Archive("once", "The archive", deadline_s=1.0, attempts=1)


def say_nothing(*_):
    pass


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"failures": "many"}', '{"failures": 9, "until": null}'])
def test_a_damaged_breaker_counts_from_nothing(tmp_path, content):
    path = tmp_path / "archives" / "once.json"
    path.parent.mkdir()
    path.write_text(content)
    assert ask(ONCE, lambda _: 42, tmp_path, say_nothing) == 42
    assert not path.exists()


def test_a_breaker_that_cannot_be_kept_breaks_nothing(tmp_path):
    (tmp_path / "archives").write_text("in the way")

    def fail(_):
        raise ArchiveFaultError

    for _ in range(4):
        with pytest.raises(TransientError):
            ask(ONCE, fail, tmp_path, say_nothing)
    assert ask(ONCE, lambda _: 42, tmp_path, say_nothing) == 42


def test_a_fault_of_ours_is_not_taken_for_one_of_the_archive(tmp_path):
    def stumble(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(ONCE, stumble, tmp_path, say_nothing)
    assert not (tmp_path / "archives").exists()


def test_the_bundle_goes_to_requests_and_certifi(tmp_path, monkeypatch):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(certifi, "where", certifi.where)
    monkeypatch.setattr(certifi.core, "where", certifi.core.where)
    apply_ca_bundle(None)
    assert certifi.where() != str(bundle)
    apply_ca_bundle(bundle)
    assert certifi.where() == str(bundle)
    settings = requests.Session().merge_environment_settings("https://example.org", {}, None, None, None)
    assert settings["verify"] == str(bundle)
    with pytest.raises(FileNotFoundError):
        apply_ca_bundle(tmp_path / "missing.pem")
