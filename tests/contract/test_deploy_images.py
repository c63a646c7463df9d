"""The images: the linter passes, each holds what its processes import, and the gateway's nothing scientific."""

import fnmatch
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import grimp
import pytest

from shared.contracts.rpc import RPCS
from shared.contracts.steps import STEPS
from shared.probe import ready
from tests.support.deploy import DOCKER, ROOT, environment, labels, locked, modules_of, program, run, stages

IMAGES = ("gateway", "worker", "preview")
ALL = metadata.packages_distributions().keys()
SCIENTIFIC = {"numpy", "scipy", "astropy", "pandas", "pyarrow", "matplotlib", "numba", "scikit-learn", "stdpipe", "sep"}

IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.metadata import MetadataPathFinder
outside, packages = set(sys.argv[1].split(',')), sys.argv[2].split(',')
class Installed:
    finders, find_distributions = list(sys.meta_path), MetadataPathFinder.find_distributions
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] not in outside:
            return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)
sys.meta_path[:] = [Installed()]
for name in packages:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, '__path__', []), name + '.'):
        if not found.name.endswith('__main__'):
            importlib.import_module(found.name)
"""


def test_the_linter_finds_nothing() -> None:
    found = run(program("hadolint"), "--config", "deploy/docker/hadolint.yaml", "deploy/docker/Dockerfile")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_base_image_has_a_version() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    origins = {rest.split()[0] for instructions in stages().values() for word, rest in instructions if word == "FROM"}
    assert origins == {"${PYTHON_IMAGE}", "base"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_special_with_health_and_labels(image: str) -> None:
    words = dict(stages()[image])
    assert words["USER"] == "10001:10001"
    assert 'CMD ["python", "-m", "shared.probe"]' in dict(stages()["base"])["HEALTHCHECK"]
    wanted = {"title", "description", "licenses", "version", "revision"}
    assert {name.removeprefix("org.opencontainers.image.") for name in labels(image)} == wanted
    assert labels(image)["org.opencontainers.image.title"] == f"stdweb-{image}"
    assert labels("base") == {"org.opencontainers.image.base.name": "docker.io/library/${PYTHON_IMAGE}"}
    port = environment(image).get("STDWEB_HEALTH_PORT") or environment(image)["STDWEB_PORT"]
    assert words["EXPOSE"] == port
    assert environment(image).get("STDWEB_HEALTH_HOST") or environment(image)["STDWEB_HOST"] == "0.0.0.0"


def test_the_worker_has_the_astronomy_programs_of_a_fresh_machine() -> None:
    programs = {"source-extractor", "scamp", "astrometry.net", "astrometry-data-tycho2"}
    assert programs <= set((ROOT / "deploy" / "apt-packages.txt").read_text().split())
    installed = " ".join(rest for word, rest in stages()["worker"] if word == "RUN").split()
    assert programs <= set(installed)
    for light in ("base", "gateway", "preview"):
        assert not programs & {part for _, rest in stages()[light] for part in rest.split()}


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_has_the_versions_that_are_tested(image: str) -> None:
    whole, part = locked(ROOT / "requirements.lock"), locked(DOCKER / f"{image}.lock")
    assert part
    assert {name: whole.get(name) for name in part} == part


def test_the_gateway_s_image_has_nothing_scientific() -> None:
    assert not SCIENTIFIC & locked(DOCKER / "gateway.lock").keys()
    assert locked(DOCKER / "worker.lock").keys() >= SCIENTIFIC


@pytest.mark.parametrize(
    ("image", "packages"),
    [("gateway", "services.gateway,stdweb.cli,stdweb.site,shared.probe"), ("worker", "stdweb.cli,shared.probe")],
)
def test_the_gateway_and_the_command_line_run_with_what_is_in_their_image(image: str, packages: str) -> None:
    inside, outside = modules_of(DOCKER / f"{image}.lock")
    assert "pydantic" in inside
    assert "pytest" in outside
    done = run(sys.executable, "-W", "ignore", "-c", IMPORT_ALL, ",".join(outside), packages)
    assert done.returncode == 0, done.stderr


def test_everything_that_a_service_imports_is_in_its_image() -> None:
    graph = grimp.build_graph("services", "shared", include_external_packages=True, cache_dir=None)
    images = {step.service: "worker" for step in STEPS.values()} | {"preview": "preview"}
    for service, image in images.items():
        inside, _ = modules_of(DOCKER / f"{image}.lock")
        imported = {name for name in graph.find_upstream_modules(f"services.{service}", as_package=True) if name in ALL}
        assert imported > {"numpy", "pydantic"}
        assert imported <= set(inside), service


def test_every_service_has_an_image() -> None:
    services = {step.service for step in STEPS.values()} | {rpc.service for rpc in RPCS.values()} | {"gateway"}
    folders = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert folders == services


def test_what_is_copied_is_let_through_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_through = [line[1:] for line in lines if line.startswith("!")]
    copied = {
        source
        for instructions in stages().values()
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source
    for pattern in let_through:
        assert any(fnmatch.fnmatch(source, pattern) for source in copied), pattern


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["STDWEB_HEALTH_PORT", "STDWEB_PORT"])
def test_the_health_check_asks_the_process(name: str) -> None:
    with answering(200) as port:
        assert ready({name: str(port)})
    assert not ready({name: str(port)})
    with answering(503) as port:
        assert not ready({name: str(port)})
