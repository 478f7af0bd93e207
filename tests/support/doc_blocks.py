"""The code on the pages of docs/: found, run, and compared with the output that stands below it.

Blocks of one page share a folder and, in Python, their names. A page whose first comment is ``<!-- continues: X -->``
begins in a copy of the folder that X left. ``<!-- not run: REASON -->`` before a block excuses it. What stands in a
``text`` block below another is its output: of Python as it is, of commands with any numbers. Where it depends on the
training, ``<!-- shape: REASON -->`` stands before it: it has as many lines, or, if one is ``...``, the same last line.

Tests are quick: they train for one epoch, whatever a page says, and choose priors and rules from few settings.
``python tests/support/doc_blocks.py [PAGE...]`` runs the pages as they stand and writes their outputs anew.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
RUN = ("python", "bash")
COLUMNS = "80"
# How many lines of an output are written where it is long.
HEAD, TAIL = 20, 14


@dataclass
class Block:
    """A block of code: where it is, what the comment before it says, and the output that stands below it."""

    page: str
    line: int
    language: str
    code: str
    remark: str = ""
    output: Block | None = field(default=None, repr=False)
    span: tuple[int, int] = (0, 0)

    @property
    def excuse(self) -> str | None:
        """Why it is not run."""
        return self.remark.removeprefix("not run: ") if self.remark.startswith("not run: ") else None


def pages() -> list[str]:
    """The pages by their path within docs/."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are code to run, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found: list[Block] = []
    end_of_last = 0
    for match in FENCE.finditer(text):
        before = text[end_of_last : match.start()].strip()
        comment = re.search(r"<!-- ([^>]*) -->\Z", before)
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        block = Block(page, line, match["language"], code, comment[1] if comment else "", None, match.span("code"))
        if block.language == "text":
            last = found[-1] if found else None
            if last is None or last.output is not None or before != (comment[0] if comment else ""):
                raise ValueError(f"{page}:{line}: this text stands below no block of code whose output it could be")
            last.output = block
        elif block.language in RUN:
            found.append(block)
        end_of_last = match.end()
    return found


def continued(page: str) -> str | None:
    """The page whose folder this one begins with."""
    match = re.search(r"<!-- continues: (\S+) -->", (DOCS / page).read_text(encoding="utf-8"))
    return match[1] if match else None


class PageRun:
    """A page as it is run: its folder, and the names of its Python blocks."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> str:
        """What a block prints; an error is raised."""
        with contextlib.chdir(self.folder) if sys.version_info >= (3, 11) else _chdir(self.folder):
            return self._python(block) if block.language == "python" else self._commands(block)

    def _python(self, block: Block) -> str:
        where = f"{block.page}:{block.line}"
        code = re.sub(r"epochs=\d+", "epochs=1", block.code) if self.quick else block.code
        tree = ast.parse("\n" * block.line + code, where)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, where, "exec"), self.names)
            if last is not None:
                assert isinstance(last, ast.Expr)
                value = eval(compile(ast.Expression(last.value), where, "eval"), self.names)
                if value is not None:
                    print(repr(value))
        return printed.getvalue()

    def _commands(self, block: Block) -> str:
        """The lines of a block: rearec in this process, whose imports are paid once; all else in a shell."""
        printed = []
        for line in block.code.replace("\\\n", " ").splitlines():
            if self.quick and line.startswith("rearec train "):
                line = re.sub(r" --epochs \d+", "", line) + " --epochs 1"
            if line.strip() and not line.startswith("#"):
                printed.append(_rearec(line, block) if line.startswith("rearec ") else _shell(line, block))
        return "".join(printed)


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _rearec(line: str, block: Block) -> str:
    from typer.testing import CliRunner

    from rearec.cli.app import app

    result = CliRunner().invoke(app, shlex.split(line)[1:], env={"COLUMNS": COLUMNS, "NO_COLOR": "1"})
    if result.exit_code != 0:
        error = result.exception if not isinstance(result.exception, SystemExit) else None
        raise AssertionError(f"{block.page}:{block.line}: {line}\n{result.output}") from error
    return result.output


def _shell(line: str, block: Block) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{block.page}:{block.line}: {line}\n{done.stdout}{done.stderr}")
    return done.stdout


def differs(block: Block, got: str) -> str | None:
    """What is wrong with a block's output as the page shows it; None where it is as it should be."""
    shown = block.output
    if shown is None:
        return None
    exact = block.language == "python"
    expected, actual = (_lines(text, exact) for text in (shown.code, got))
    where = f"{block.page}:{shown.line}: the output is"
    if shown.remark.startswith("shape: "):
        fits = actual[-1:] == expected[-1:] if "..." in expected else len(actual) == len(expected)
        return None if fits else f"{where} of another shape:\n{got}"
    pattern = "\n".join(".*" if line == "..." else re.escape(line) for line in expected)
    return None if re.fullmatch(pattern, "\n".join(actual), re.DOTALL) else f"{where}\n{got}"


def _lines(text: str, exact: bool) -> list[str]:
    """Lines that are not blank; unless exact, with any number as 0 and any gap or rule as one."""
    lines = [line.strip() if not exact else line.rstrip() for line in text.splitlines() if line.strip()]
    if exact:
        return lines
    lines = [re.sub(r"\d[\d,]*(\.\d+)?(e-?\d+)?|(?<!\w)\.\d+", "0", line) for line in lines]
    return [re.sub(r"\s+", " ", re.sub(r"[─━-]{3,}", "─", line)) for line in lines]


def run_page(page: str, folder: Path, *, quick: bool) -> list[tuple[Block, str]]:
    """Run a page's blocks in a folder; each with what it printed."""
    run = PageRun(folder, quick=quick)
    return [(block, run.run(block)) for block in blocks(page) if block.excuse is None]


def start_folder(page: str, left: dict[str, Path], folder: Path, *, quick: bool) -> Path:
    """An empty folder for a page, or a copy of the one that it continues; ``left`` remembers those by page."""
    first = continued(page)
    if first is None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if first not in left:
        before = start_folder(first, left, folder.parent / f"left-{first.replace('/', '-')}", quick=quick)
        run_page(first, before, quick=quick)
        left[first] = before
    shutil.copytree(left[first], folder)
    return folder


def _few_epochs(lines: list[str]) -> list[str]:
    """Without the lines between a training's third epoch and its last: their times are of no use to a reader."""
    epochs = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    return [*lines[: epochs[2] + 1], "...", *lines[epochs[-1] :]] if len(epochs) > 4 else lines


def _written(page: str, folder: Path) -> None:
    """Run a page and write the outputs that it shows: those that differ, and those whose shape alone is compared."""
    text = path_text = (DOCS / page).read_text(encoding="utf-8")
    for block, got in reversed(run_page(page, folder, quick=False)):
        if block.output is not None and (block.output.remark or differs(block, got) is not None):
            lines = _few_epochs([line.rstrip() for line in got.strip("\n").splitlines()])
            if len(lines) > HEAD + TAIL + 4:
                lines = [*lines[:HEAD], "...", *lines[-TAIL:]]
            begin, end = block.output.span
            text = text[:begin] + "\n".join(lines) + "\n" + text[end:]
    if text != path_text:
        (DOCS / page).write_text(text, encoding="utf-8")
        print(f"{page}: written")


if __name__ == "__main__":
    finished: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(sys.argv[1:] or pages()):
            if any(block.output is not None for block in blocks(name)):
                folder = start_folder(name, finished, Path(scratch, str(number)), quick=False)
                _written(name, folder)
                finished.setdefault(name, folder)
