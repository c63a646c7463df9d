import pytest

from shared.science.selftest import self_test, versions


def test_the_stack_is_sound():
    assert self_test() == []
    assert versions()["statsmodels"].startswith("0.14")


def test_missing_programs_are_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    problems = self_test()
    assert len(problems) == 3
    assert any("solve-field" in problem and "blind" in problem for problem in problems)


@pytest.mark.parametrize("name", ["stdpipe", "sep", "numba"])
def test_versions_are_told(name):
    assert versions()[name]
