"""Sources as users name them: folders, patterns, part files; what their names say of a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rearec.data import SequenceDataset, prepare
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]
Rows = list[tuple[str, tuple[str, ...], str]]
RowsOf = Callable[[SequenceDataset, str], Rows]

HEADER = "user_id,item_id,timestamp\n"


def events(first: int, count: int = 4, users: str = "uv") -> str:
    """``count`` interactions of each user from the moment ``first`` on, item and moment the same number."""
    return HEADER + "".join(f"{user},i{time},{time}\n" for time in range(first, first + count) for user in users)


def untimed(first: int, count: int = 2) -> str:
    return "user_id,item_id\n" + "".join(f"u,i{number}\n" for number in range(first, first + count))


def findings(dataset: SequenceDataset) -> dict[str, str]:
    result: dict[str, str] = dataset.source["findings"]
    return result


@pytest.mark.parametrize(
    "names", [("10.csv", "11.csv"), ("a.csv", "b.csv", "c.csv"), ("9.csv", "10.csv", "11.csv", "12.csv")]
)
def test_parts_of_one_table_are_one_table_however_many(names: tuple[str, ...], write: Write, tmp_path: Path) -> None:
    files = [write(name, events(10 * number)) for number, name in enumerate(names)]
    dataset = prepare("table", files, tmp_path / "o")
    assert [len(dataset.rows(split)) for split in ("train", "valid", "test")] == [8 * len(names) - 6, 2, 2]
    assert findings(dataset)["split"].startswith("leave-one-out (each user's last item is for test")
    assert f"{len(names)} files taken as one table" in findings(dataset)["split"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "valid.csv", "test.csv"),
        ("x.train.csv", "x.val.csv", "x.test.csv"),
        ("train-00000-of-00001.csv", "validation-00000-of-00001.csv", "test-00000-of-00001.csv"),
        ("My Train.csv", "My Dev.csv", "My Test.csv"),
    ],
    ids=lambda names: names[0],
)
def test_names_say_which_file_is_what(
    names: tuple[str, ...], order: tuple[int, ...], write: Write, tmp_path: Path, rows_of: RowsOf
) -> None:
    files = [write(name, events(10 * number, 2, "u")) for number, name in enumerate(names)]
    dataset = prepare("table", [files[index] for index in order], tmp_path / "o")
    assert [row[2] for row in rows_of(dataset, "valid")] == ["i10", "i11"]
    assert [row[2] for row in rows_of(dataset, "test")] == ["i20", "i21"]
    assert (
        findings(dataset)["split"]
        == f"given (train {names[0]}, valid {names[1]}, test {names[2]}), by the files' names"
    )


def test_part_files_of_a_given_split(tmp_path: Path, rows_of: RowsOf) -> None:
    for part, first in (("train", 0), ("valid", 40), ("test", 60)):
        (tmp_path / "set" / part).mkdir(parents=True)
        for number in (2, 10):
            text = events(first + number, 2, "u")
            (tmp_path / "set" / part / f"part-{number}.csv").write_text(text)
        (tmp_path / "set" / part / "_SUCCESS").write_text("")
    for sources in ([tmp_path / "set"], [tmp_path / "set" / part for part in ("test", "train", "valid")]):
        dataset = prepare("table", sources, tmp_path / "o", force=True)
        assert [len(rows_of(dataset, split)) for split in ("train", "valid", "test")] == [3, 4, 4]
        assert findings(dataset)["split"].startswith("given (train part-2.csv, part-10.csv, valid")


def test_three_files_without_names_are_a_given_split_only_when_asked(write: Write, tmp_path: Path) -> None:
    files = [write(f"{name}.csv", events(10 * number)) for number, name in enumerate("abc")]
    dataset = prepare("table", files, tmp_path / "o", split="given")
    assert [len(dataset.rows(split)) for split in ("train", "valid", "test")] == [6, 8, 8]
    assert findings(dataset)["split"] == "given (train a.csv, valid b.csv, test c.csv), by the order of the files"
    assert findings(prepare("table", files, tmp_path / "l"))["split"].startswith("leave-one-out")


def test_three_files_with_histories_are_a_given_split(write: Write, tmp_path: Path) -> None:
    text = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    files = [write(f"{name}.inter", f"{text}u\ta{' b' * number}\tb\n") for number, name in enumerate("abc")]
    assert findings(prepare("recbole", files, tmp_path / "o"))["split"].startswith(
        "given (train a.inter, valid b.inter"
    )


PARTIAL = {
    (
        "train.csv",
        "test.csv",
    ): "files for train and test, none for valid: give it, --carve-valid to take each user's last "
    "train row, or --split leave-one-out to take all files as one table",
    ("train.csv", "valid.csv"): "files for train and valid, none for test: give it or --split leave-one-out",
    ("valid.csv", "test.csv"): "files for valid and test, none for train: give it or --split leave-one-out",
    ("train.csv", "valid.csv", "test.csv", "more.csv"): "is it train, valid or test? The names of others say so",
}


@pytest.mark.parametrize(("names", "expected"), PARTIAL.items(), ids=[" ".join(names) for names in PARTIAL])
def test_a_split_of_which_a_part_is_missing_is_refused(names: tuple[str, ...], expected: str, write: Write) -> None:
    files = [write(name, events(10 * number)) for number, name in enumerate(names)]
    with pytest.raises(UserError) as caught:
        prepare("table", files, files[0].parent / "o")
    assert expected in str(caught.value)
    assert prepare("table", files, files[0].parent / "o", split="leave-one-out").num_users == 2


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("a.csv", "b.csv")], ids=" ".join)
def test_valid_rows_are_carved_from_train_when_asked(
    names: tuple[str, ...], write: Write, tmp_path: Path, rows_of: RowsOf
) -> None:
    train = HEADER + "u,a,1\nu,c,3\nu,b,2\nv,a,1\nw,a,5\nw,b,5\n"
    files = [write(names[0], train), write(names[1], HEADER + "u,d,4\nw,c,9\n")]
    dataset = prepare("table", files, tmp_path / "o", carve_valid=True)
    assert rows_of(dataset, "train") == [("u", ("a",), "b")]
    # v has one train row only, which stays one.
    assert rows_of(dataset, "valid") == [("u", ("a", "b"), "c"), ("w", ("a",), "b")]
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d"), ("w", ("a", "b"), "c")]
    assert "validation is each user's last train row (--carve-valid)" in findings(dataset)["split"]


def test_histories_of_train_lend_their_longest_for_validation(write: Write, tmp_path: Path, rows_of: RowsOf) -> None:
    text = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    files = [write("x.train.inter", f"{text}u\ta b\tc\nu\ta\tb\n"), write("x.test.inter", f"{text}u\ta b c\td\n")]
    dataset = prepare("recbole", files, tmp_path / "o", carve_valid=True)
    assert [rows_of(dataset, split) for split in ("train", "valid")] == [[("u", ("a",), "b")], [("u", ("a", "b"), "c")]]


def test_a_folder_is_its_files_in_natural_order(tmp_path: Path, rows_of: RowsOf) -> None:
    folder = tmp_path / "events"
    (folder / "sub").mkdir(parents=True)
    for number in (10, 2, 1):
        (folder / f"part-{number}.csv").write_text(untimed(10 * number))
    for name in ("_SUCCESS", ".part-1.csv.crc", "README.md", "sub/.hidden.csv"):
        (folder / name).write_text("x")
    dataset = prepare("table", [folder], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("i10", "i11", "i20", "i21", "i100"), "i101")]
    assert findings(dataset)["order"] == (
        "no timestamp column: that of the rows of the files, part-1.csv, part-2.csv, part-10.csv is taken"
    )
    assert dataset.source["notes"] == [f"left out of {folder}: README.md"]


@pytest.mark.parametrize("pattern", ["part-*.csv", "part-?*.csv", "**/part-*.csv"])
def test_a_pattern_is_its_files_in_natural_order(pattern: str, tmp_path: Path, rows_of: RowsOf) -> None:
    for number in (10, 2):
        (tmp_path / f"part-{number}.csv").write_text(untimed(10 * number))
    dataset = prepare("table", [tmp_path / pattern], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("i20", "i21", "i100"), "i101")]
    with pytest.raises(UserError, match="no file fits this pattern"):
        prepare("table", [tmp_path / "none-*.csv"], tmp_path / "p")


def test_the_order_of_a_shell_is_made_natural_and_any_other_kept(write: Write, tmp_path: Path, rows_of: RowsOf) -> None:
    files = {number: write(f"part-{number}.csv", untimed(10 * number)) for number in (1, 2, 10)}
    dataset = prepare("table", [files[1], files[10], files[2]], tmp_path / "o")
    assert rows_of(dataset, "test")[0][2] == "i101"
    assert dataset.source["notes"] == ["files are read in natural order: part-1.csv, part-2.csv, part-10.csv"]
    dataset = prepare("table", [files[10], files[1], files[2]], tmp_path / "p")
    assert rows_of(dataset, "test")[0][2] == "i21" and dataset.source["notes"] == []


def test_folders_that_are_unclear_are_refused(tmp_path: Path) -> None:
    def refused(*names: str, **options: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).write_text(events(1))
        with pytest.raises(UserError) as caught:
            prepare("table", [folder], tmp_path / "o", **options)
        return str(caught.value).removeprefix(str(folder))

    assert (
        refused() == ": no file for the format 'table' (.csv, .tsv, .tab, .txt, .parquet, .pq, .jsonl, .ndjson, .json)"
    )
    assert refused("a.md", "b.xls").endswith("; it holds a.md, b.xls")
    assert refused("a.csv", "b.tsv") == ": holds files of several kinds (.csv, .tsv); give those that are meant"
