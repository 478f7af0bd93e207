"""Small json files and output folders: what is read, what may be written, and what the errors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from rearec.errors import UserError
from rearec.files import OutputFolder, check_folder, open_aside, read_json, write_json

NOTES = OutputFolder(
    lambda folder: (folder / "mark").is_file(),
    other="holds no notes",
    taken="notes",
    is_part=lambda entry: entry.name in ("mark", "note"),
    stranger="which is no note",
)


def test_a_json_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, None])
def test_what_is_no_json_is_named_in_the_callers_words(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_json(path, "no note ({})")
    assert str(raised.value).startswith(f"{path}: no note (") and str(raised.value).endswith(")")
    assert isinstance(raised.value.__cause__, FileNotFoundError) == (text is None)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_aside(path) as file:
        file.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_an_empty_and_the_commands_own_folder_may_be_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    NOTES.check(out, replace=False)
    out.mkdir()
    NOTES.check(out, replace=False)
    (out / "mark").touch()
    with pytest.raises(UserError, match=r"out: already holds notes$"):
        NOTES.check(out, replace=False)
    NOTES.check(out, replace=True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [(["thesis"], "out: exists and holds no notes$"), (["mark", "thesis"], "out: holds 'thesis', which is no note;")],
)
def test_anything_else_is_never_replaced(entries: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in entries:
        (out / name).touch()
    with pytest.raises(UserError, match=message):
        NOTES.check(out, replace=True)


def test_a_link_a_file_and_what_is_below_a_file_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name}: exists and is not a folder; choose another one"):
            NOTES.check(tmp_path / name, replace=True)
    # Where nothing is deleted, a link is as good as a folder.
    OutputFolder(lambda folder: True, other="").check(tmp_path / "link", replace=True)
    check_folder(tmp_path / "link")
    for check in (check_folder, lambda path: NOTES.check(path, replace=True)):
        with pytest.raises(UserError, match="file is a file, not a folder"):
            check(tmp_path / "file" / "out")
