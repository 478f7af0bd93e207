"""The RUN folder: what is taken for one, what is never deleted, damaged files named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rearec.errors import UserError
from rearec.run_folder import Catalog, RunFolder


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> RunFolder:
    """A copy of a finished run."""
    return RunFolder(shutil.copytree(run_folder, tmp_path / "run"))


def test_what_a_training_and_a_kill_leave_may_be_replaced(run: RunFolder) -> None:
    (run.path / ".options.json.partial").touch()
    (run.path / ".saving-abc").mkdir()
    with pytest.raises(UserError, match="--resume continues it, --force replaces it"):
        run.check_writable(force=False)
    run.check_writable(force=True)


@pytest.mark.parametrize("name", ["notes.txt", "data", "metrics.csv.bak"])
def test_a_run_in_which_something_else_is_kept_is_never_replaced(run: RunFolder, name: str) -> None:
    (run.path / name).mkdir()
    with pytest.raises(UserError, match=f"holds '{name}', which no training writes"):
        run.check_writable(force=True)


@pytest.mark.parametrize("text", ["", "{}", '{"dataset": {}, "model": {}, "training": {}}', "[]"])
def test_a_folder_with_an_options_file_of_another_program_is_no_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(UserError, match="exists and is not a RUN folder"):
        RunFolder(tmp_path).check_writable(force=True)


def test_a_folder_that_was_only_started_may_be_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start({"dataset": {}, "model": {}, "training": {}}, Catalog([], []))
    folder.check_writable(force=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", []),
        ("result.json", {"best_epoch": 1}),
        ("catalog.json", {"item_ids": "ab", "popularity": [1, 2]}),
        ("catalog.json", {"item_ids": ["a", 2], "popularity": [1, 2]}),
        ("catalog.json", {"item_ids": ["a", "b"], "popularity": [1, "2"]}),
        ("options.json", {"format": "rearec-run", "dataset": [], "model": {}, "training": {}}),
        ("options.json", {"format": "rearec-run", "dataset": {"path": 1}, "model": {}, "training": {}}),
    ],
)
def test_damaged_files_are_named(run: RunFolder, name: str, content: Any) -> None:
    (run.path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{name}: damaged"):
        getattr(run, name.removesuffix(".json"))()


def test_a_json_that_cannot_be_parsed_is_named(run: RunFolder) -> None:
    for text in ("{", "[" * 100_000):
        run.result_file.write_text(text)
        with pytest.raises(UserError, match=r"result\.json: cannot be read"):
            run.result()
