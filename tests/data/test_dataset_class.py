"""`Dataset`: from files, other splits of the same interactions, saving, and how datasets show themselves."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearec.data import Batch, Dataset, PairBatches, as_token, load_dataset, prepare, sample_events
from rearec.data.storage import save_dataset
from rearec.errors import UserError

HEADER = "user_id,item_id,timestamp,rating\n"


def csv_text(seed: int = 0, users: int = 12, items: int = 15, count: int = 200) -> str:
    rng = np.random.default_rng(seed)
    rows = zip(rng.integers(users, size=count), rng.integers(items, size=count), rng.permutation(count), strict=True)
    return HEADER + "".join(f"u{user},i{item},{time},{time % 5 + 1}\n" for user, item, time in rows)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(csv_text())
    return path


@pytest.mark.parametrize(
    ("split", "options"),
    [
        ("leave-one-out", {}),
        ("timestamp", {"valid_from": 100, "test_from": 150}),
        ("time-span", {"valid_from": 0.6, "test_from": 0.8, "known_items": True}),
        ("timestamp", {"valid_from": 120, "test_from": 160, "core": 3, "min_rating": 2.0}),
    ],
)
def test_another_split_is_what_prepare_makes(split: Any, options: dict[str, Any], table: Path, tmp_path: Path) -> None:
    first = Dataset.from_files(table, split="timestamp", valid_from=50, test_from=190, duplicates="first")
    again = first.split(split, **options)
    expected = prepare("table", [table], tmp_path / "d", split=split, duplicates="first", **options)
    assert again.fingerprint == expected.fingerprint
    assert {**again.source, "files": None} == {**expected.source, "files": None}
    assert again.options["split"] == split and again.statistics == expected.statistics
    # What it is made of is as it was.
    assert first.split("timestamp", valid_from=50, test_from=190).fingerprint == first.fingerprint


def test_files_without_a_format(table: Path, tmp_path: Path) -> None:
    by_format = Dataset.from_files("table", [table])
    for sources in (table, str(table), [table]):
        assert Dataset.from_files(sources).fingerprint == by_format.fingerprint
    inter = tmp_path / "e.inter"
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    head = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
    inter.write_text(head + "".join("\t".join(line) + "\n" for line in lines))
    assert Dataset.from_files(inter).fingerprint == by_format.fingerprint
    given = {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"}
    assert Dataset.from_files(table, **given).fingerprint == by_format.fingerprint


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (
        "events.txt",
        {},
        "events.txt: its ending does not tell the format: from_files(format, sources), format is one of",
    ),
    ("table", {}, "from_files('table'): no source file given"),
    ([], {}, "its ending does not tell the format"),
    ("nowhere.csv", {}, "nowhere.csv: no such file"),
    ("events.csv", {"user": "U"}, "events.csv: no column 'U'"),
    ("events.csv", {"cores": 3}, "cores: no option of from_files; further ones are"),
    (
        "events.csv",
        {"core": 99},
        "removed: core 99: 12 of 12 users, 15 of 15 items, 200 of 200 interactions; the largest",
    ),
]


@pytest.mark.parametrize(("source", "options", "message"), REFUSED)
def test_files_refused(
    source: Any, options: dict[str, Any], message: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    with pytest.raises(UserError) as caught:
        Dataset.from_files(source, **options)
    assert message in str(caught.value) and "--" not in str(caught.value)


def test_splits_refused(table: Path) -> None:
    dataset = Dataset.from_files(table)
    for split, options, message in (
        ("given", {}, "the split 'given' is for files split already"),
        ("random", {}, "unknown split 'random'; known are leave-one-out, timestamp, time-span, given"),
        ("timestamp", {}, "the split 'timestamp' needs valid_from and test_from"),
        ("timestamp", {"valid_from": "x", "test_from": "y"}, "valid_from is 'x'; the timestamps are numbers"),
        ("leave-one-out", {"separator": ";"}, "separator: not an option of a split; these are valid_from, test_from"),
        ("leave-one-out", {"core": 0}, "core must be at least 1, got 0"),
    ):
        with pytest.raises(UserError) as caught:
            dataset.split(split, **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)


def test_a_given_split_can_be_left_and_filtered(tmp_path: Path) -> None:
    lines = csv_text().splitlines()[1:]
    for name, part in (("train", lines[:140]), ("valid", lines[140:170]), ("test", lines[170:])):
        (tmp_path / f"{name}.csv").write_text(HEADER + "\n".join(part) + "\n")
    given = Dataset.from_files([tmp_path / f"{name}.csv" for name in ("train", "valid", "test")])
    assert given.source["findings"]["split"].startswith("given (train train.csv")
    assert given.split("given").fingerprint == given.fingerprint
    filtered = given.split("given", min_eval_history=5)
    assert 0 < len(filtered.rows("test")) < len(given.rows("test"))
    assert given.split("leave-one-out").statistics["test_rows"] == 12


def test_a_stored_dataset_is_split_by_leave_one_out_alone(table: Path, tmp_path: Path) -> None:
    dataset = Dataset.from_files(table, split="timestamp", valid_from=100, test_from=150)
    dataset.save(tmp_path / "d")
    stored = Dataset.load(tmp_path / "d")
    assert type(stored) is Dataset and stored.fingerprint == dataset.fingerprint
    again = stored.split("leave-one-out")
    assert again.fingerprint == dataset.split("leave-one-out").fingerprint != dataset.fingerprint
    assert again.options["valid_from"] is None and again.options["split"] == "leave-one-out"
    assert again.source["findings"]["split"] == "leave-one-out, made again of the stored sequences"
    with pytest.raises(UserError, match="needs the times, which a stored dataset does not hold: prepare it again"):
        stored.split("timestamp", valid_from=1, test_from=2)
    with pytest.raises(UserError, match="core: a stored dataset is filtered already"):
        stored.split("leave-one-out", core=3)
    dataset.split("timestamp", valid_from=100, test_from=150, known_items=True).save(tmp_path / "cut")
    with pytest.raises(UserError, match="known_items cut off what no row referred to"):
        Dataset.load(tmp_path / "cut").split("leave-one-out")


def test_nothing_is_overwritten_unasked(table: Path, tmp_path: Path) -> None:
    dataset = Dataset.from_files(table)
    dataset.save(tmp_path / "d")
    with pytest.raises(UserError, match="already holds a prepared dataset"):
        dataset.save(tmp_path / "d")
    dataset.split("timestamp", valid_from=100, test_from=150).save(tmp_path / "d", force=True)
    assert load_dataset(tmp_path / "d").options["split"] == "timestamp"


def test_a_dataset_is_copied_whole(table: Path) -> None:
    dataset = Dataset.from_files(table)
    for twin in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert twin.fingerprint == dataset.fingerprint
        assert twin.split("leave-one-out", core=3).fingerprint == dataset.split("leave-one-out", core=3).fingerprint


def test_what_filters_removed(table: Path, tmp_path: Path) -> None:
    dataset = prepare(
        "table", [table], tmp_path / "d", min_rating=2.0, duplicates="first", core=4, min_eval_history=2, user_core=5
    )
    removed = dataset.source["removed"]
    names = [step["filter"] for step in removed]
    assert names[:2] == ["--min-rating 2", "--duplicates first"]
    # Every step goes on where the one before ended, and the last one is what the dataset has.
    left = 200
    for step in removed:
        assert set(step["removed"]) == set(step["of"]) and min(step["removed"].values()) > 0
        if "interactions" in step["of"]:
            assert step["of"]["interactions"] == left
            left -= step["removed"]["interactions"]
    assert removed[0]["removed"]["interactions"] == 40
    said = dataset.source["findings"]["removed"]
    assert said.startswith("--min-rating 2: 40 of 200 interactions; --duplicates first: ")
    assert next(iter(dataset.source["findings"])) == "removed"
    assert prepare("table", [table], tmp_path / "e").source["removed"] == []


def test_the_largest_core_that_leaves_some(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(csv_text(count=400))
    with pytest.raises(UserError, match=r"the largest core that leaves some is (\d+)$") as caught:
        prepare("table", [path], tmp_path / "d", core=300)
    largest = int(str(caught.value).split()[-1])
    assert prepare("table", [path], tmp_path / "d", core=largest).num_interactions > 0
    with pytest.raises(UserError, match="the filters leave no interactions"):
        prepare("table", [path], tmp_path / "e", core=largest + 1)


def test_titles_in_a_column_of_the_table(table: Path, tmp_path: Path) -> None:
    lines = table.read_text().splitlines()
    titled = [f"{lines[0]},name", *(f"{line},Title {line.split(',')[1]}" for line in lines[1:])]
    path = tmp_path / "titled.csv"
    path.write_text("\n".join(titled) + "\n")
    dataset = prepare("table", [path], tmp_path / "d", title_column="name")
    assert dataset.item_titles == [f"Title {item}" for item in dataset.item_ids]
    assert "name" in dataset.source["findings"]["not used"].split("(used: ")[1]
    path.write_text("\n".join([*titled[:-1], titled[-1].split(",Title")[0].replace(",i", ",new") + ","]) + "\n")
    with pytest.raises(UserError, match=r"titled.csv: no title for item 'new\d+' .*--missing-titles keep or drop"):
        prepare("table", [path], tmp_path / "e", title_column="name")
    with pytest.raises(UserError, match="--title-column name: there is no file of titles"):
        prepare("sasrec", [path], tmp_path / "e", title_column="name")


def test_representations_are_short(tmp_path: Path) -> None:
    dataset = Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")
    text = repr(dataset)
    assert text == (
        f"Dataset(1,200 users, 216 items, {dataset.num_interactions:,} interactions; rows: train "
        f"{len(dataset.rows('train')):,}, valid 1,200, test 1,200; titles)"
    )
    save_dataset(dataset, tmp_path / "d")
    assert repr(load_dataset(tmp_path / "d")) == text.replace("Dataset", "SequenceDataset", 1)
    page = dataset._repr_html_()
    assert ">Dataset, titles</caption>" in page and "<th>train rows</th>" in page and len(page) < 800
    assert f">{dataset.num_interactions:,}</td>" in page and page.count("</td>") == 6
    assert dataset.origin is not None and len(repr(dataset.origin)) < 5000
    batch = next(iter(PairBatches(dataset, "train", batch_rows=256, max_len=20)))
    assert isinstance(batch, Batch) and repr(batch).startswith("Batch(256 rows over ") and len(repr(batch)) < 100


def test_ids_in_python() -> None:
    assert [as_token(value) for value in (7, np.int64(7), np.uint8(7), "7", np.str_("7"))] == ["7"] * 5
    assert type(as_token(np.str_("a"))) is str
    for value in (7.0, np.float64(7), True, np.bool_(True), None, b"7", ["7"]):
        with pytest.raises(TypeError, match="an id is text or a whole number, got"):
            as_token(value)
