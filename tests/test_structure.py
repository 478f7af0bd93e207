"""The shape of the house: imports run one way and in no circle, files stay readable, rooms few."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rearec", "rearec_kernels")
# What stands higher may import what stands lower, never the other way round; a module of rearec that belongs to no line
# of its own belongs to the longest one that its name begins with.
FLOORS = (
    "rearec",  # names of all floors, resolved when they are first used
    "rearec.__main__",
    "rearec.cli",
    "rearec.facade",
    "rearec.experiments",
    "rearec.analysis",
    "rearec.training",
    "rearec.serving",
    "rearec.inference",
    "rearec.evaluation",
    "rearec.engine",
    "rearec.objectives",
    "rearec.reasoning",
    "rearec.models",
    "rearec.distributed",
    "rearec.data",
    "rearec.report",
    "rearec.run_folder",
    "rearec.fields",
    "rearec.files",
    "rearec.errors",
    "rearec_kernels",
)
BACKENDS = ("reference", "cpu", "cuda", "triton")
MOST_LINES = 400
MOST_ROOMS = {"rearec": 19, "rearec/data": 14}


def module_files() -> dict[str, Path]:
    """Modules by their names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = module_files()


def resolved(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """The modules that a statement imports, each with the name taken from it ("" for the module itself)."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module if FILES[module].stem == "__init__" else module.rpartition(".")[0]
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *filter(None, [node.module])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield (inner, "") if inner in FILES else (base, alias.name)


@cache
def imports(module: str) -> frozenset[tuple[str, str]]:
    """All that a module of ours imports from modules of ours, in functions, for type checkers and by its stub too."""
    files = [path for path in (FILES[module], FILES[module].with_suffix(".pyi")) if path.exists()]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    statements = (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    found = (each for node in statements for each in resolved(module, node))
    return frozenset((name, taken) for name, taken in found if name in FILES and name != module)


def floor_of(module: str) -> int:
    """The line of `FLOORS` that a module belongs to."""
    lines = [line for line in FLOORS if module == line or (line != "rearec" and module.startswith(f"{line}."))]
    assert lines, f"{module} has no place in FLOORS"
    return FLOORS.index(max(lines, key=len))


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Sets of nodes each of which leads to every other (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in path:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            circle = path[path.index(node) :]
            del path[path.index(node) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository; skips the test where there is none, as in an unpacked archive."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_statements_are_read_as_python_reads_them() -> None:
    assert ("rearec.reasoning", "ReaRec") in imports("rearec")
    assert ("rearec.engine", "Engine") in imports("rearec.evaluation.ranking")
    assert ("rearec.data.batch", "Batch") in imports("rearec.models.backbone")  # for type checkers alone
    assert FILES.keys() >= set(FLOORS)
    assert floor_of("rearec.models.config") == FLOORS.index("rearec.models")


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"f"}, "f": {"e", "f"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["e", "f"]]


def test_there_are_no_circles() -> None:
    assert circles({module: {name for name, _ in imports(module)} for module in FILES}) == []


def test_nothing_imports_upwards() -> None:
    upwards = [
        f"{module} imports {name}"
        for module in FILES
        for name, _ in imports(module)
        if floor_of(name) < floor_of(module)
    ]
    assert upwards == []


def test_no_backend_imports_another() -> None:
    across = [
        f"{module} imports {name}"
        for module in FILES
        for name, _ in imports(module)
        if (own := backend_of(module)) and (other := backend_of(name)) and own != other
    ]
    assert across == []


def backend_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "rearec_kernels" and len(parts) > 1 and parts[1] in BACKENDS else None


def test_rearec_uses_only_the_public_names_of_the_kernels() -> None:
    import rearec_kernels

    def is_public(name: str, taken: str) -> bool:
        known = ("", *rearec_kernels.__all__)
        return name == "rearec_kernels.compat" or (name == "rearec_kernels" and taken in known)

    private = [
        f"{module} takes {taken or 'the module'} from {name}"
        for module in FILES
        if module.startswith("rearec.")
        for name, taken in imports(module)
        if name.startswith("rearec_kernels") and not is_public(name, taken)
    ]
    assert private == []


def test_no_file_is_too_long_to_read() -> None:
    sources = tracked("*.py", "*.pyi", "*.cpp", "*.h", "*.cu", "*.cuh")
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert lines
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("folder", MOST_ROOMS)
def test_rooms_are_few(folder: str) -> None:
    """Modules and packages beside one another, `__init__` and `__main__` not counted."""
    rooms = {path.relative_to(ROOT / folder).parts[0] for path in tracked(f"{folder}/*.py")}
    rooms -= {"__init__.py", "__main__.py"}
    assert len(rooms) <= MOST_ROOMS[folder], sorted(rooms)
