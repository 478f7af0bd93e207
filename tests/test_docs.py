"""The pages of docs/: every block of code runs, what they show is what comes out, nothing is left over."""

from __future__ import annotations

import importlib
import importlib.util
import pydoc
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from doc_blocks import DOCS, blocks, continued, differs, pages, run_page, start_folder

ROOT = DOCS.parent
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
# Pages whose code has tests of its own.
ELSEWHERE = {
    "datasets.md": "tests/data/test_recipes.py",
    "own-backbone.md": "tests/models/test_own_backbone.py",
    "own-objective.md": "tests/test_own_objective.py",
}
# Why a block is not run, and how many are not.
NOT_RUN = {
    "installs packages": 6,
    "names files of yours": 1,
    "starts a service": 1,
    "needs Optuna, and minutes": 1,
    "downloads a language model": 2,
    "trains dozens of models": 1,
    "starts several processes": 3,
    "downloads a data set": 2,
    "reads a checkpoint of the official code": 1,
    "compiles with a C++ compiler for a minute": 1,
}
RUNNABLE = [page for page in pages() if page not in ELSEWHERE and any(b.excuse is None for b in blocks(page))]
# Many short pages share what the first one trained.
LEFT: dict[str, Path] = {}


@pytest.mark.usefixtures("few_choices", "quick_figures")
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_code_of_a_page_runs(page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = start_folder(page, LEFT, tmp_path_factory.mktemp("page") / "folder", quick=True)
    wrong = [text for block, got in run_page(page, folder, quick=True) if (text := differs(block, got))]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_run_is_known() -> None:
    excused = Counter(b.excuse for page in pages() if page not in ELSEWHERE for b in blocks(page) if b.excuse)
    assert excused == NOT_RUN


def test_pages_with_tests_of_their_own_have_them() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", NAVIGATION, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(pages()) <= set(listed)


def test_pages_continue_pages() -> None:
    assert {first for page in pages() if (first := continued(page))} == {"start/tutorial.md"}


def test_nothing_is_left_to_fill_in() -> None:
    for page in pages():
        text = (DOCS / page).read_text(encoding="utf-8")
        assert not re.search(r"TODO|TBD|```text\n```", text), page


def test_the_messages_are_those_of_the_code() -> None:
    """Each in one piece of text of the sources, where strings that go on in the next line are joined."""
    page = (DOCS / "help" / "messages.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    sources = [
        ROOT / "setup.py",
        *(path for name in ("rearec", "rearec_kernels") for path in (ROOT / name).rglob("*.py")),
    ]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    assert len(messages) > 10
    assert [message for message in messages if message not in joined] == []


@pytest.mark.parametrize("package", ["rearec", "rearec_kernels"])
def test_the_reference_has_every_public_name(package: str) -> None:
    """Each under the name that users import, which is what stands at the place that mkdocstrings reads."""
    page = (DOCS / "reference" / f"{package}.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)\n    options:\n      heading: (\S+)$", page, re.MULTILINE)
    assert len(entries) == page.count("\n::: ")
    for defined, imported in entries:
        module, _, name = defined.rpartition(".")
        assert getattr(importlib.import_module(module), name) is pydoc.locate(imported), imported
    shown = {imported for _, imported in entries}
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__ if not name.startswith("__")}
    assert public - shown == set()


def hook(name: str) -> ModuleType:
    """A module of docs/hooks."""
    path = DOCS / "hooks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_backends_is_that_of_the_records() -> None:
    page = (DOCS / "kernels" / "layouts.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- backends -->\n")[2].partition("\n<!-- /backends -->")[0]
    assert shown == hook("backend_tables").backend_table()


def test_the_reference_has_every_command_and_option() -> None:
    import typer

    from rearec.cli.app import app

    text = hook("command_pages").command_pages()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"prepare", "train", "recommend"} <= commands.keys()
    for name, command in commands.items():
        assert f"\n## rearec {name}" in text
        if not hasattr(command, "commands"):
            section = text.partition(f"\n## rearec {name}\n")[2].partition("\n## ")[0]
            shown = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
            assert all(flag in section for each in shown for flag in (each.opts or each.secondary_opts)[:1])


def test_the_reference_has_every_setting() -> None:
    from rearec.fields import settings
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions

    text = hook("settings_tables").settings_tables()
    for name in (*settings(ReaRecConfig), *settings(TrainingOptions)):
        assert f"| `{name}` |" in text
