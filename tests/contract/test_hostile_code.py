"""What no code of ours does, whatever it is given: unpickle, execute, hand a text to a shell; and no secret is kept."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("shared", "services", "stdweb") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "imp", "runpy", "telnetlib"}
CALLS = {"eval", "exec", "compile", "__import__", "input"}
METHODS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.unsafe_load", "tempfile.mktemp", "ssl._create_unverified_context", "Table.read_pickle"),
    *("pandas.read_pickle", "pd.read_pickle", "eval_str"),
}
OPTIONS = {("shell", True), ("allow_pickle", True), ("verify", False), ("check_hostname", False)}
NO_PICKLES = "np.load numpy.load np.fromfile torch.load".split()  # noqa: SIM905
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{20}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30}"
    r"|\bxox[bp]-[0-9]|\b(amqps?|mongodb(\+srv)?|https?)://[A-Za-z0-9_.-]+:(?!password@|secret@|x@|p@)[A-Za-z0-9]{12,}@"
)
TEXTS = {".py", ".md", ".toml", ".sh", ".txt", ".yaml", ".yml", ".json", ".lock", ".js", ".html", ".cfg", ""}
FOLDERS = ("shared", "services", "stdweb", "tests", "docs", "deploy", "scripts", "bench")


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS | METHODS or name in NO_PICKLES:
                yield name
            for option in node.keywords:
                if isinstance(option.value, ast.Constant) and (option.arg, option.value.value) in OPTIONS:
                    yield f"{option.arg}={option.value.value}"


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "eval(x)", "run(x, shell=True)", "np.load(f)", "get(u, verify=False)"],
)
def test_what_is_looked_for_is_found(code: str) -> None:
    assert list(dangers(ast.parse(code)))


def test_nothing_is_unpickled_executed_or_given_to_a_shell() -> None:
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(ROOT)): names for path in SOURCES if (names := list(dangers(ast.parse(path.read_text()))))
    }
    assert found == {}


def test_every_exception_from_the_rules_of_security_has_its_reason() -> None:
    exceptions = [
        (str(path.relative_to(ROOT)), line.strip())
        for path in SOURCES
        for line in path.read_text().splitlines()
        if re.search(r"# noqa: .*\bS\d{3}\b", line)
    ]
    assert exceptions
    assert [one for one in exceptions if not re.search(r"# noqa: [A-Z0-9, ]+\d[\s#-]+[a-z]", one[1])] == []


def test_no_secret_is_kept_in_the_repository() -> None:
    paths = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in paths if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts]
    assert len(texts) > 300
    found = {}
    for path in texts:
        match = SECRETS.search(path.read_text(errors="replace"))
        if match:
            found[str(path.relative_to(ROOT))] = match[0][:30]
    assert found == {}


def test_secrets_are_looked_for_in_a_way_that_finds_them() -> None:
    planted = ["AKIA" + "A" * 16, "amqp://user:" + "abcdef123456@host", "-----BEGIN PRIVATE KEY-----\n" + "A" * 20]
    assert all(SECRETS.search(text) for text in planted)
