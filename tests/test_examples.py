"""Every public function and class of rearec shows an example in its docstring, which runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGES = (
    *("rearec", "rearec.data", "rearec.evaluation", "rearec.engine", "rearec.training"),
    *("rearec.inference", "rearec.reasoning", "rearec.objectives", "rearec.facade"),
    *("rearec.experiments.compare", "rearec.experiments.tune"),
)


def public_objects() -> list[tuple[str, object]]:
    """By the name that users import, each once."""
    found: dict[int, tuple[str, object]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                found.setdefault(id(value), (f"{package}.{name}", value))
    return [*found.values()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "value"), [pytest.param(*each, id=each[0]) for each in public_objects()])
def test_the_example_runs(name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, None)
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(example, out=report.append)
    assert not result.failed, "".join(report)
    assert result.attempted > getattr(result, "skipped", 0)
