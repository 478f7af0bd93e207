"""No user's text is markup: hostile ids, titles and paths through every command, in-process."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import FOLDER, FOLDER_SHOWN, SHOWN
from rich.console import RenderableType
from rich.progress import Progress
from rich.table import Table
from typer.testing import CliRunner, Result

import rearec
import rearec_kernels
from rearec.cli import terminal
from rearec.cli.app import app
from rearec.data.storage import load_dataset
from rearec.errors import visible
from rearec.report.floors import FLOORS

TINY = (
    "--method",
    "prl",
    "--steps",
    "1",
    "--dim",
    "8",
    "--ffn",
    "8",
    "--layers",
    "1",
    "--max-len",
    "8",
    "--epochs",
    "1",
)
IDS = list(SHOWN)
# The kinds of them, for what takes longer.
WORDS = ["[/b]", "[bold]x", ":smile:", "a  b", "\x1b[31mred", "two\nlines", "x" * 200]


def run(*arguments: object, code: int = 0) -> Result:
    """The command within this process; nothing that it prints moves a cursor."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", result.output)
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the hostile name."""
    folder = tmp_path_factory.mktemp("text") / FOLDER
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    """A dataset of hostile users, items and titles, in a folder of the hostile name."""
    draw = np.random.default_rng(0)
    histories = {user: [IDS[item] for item in draw.permutation(len(IDS))[:12]] for user in IDS}
    (place / "source.json").write_text(json.dumps(histories))
    titles = "".join(json.dumps({"item_id": item, "title": f"T {item}"}) + "\n" for item in IDS[::2])
    (place / "titles.jsonl").write_text(titles)
    options = ("--titles", place / "titles.jsonl", "--missing-titles", "keep")
    result = run("prepare", "json", place / "source.json", "--out", place / "data", *options)
    assert f"written to {visible(str(place / 'data'))}" in result.stdout.splitlines()
    dataset = load_dataset(place / "data")
    assert set(dataset.item_ids) == set(dataset.user_ids) == set(IDS)
    return place / "data"


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    """A run on it."""
    result = run("train", data, "--out", data.parent / "run", *TINY)
    assert f"written to {visible(str(data.parent / 'run'))}" in result.stdout.splitlines()
    return data.parent / "run"


def test_the_name_of_the_folder_is_shown_in_full(place: Path) -> None:
    assert visible(str(place)).endswith("/" + FOLDER_SHOWN)
    assert {text: visible(text) for text in SHOWN} == SHOWN


def test_recommend_shows_every_id_as_it_is(trained: Path) -> None:
    plain = ("recommend", trained, "--no-titles", "--keep-seen", "-k", len(IDS))
    result = run(*plain, "--", "[/b]", "[nobody]\x1b[31m  :smile:")
    assert "skipped, not in the catalogue: [nobody]\\x1b[31m  :smile:" in result.stderr
    # the long one is folded
    cells = [re.sub(r"^ *\d* +| +-?\d\.\d+ *$", "", line) for line in result.stdout.splitlines()]
    assert {shown for shown in SHOWN.values() if len(shown) < 80} <= set(cells)
    assert "".join(cell for cell in cells if set(cell) == {"x"}) == "x" * 300
    exact = json.loads(run(*plain, "--json", "--", "[/b]", "\x1b[31m").stdout)
    assert set(exact["items"]) == set(IDS) and exact["unknown"] == ["\x1b[31m"] and exact["history"][0] == "[/b]"


def test_recommend_leaves_the_text_in_files_as_it_is(trained: Path, place: Path) -> None:
    (place / "in.jsonl").write_text("".join(json.dumps([item, f"{item}?"]) + "\n" for item in IDS))
    result = run("recommend", trained, "--input", place / "in.jsonl", "--output", place / "out.jsonl")
    assert result.stdout.rstrip("\n").endswith(f"written to {visible(str(place / 'out.jsonl'))}")
    answers = [json.loads(line) for line in (place / "out.jsonl").read_text("utf-8").split("\n") if line]
    assert [answer["unknown"] for answer in answers] == [[f"{item}?"] for item in IDS]


def test_evaluate_and_embed(trained: Path, data: Path, place: Path) -> None:
    assert "reasoning steps" in run("evaluate", trained, "--by-step", "--users-by", "length").stdout
    np.save(place / "features.npy", np.ones((len(IDS), 4), dtype=np.float32))
    again = run("embed", data, "--features", place / "features.npy", "--pca", "0")
    assert f"{len(IDS)} x 4 in {visible(str(data))}" in again.stdout.splitlines()
    order = place / "order"
    order.write_text("[/b] 0\n")
    wrong = run("embed", data, "--features", place / "features.npy", "--order", order, "--force", code=2)
    assert wrong.stderr.splitlines()[-1].startswith(f"error: --order {visible(str(order))}: item ")


@pytest.mark.parametrize("analysis", ["steps", "ceiling", "subgroups", "latency", "similarity", "ranks", "case"])
def test_analyses_print_their_page(analysis: str, trained: Path, place: Path) -> None:
    options = {"latency": ["--rows", 4, "--repeats", 1], "case": ["--cases", 40, "-k", 40]}.get(analysis, [])
    out = place / "analysis"
    result = run("analyze", trained, analysis, "--out", out, *options)
    for extension in ("md", "csv", "png"):
        assert f"written: {visible(str(out / analysis))}.{extension}" in result.stdout.splitlines()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", (out / f"{analysis}.md").read_text("utf-8"))
    if analysis == "case":
        with (out / "case.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["item"] for row in rows} <= set(IDS) and {row["user"] for row in rows} <= set(IDS)
        assert any(re.search("[\x1b\n\r]", row["item"]) for row in rows)
        # a line for each case: the item, the user, the ranks by step
        users = re.findall(r"^\d+\. .*, user (.*?)(?: +\d+)+ *$", result.stdout, flags=re.MULTILINE)
        assert users and set(users) <= {shown.strip() for shown in SHOWN.values()}


def test_reproduce_names_folders_as_they_are(data: Path, place: Path) -> None:
    fenced = place / "named ``` [v1]"
    shutil.copytree(data, fenced)
    result = run("reproduce", "table1", fenced, "--out", place / "pages")
    assert f"table1: {visible(str(place / 'pages' / 'table1.md'))}" in result.stdout.splitlines()
    page = (place / "pages" / "table1.md").read_text("utf-8")
    assert page.splitlines()[0].endswith("(named \\`\\`\\` \\[v1\\])")
    assert "\n````\nrearec reproduce table1 'named ``` [v1]' --out" in page
    refused = run("reproduce", "table1", data, "--out", place / "source.json", code=2)
    assert refused.stderr.startswith(f"error: {visible(str(place / 'source.json'))}: exists and is not a folder")


def test_demo_and_download_name_folders_as_they_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rearec.evaluation.metrics import rank_metrics

    metrics = rank_metrics(np.asarray([0, 3]))
    plots = {"steps": str(place / "steps.png")}
    report: dict[str, Any] = dict.fromkeys((*FLOORS, "base", "erl", "prl"), metrics)
    report["example"] = {"history": ["anchor-0-3", "item-1-0"], "theme": 3}
    monkeypatch.setattr(
        "rearec.experiments.demo.run_demo", lambda *_, **__: {**report, "seen": "kept", "plots": plots, "seconds": 1.0}
    )
    lines = run("demo", "--out", place / "demo").stdout.splitlines()
    assert f"plot of steps: {visible(str(place / 'steps.png'))}" in lines
    assert any(
        line.startswith(f"  rearec recommend '{visible(str(place / 'demo' / 'erl'))}' anchor-") for line in lines
    )
    monkeypatch.setattr("rearec.data.download.download", lambda source, folder: {})
    shown = run("download", "software", "--out", place / "raw", "--accept-terms").stdout
    assert shown.startswith(f"in {visible(str(place / 'raw'))}; next: ")
    assert f"'{visible(str(place / 'raw'))}'/" in shown


@pytest.mark.parametrize("text", WORDS)
def test_errors_repeat_the_users_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / f"no {text.replace('/', '')}"
    for arguments, message in (
        (("evaluate", path), f"error: {visible(str(path))}: no such folder"),
        (("recommend", path, "--", text), f"error: {visible(str(path))}: no such folder"),
        (("train", path, "--out", tmp_path / "out"), f"error: {visible(str(path))}: no such directory"),
        (("prepare", "json", path, "--out", tmp_path / "out"), f"error: {visible(str(path))}: no such file"),
        (("embed", path), f"error: {visible(str(path))}: no such directory"),
        (("analyze", path, "steps", "--out", tmp_path / "out"), f"error: {visible(str(path))}: no such folder"),
        (("reproduce", "table1", path, "--out", tmp_path / "out"), f"error: {visible(str(path))}: no such directory"),
    ):
        assert run(*arguments, code=2).stderr.splitlines()[-1].startswith(message), arguments
    (debugged,) = run("evaluate", path, "--debug", code=2).stderr.splitlines()[-1:]
    assert debugged.startswith(f"error: {visible(str(path))}: no such folder")
    for arguments in (("download", f"x{text}"), ("info", "--device", f"x{text}")):
        assert repr(f"x{text}") in run(*arguments, code=2).stderr


# What typer says of a line break differs between its releases.
@pytest.mark.parametrize("text", [text for text in WORDS if "\n" not in text])
def test_wrong_arguments_are_one_line_with_the_users_words(text: str, tmp_path: Path) -> None:
    for arguments in (
        (f"x{text}",),
        ("info", f"x{text}"),
        ("info", f"--x{text}"),
    ):
        (line,) = run(*arguments, code=2).stderr.splitlines()
        assert line.startswith("error: ") and f"x{visible(text)}" in line and line.endswith("--help')"), line
    (line,) = run("prepare", f"x{text}", "file", "--out", tmp_path / "out", code=2).stderr.splitlines()
    assert line.startswith(f"error: unknown format {visible(repr(f'x{text}')[:-1])}"), line


def printed(*objects: RenderableType) -> str:
    console = terminal.Terminal(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=400)
    console.print(*objects)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=range(len(SHOWN)))
def test_a_terminal_shows_lines_tables_and_bars_as_they_are(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(text) == f"{shown}\n"
    assert printed(text * 100) == f"{shown * 100}\n"
    table = Table(title=f"<{text}>", show_edge=False)
    table.add_column(f"={text}=", footer=text)
    table.add_row(f"#{text}#")
    without_styles = re.sub(r"\x1b\[[\d;]*m", "", printed(table))
    for around in ("<>", "==", "##"):
        assert f"{around[0]}{shown}{around[1]}" in without_styles
    out = terminal.Terminal(file=io.StringIO(), force_terminal=True, color_system=None, width=400)
    monkeypatch.setattr(terminal, "stderr_terminal", lambda: out)
    bar: Progress = terminal.progress()
    bar.add_task(f"<{text}>", total=1)
    out.print(bar.get_renderable())
    assert isinstance(out.file, io.StringIO) and f"<{shown}>" in out.file.getvalue()


def imports(tree: ast.Module) -> set[str]:
    """The names that a module imports from rich when it runs, not for the type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "rich"}


def test_nothing_is_printed_but_through_the_terminal() -> None:
    packages = [Path(package.__file__).parent for package in (rearec, rearec_kernels)]  # type: ignore[arg-type]
    # These print nothing themselves: a console does, and there is one kind of it.
    harmless = {
        "rich.box.SIMPLE_HEAD",
        "rich.table.Table",
        "rich.measure.Measurement",
        "rich.live.Live",
        "rich.markdown.Markdown",
    }
    for path in sorted(path for package in packages for path in package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path != Path(terminal.__file__):
            others = {name for name in imports(tree) - harmless if not re.fullmatch(r"rich\.progress\.\w+Column", name)}
            assert not others, f"{path} imports {others}: see rearec.cli.terminal"
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"print", "click.echo", "typer.secho", "traceback.print_exc"}, path
        assert "typer.echo" not in called or path.name in ("output.py", "app.py"), path
