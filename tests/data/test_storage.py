"""The prepared dataset on disk: round trip, nothing half written, every damage found on opening."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE

from rearec.data import SequenceDataset, load_dataset, save_dataset, storage
from rearec.errors import UserError


def example(title: str | None = "A title") -> SequenceDataset:
    """Three sequences of two users."""
    return SequenceDataset(
        items=np.asarray([0, 1, 2, 0, 2, 1, 1, 0], dtype=np.int32),
        offsets=np.asarray([0, 4, 6, 8]),
        sequence_user=np.asarray([0, 0, 1], dtype=np.int32),
        split_rows={
            "train": np.asarray([[0, 1], [0, 2]], dtype=np.int32),
            "valid": np.asarray([[0, 3], [2, 0]], dtype=np.int32),
            "test": np.asarray([[1, 1], [2, 1]], dtype=np.int32),
        },
        item_ids=["007", "ü\n", "\ud800"],
        user_ids=["u", "v"],
        statistics={"users": 2},
        source={"format": "test"},
        options={"split": "given"},
        item_titles=[title, None, "B"],
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    dataset = example()
    save_dataset(dataset, tmp_path / "new" / "d")
    loaded = load_dataset(tmp_path / "new" / "d")
    for name in ("items", "offsets", "sequence_user"):
        stored, original = getattr(loaded, name), getattr(dataset, name)
        assert isinstance(stored, np.memmap) and stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(loaded.rows(split), dataset.rows(split))
    for name in ("item_ids", "user_ids", "statistics", "source", "options", "item_titles"):
        assert getattr(loaded, name) == getattr(dataset, name)


def test_the_directory_holds_the_documented_files(tmp_path: Path) -> None:
    save_dataset(example(), tmp_path / "d")
    arrays = {f"{name}.npy" for name in ("items", "offsets", "sequence_user", "train_rows", "valid_rows", "test_rows")}
    texts = {"item_ids.json", "user_ids.json", "item_titles.json", "dataset.json"}
    assert {path.name for path in (tmp_path / "d").iterdir()} == arrays | texts
    assert os.listdir(tmp_path) == ["d"]


def test_an_empty_split_can_be_stored(tmp_path: Path) -> None:
    dataset = example()
    rows = {**dataset.split_rows, "valid": np.empty((0, 2), dtype=np.int32)}
    save_dataset(SequenceDataset(**{**vars(dataset), "split_rows": rows}), tmp_path / "d")
    assert load_dataset(tmp_path / "d").rows("valid").shape == (0, 2)


def test_without_titles_there_are_none(tmp_path: Path) -> None:
    save_dataset(SequenceDataset(**{**vars(example()), "item_titles": None}), tmp_path / "d")
    assert load_dataset(tmp_path / "d").item_titles is None


def test_numbers_of_a_dataset() -> None:
    dataset = example()
    assert (dataset.num_users, dataset.num_items, dataset.num_sequences) == (2, 3, 3)
    # The second sequence of user 0 adds its target only.
    assert dataset.num_interactions == 4 + 1 + 2
    assert dataset.history(0, 2).tolist() == [0, 1]
    assert dataset.targets("test").tolist() == [1, 0]


def test_training_counts_leave_out_what_valid_and_test_rows_predict() -> None:
    # Sequence 0: items 0, 1, 2 precede its valid row; sequence 1 is a repetition; sequence 2 begins with a valid row.
    assert example().train_item_counts().tolist() == [1, 1, 1]
    rows = {**example().split_rows, "train": np.asarray([[0, 1], [1, 1]]), "test": np.asarray([[2, 1]])}
    # Now the target of the repeated sequence is a training row.
    assert SequenceDataset(**{**vars(example()), "split_rows": rows}).train_item_counts().tolist() == [1, 2, 1]


def test_training_users_count_each_item_of_a_user_once() -> None:
    rows = {**example().split_rows, "train": np.asarray([[0, 1], [1, 1]]), "test": np.asarray([[2, 1]])}
    for dataset in (example(), SequenceDataset(**{**vars(example()), "split_rows": rows})):
        users, having = dataset.train_users_by_item()
        assert users == 1 and having.tolist() == [1, 1, 1]
    later = {**rows, "valid": np.asarray([[0, 3]]), "test": np.asarray([[2, 1]])}
    users, having = SequenceDataset(**{**vars(example()), "split_rows": later}).train_users_by_item()
    assert users == 2 and having.tolist() == [1, 2, 1]


def test_an_existing_directory_is_refused_without_force(tmp_path: Path) -> None:
    save_dataset(example("old"), tmp_path / "d")
    with pytest.raises(UserError, match="already holds a prepared dataset; use --force"):
        save_dataset(example("new"), tmp_path / "d")
    assert load_dataset(tmp_path / "d").item_titles == ["old", None, "B"]


def test_force_replaces_a_dataset_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_dataset(example("old"), tmp_path / "d")
    save_dataset(example("new"), tmp_path / "d", force=True)
    assert load_dataset(tmp_path / "d").item_titles == ["new", None, "B"]
    assert os.listdir(tmp_path) == ["d"]


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    save_dataset(example(), tmp_path / "d")
    assert load_dataset(tmp_path / "d").num_items == 3


def test_force_never_removes_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no prepared dataset"):
        save_dataset(example(), tmp_path / "d", force=True)
    with pytest.raises(UserError, match="is not a directory"):
        save_dataset(example(), tmp_path / "d" / "thesis.txt", force=True)
    assert (tmp_path / "d" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{}", '{"format": "other"}', "[]"])
def test_a_description_of_another_program_makes_no_dataset(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="holds no prepared dataset"):
        save_dataset(example(), tmp_path, force=True)


@pytest.mark.parametrize("name", ["run", "items.npy"])
def test_force_never_removes_what_is_kept_in_a_dataset(tmp_path: Path, name: str) -> None:
    save_dataset(example(), tmp_path / "d")
    (tmp_path / "d" / name).unlink(missing_ok=True)
    (tmp_path / "d" / name).mkdir()
    with pytest.raises(UserError, match=f"holds '{name}', which is no part of a dataset"):
        save_dataset(example(), tmp_path / "d", force=True)


def test_the_fingerprint_is_that_of_data_and_split(tmp_path: Path) -> None:
    dataset = example()
    save_dataset(dataset, tmp_path / "d")
    loaded = load_dataset(tmp_path / "d")
    assert loaded.fingerprint == dataset.fingerprint == replace(loaded).fingerprint
    assert replace(dataset, item_titles=None, user_ids=["x", "y"]).fingerprint == dataset.fingerprint
    rows = dataset.split_rows
    for change in (
        {"items": dataset.items[::-1]},
        {"offsets": np.asarray([0, 3, 6, 8])},
        {"sequence_user": np.asarray([0, 1, 1], dtype=np.int32)},
        {"item_ids": ["007", "b", "c"]},
        {"split_rows": {**rows, "train": rows["train"][:1]}},
        {"split_rows": {**rows, "valid": rows["test"], "test": rows["valid"]}},
    ):
        assert replace(dataset, **change).fingerprint != dataset.fingerprint, change


@pytest.mark.parametrize(("name", "ids"), [("user_ids", '["u", "u"]'), ("item_ids", '["a", "b", 3]')])
def test_ids_that_are_no_different_texts_are_found(tmp_path: Path, name: str, ids: str) -> None:
    save_dataset(example(), tmp_path / "d")
    (tmp_path / "d" / f"{name}.json").write_text(ids)
    with pytest.raises(UserError, match=rf"{name}\.json: damaged \(ids must be different texts\)"):
        load_dataset(tmp_path / "d")


def test_a_failed_write_keeps_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_dataset(example("old"), tmp_path / "d")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_write_array", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        save_dataset(example("new"), tmp_path / "d", force=True)
    assert load_dataset(tmp_path / "d").item_titles == ["old", None, "B"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_failed_rename_brings_the_old_dataset_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_dataset(example("old"), tmp_path / "d")
    rename = Path.rename

    def fails_for_partial(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_partial)
    with pytest.raises(UserError, match="cannot be written"):
        save_dataset(example("new"), tmp_path / "d", force=True)
    assert load_dataset(tmp_path / "d").item_titles == ["old", None, "B"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_killed_writer_leaves_nothing_that_opens(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
import numpy as np
from rearec.data import storage, SequenceDataset, save_dataset
def wait(*arguments, **options):
    Path(sys.argv[1], "ready").touch()
    time.sleep(3600)
storage._replace = wait
a = lambda *v: np.asarray(v, dtype=np.int32)
rows = {name: a([0, 1]) for name in ("train", "valid", "test")}
save_dataset(SequenceDataset(a(0, 1), np.asarray([0, 2]), a(0), rows, ["a", "b"], ["u"], {}), Path(sys.argv[1], "d"))
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "ready").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "ready").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "d").exists()
    # What is left carries a hidden name and is in nobody's way.
    assert all(path.name.startswith(".") for path in tmp_path.iterdir() if path.name != "ready")


def test_the_description_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write_json, save = storage._write_json, storage._write_array

    def note_json(path: Path, *arguments: Any, **options: Any) -> None:
        written.append(path.name)
        write_json(path, *arguments, **options)

    def note_array(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        save(path, *arguments)

    monkeypatch.setattr(storage, "_write_json", note_json)
    monkeypatch.setattr(storage, "_write_array", note_array)
    save_dataset(example(), tmp_path / "d")
    assert written[-1] == "dataset.json" and len(written) == 10


def change_array(path: Path, name: str, change: Any) -> None:
    """Replace one stored array by ``change(array)``."""
    array = np.load(path / f"{name}.npy")
    np.save(path / f"{name}.npy", change(array))


def put(index: Any, value: int) -> Any:
    """A change that sets one element."""

    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items", put(3, 3), r"items.npy: damaged \(an item id is out of range\)"),
        ("items", put(3, -1), r"items.npy: damaged \(an item id is out of range\)"),
        ("items", lambda a: a[:-1], r"items.npy: damaged \(is int32 \[7\], not int32 \[8\]\)"),
        ("items", lambda a: a.astype(np.int64), r"items.npy: damaged \(is int64 \[8\], not int32 \[8\]\)"),
        ("offsets", put(-1, 7), r"offsets.npy: damaged \(offsets do not ascend"),
        ("offsets", put(1, 7), r"offsets.npy: damaged \(offsets do not ascend"),
        ("sequence_user", put(2, 2), r"sequence_user.npy: damaged \(a user id is out of range\)"),
        ("sequence_user", put(0, 1), r"sequence_user.npy: damaged \(sequences are not sorted by user\)"),
        ("train_rows", put((1, 1), 4), r"train_rows.npy: damaged \(a position is out of range\)"),
        ("train_rows", put((0, 1), 0), r"train_rows.npy: damaged \(a position is out of range\)"),
        ("test_rows", put((1, 0), 3), r"test_rows.npy: damaged \(a sequence is out of range\)"),
        ("valid_rows", lambda a: a[::-1].copy(), r"valid_rows.npy: damaged \(rows are not sorted\)"),
    ],
)
def test_damaged_arrays_are_found(tmp_path: Path, name: str, change: Any, message: str) -> None:
    save_dataset(example(), tmp_path / "d")
    change_array(tmp_path / "d", name, change)
    with pytest.raises(UserError, match=message):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", ["items.npy", "train_rows.npy", "item_ids.json", "user_ids.json", "item_titles.json"])
def test_missing_and_truncated_files_are_found(tmp_path: Path, name: str) -> None:
    save_dataset(example(), tmp_path / "d")
    file = tmp_path / "d" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=name):
        load_dataset(tmp_path / "d")
    file.unlink()
    with pytest.raises(UserError, match=f"{name}: missing from the prepared dataset"):
        load_dataset(tmp_path / "d")


def test_a_list_of_another_length_is_found(tmp_path: Path) -> None:
    save_dataset(example(), tmp_path / "d")
    (tmp_path / "d" / "user_ids.json").write_text('["u"]')
    with pytest.raises(UserError, match=r"user_ids.json: damaged \(1 entries, not \[2\]\)"):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format is 'other', not 'rearec-dataset'"),
        ({"version": 99}, "prepared by another release"),
        ({"shapes": None}, "the field 'shapes' is missing"),
        ({"fingerprint": None}, "the field 'fingerprint' is missing"),
    ],
)
def test_foreign_descriptions_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_dataset(example(), tmp_path / "d")
    file = tmp_path / "d" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_dataset(tmp_path / "d")


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a prepared dataset: it has no dataset\.json"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read"):
        load_dataset(tmp_path)
