"""Tables that are prepared in blocks: the same dataset as at once, whatever the files, and little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rearec.data import SequenceDataset, load_dataset, prepare
from rearec.data.preparation import prepare as preparation
from rearec.data.preparation.order import sort_by_user
from rearec.data.readers import table
from rearec.data.readers.interactions import Interactions, Place
from rearec.data.tables import delimited, files
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.times import Times
from rearec.errors import UserError
from rearec.evaluation.measured import floor_sample

ARRAYS = ("items", "offsets", "sequence_user", "train_rows", "valid_rows", "test_rows")
FILES = (*(f"{name}.npy" for name in ARRAYS), "item_ids.json", "user_ids.json")


def events(rows: int = 6000, seed: int = 0) -> pl.DataFrame:
    """Skewed, with many ties in time, and one user of a quarter of all rows: more than a block."""
    rng = np.random.default_rng(seed)
    user = np.where(rng.random(rows) < 0.25, 7, (rng.pareto(1.2, rows) * 20).astype(int) % 300)
    item = [f"i{number}" for number in rng.zipf(1.3, rows) % 250]
    moments = rng.integers(1_500_000_000, 1_500_090_000, rows) // 3600 * 3600
    return pl.DataFrame({"user": user, "item": item, "timestamp": moments, "rating": rng.integers(1, 6, rows) / 1})


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows in memory at a time, of every kind of block."""
    monkeypatch.setattr(preparation, "BLOCK_ROWS", 700)
    monkeypatch.setattr(SequenceDataset.parts, "__defaults__", (500,))
    in_pieces = lambda path, encoding="utf-8": files.line_blocks(path, 3000, encoding)  # noqa: E731
    monkeypatch.setattr(delimited, "line_blocks", in_pieces)


def contents(folder: Path) -> dict[str, Any]:
    """What is in a dataset's files, but for the names of the sources."""
    description = json.loads((folder / "dataset.json").read_text())
    del description["source"]["files"]
    return {"description": description} | {name: (folder / name).read_bytes() for name in FILES}


def write_parts(frame: pl.DataFrame, folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    size = -(-frame.height // count)
    for part in range(count):
        frame.slice(part * size, size).write_parquet(folder / f"part-{part}.parquet")
    return folder


OPTIONS: list[dict[str, Any]] = [
    {},
    {"core": 4},
    {"min_rating": 2, "duplicates": "first", "user_core": 3, "item_core": 6},
    {"split": "timestamp", "valid_from": "1500060000", "test_from": "1500080000", "min_eval_history": 2},
    {"split": "time-span", "valid_from": "0.7", "test_from": "0.9", "known_items": True, "min_train_history": 2},
    {"where": ("rating>=2",), "min_target_rating": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_blocks_give_the_same_dataset_as_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    events().write_parquet(tmp_path / "all.parquet", row_group_size=500)
    prepare("table", [tmp_path / "all.parquet"], tmp_path / "at-once", **options)
    small_blocks(monkeypatch)
    prepare("table", [tmp_path / "all.parquet"], tmp_path / "in-blocks", **options)
    assert contents(tmp_path / "in-blocks") == contents(tmp_path / "at-once")
    assert not list(tmp_path.glob(".*"))


def as_parts(frame: pl.DataFrame, folder: Path) -> str:
    return str(write_parts(frame, folder))


def as_pattern(frame: pl.DataFrame, folder: Path) -> str:
    return f"{write_parts(frame, folder)}/part-*.parquet"


def as_csv_parts(frame: pl.DataFrame, folder: Path) -> str:
    folder.mkdir()
    for part in range(12):
        frame.slice(part * 500, 500).write_csv(folder / f"part-{part}.csv")
    return str(folder)


def as_hive(frame: pl.DataFrame, folder: Path) -> str:
    """By blocks of rows, whose names are in order."""
    for block in range(12):
        inside = folder / f"day={block}" / "shop=a%2Fb"
        inside.mkdir(parents=True)
        frame.slice(block * 500, 500).write_parquet(inside / "data.parquet")
    return str(folder)


def as_hive_pattern(frame: pl.DataFrame, folder: Path) -> str:
    return f"{as_hive(frame, folder)}/day=*"


@pytest.mark.parametrize("write", [as_parts, as_pattern, as_csv_parts, as_hive, as_hive_pattern])
def test_parts_are_as_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[pl.DataFrame, Path], str]
) -> None:
    frame = events()
    frame.write_parquet(tmp_path / "all.parquet")
    prepare("table", [tmp_path / "all.parquet"], tmp_path / "one", core=3)
    small_blocks(monkeypatch)
    prepare("table", [write(frame, tmp_path / "source")], tmp_path / "many", core=3)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    for each in (one, many):
        del each["description"]["source"]
    assert many == one


def test_columns_of_hive_folders_are_columns(tmp_path: Path) -> None:
    frame = events(2000).with_columns(event=pl.Series(["view", "cart"]).sample(2000, with_replacement=True, seed=0))
    for name, part in frame.partition_by("event", as_dict=True).items():
        folder = tmp_path / "source" / f"event={name[0]}"
        folder.mkdir(parents=True)
        part.drop("event").write_parquet(folder / "0.parquet")
    frame.filter(pl.col("event") == "view").write_parquet(tmp_path / "views.parquet")
    views = prepare("table", [tmp_path / "views.parquet"], tmp_path / "o")
    found = prepare("table", [tmp_path / "source"], tmp_path / "p", where=("event=view",))
    assert found.fingerprint == views.fingerprint and found.num_users == views.num_users
    assert prepare("table", [tmp_path / "source"], tmp_path / "q").source["findings"]["not used"].startswith("event")


def test_what_only_the_whole_file_tells_is_decided_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lists that begin late, and a column of flags of which the first block does not know that it holds other words.
    alone = "".join(f"u{user},i{user % 7},{user % 5}\n" for user in range(500))
    lists = "".join(f'u{user},"i1,i2,i3,i4","1,2,3,4"\n' for user in range(500, 520))
    (tmp_path / "lists.csv").write_text(f"user,item,timestamp\n{alone}{lists}")
    flags = "".join(f"u{row // 4},i{row % 9},{row},{'true' if row < 400 else '1'}\n" for row in range(800))
    (tmp_path / "flags.csv").write_text(f"user,item,timestamp,ok\n{flags}")
    small = {"lists.csv": {}, "flags.csv": {"where": ("ok=1",)}}
    expected = {name: prepare("table", [tmp_path / name], tmp_path / f"o-{name}", **small[name]) for name in small}
    small_blocks(monkeypatch)
    for name, dataset in expected.items():
        assert prepare("table", [tmp_path / name], tmp_path / f"p-{name}", **small[name]).fingerprint == (
            dataset.fingerprint
        )
    assert expected["flags.csv"].num_interactions == 400


def test_sorting_by_ranges_of_users_keeps_the_order_of_ties(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    user, moments = rng.integers(0, 40, 3000).astype(np.int32), rng.integers(0, 5, 3000)
    place = Place([Path("f")], np.zeros(3000, dtype=np.int32), np.arange(3000))
    source = Interactions(user, user, [str(i) for i in range(40)], ["a"] * 40, place, times=Times(moments, "number"))
    order = np.lexsort((np.arange(3000), moments, user))
    for folder, rows in ((None, 10_000), (None, 64), (tmp_path, 64)):
        found = sort_by_user(source, Scratch(folder, rows))
        assert found.in_order and found.times is not None and found.place.index is not None
        assert np.array_equal(found.place.index[:], order)
        assert np.array_equal(found.times.values[:], moments[order])


def test_the_named_row_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = events(3000).unique(["user", "item"], maintain_order=True)
    again = pl.concat([frame, frame[100:101]])
    folder = write_parts(again, tmp_path / "source", count=4)
    small_blocks(monkeypatch)
    size = -(-again.height // 4)
    last = again.height - 3 * size
    with pytest.raises(UserError, match=rf"part-3.parquet: row {last}: user .* occur together more than once"):
        prepare("table", [folder], tmp_path / "o", duplicates="error", timestamps=False)


# What a user can do wrong: one line each, before the work where it can be known.


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return write_parts(events(2000), tmp_path / "parts", count=4)


def replace_part(parts: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(parts / "part-2.parquet")


def no_files(parts: Path) -> dict[str, Any]:
    for path in parts.iterdir():
        path.unlink()
    return {}


def other_type(parts: Path) -> dict[str, Any]:
    replace_part(parts, events(100).with_columns(pl.col("user").cast(pl.String)))
    return {}


def lacks_column(parts: Path) -> dict[str, Any]:
    replace_part(parts, events(100).drop("rating"))
    return {}


def cut_off(parts: Path) -> dict[str, Any]:
    path = parts / "part-2.parquet"
    path.write_bytes(path.read_bytes()[:-300])
    return {}


def damaged(parts: Path) -> dict[str, Any]:
    path = parts / "part-2.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 3000 + data[3004:])
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_files, r"parts: no file for the format 'table'"),
        (other_type, r"part-2.parquet: column 'user' is of text, that of .*part-0.parquet of whole numbers"),
        (lacks_column, r"part-2.parquet: no column 'rating', but .*part-0.parquet has one"),
        (cut_off, r"part-2.parquet: not a parquet file"),
        (damaged, r"part-2.parquet: not a parquet file"),
        (lambda parts: {"memory_limit": "50MB"}, r"--memory-limit 50MB: too little to work with; the least is 600MB"),
        (lambda parts: {"memory_limit": "much"}, r"--memory-limit 'much': expected a size such as 4GB"),
        (lambda parts: {"tmp": str(parts / "none")}, r"--tmp .*none: no such folder"),
        (lambda parts: {"tmp": "/proc"}, r"/proc: cannot be written: .*; --tmp names another folder"),
    ],
)
def test_errors_say_what_and_where(
    parts: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare("table", [parts], tmp_path / "o", **change(parts))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts"]


def test_a_pattern_without_files_and_ids_beyond_the_memory_are_refused(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no such file, and no file fits this pattern"):
        prepare("table", [parts / "*.pq"], tmp_path / "o")
    monkeypatch.setattr(preparation, "ID_BYTES", 10**7)
    with pytest.raises(UserError, match=r"--memory-limit 1GB: too little for the ids of \d+ users and \d+ items"):
        prepare("table", [parts], tmp_path / "o", memory_limit="1GB")


@pytest.mark.skipif(sys.platform != "linux", reason="limits as on Linux")
def test_a_full_disk_is_said_with_the_folder(parts: Path, tmp_path: Path) -> None:
    import resource

    tmp = tmp_path / "tmp"
    tmp.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{tmp}: cannot be written: File too large; --tmp names another folder"):
            prepare("table", [parts], tmp_path / "o", tmp=tmp)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp.iterdir()) and not (tmp_path / "o").exists()


def test_a_file_that_is_read_as_a_whole_has_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events(100).write_ndjson(tmp_path / "events.jsonl")
    monkeypatch.setattr(table, "WHOLE_BYTES", 10**6)
    with pytest.raises(UserError, match=r"events.jsonl: is read as a whole, for which --memory-limit 1GB is too"):
        prepare("table", [tmp_path / "events.jsonl"], tmp_path / "o", memory_limit="1GB")


def test_the_command_ends_with_status_two(parts: Path, tmp_path: Path, call_rearec: Any) -> None:
    found = call_rearec("prepare", "table", parts, "--out", tmp_path / "o", "--memory-limit", "1MB")
    assert found.returncode == 2 and found.stderr.count("--memory-limit 1MB: too little") == 1
    assert not (tmp_path / "o").exists()


def test_the_limit_is_looked_at_without_assertions_too() -> None:
    code = "from rearec.data import PrepareOptions; PrepareOptions(memory_limit='x')"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert "UserError: --memory-limit 'x'" in done.stderr


def test_parts_without_rows_are_passed_over(parts: Path, tmp_path: Path) -> None:
    before = prepare("table", [parts], tmp_path / "o").fingerprint
    events(5).clear().write_parquet(parts / "part-1b.parquet")
    assert prepare("table", [parts], tmp_path / "p").fingerprint == before


def test_floors_of_some_users_say_so(parts: Path, tmp_path: Path, call_rearec: Any) -> None:
    found = call_rearec("prepare", "table", parts, "--out", tmp_path / "o", "--memory-limit", "2GB", "--json")
    assert found.returncode == 0 and "floors" not in json.loads(found.stdout)
    dataset = load_dataset(tmp_path / "o")
    sample, words = floor_sample(dataset, 700_000)
    users = len(np.unique(sample.sequence_user))
    assert words == f"of {users} of {dataset.num_users} users, drawn at random, and counted from them alone"
    assert 300 < len(sample.items) < 2000 and sample.num_items == dataset.num_items
    whole = {tuple(dataset.sequence(s)) for s in range(dataset.num_sequences)}
    assert {tuple(sample.sequence(s)) for s in range(sample.num_sequences)} < whole
    of_user = {int(user): tuple(dataset.sequence(s)) for s, user in enumerate(dataset.sequence_user)}
    for sequence, position in sample.rows("test"):
        assert position == len(of_user[int(sample.sequence_user[sequence])]) - 1


# Processes of their own: what they leave, and how much memory they take.

PREPARE = """
import sys
from pathlib import Path
from rearec.data import prepare
prepare("table", [sys.argv[1]], sys.argv[2], memory_limit=sys.argv[3], tmp=sys.argv[4], progress=print)
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""


def prepare_apart(source: Path, out: Path, tmp: Path, limit: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-c", PREPARE, str(source), str(out), limit, str(tmp)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"POLARS_MAX_THREADS": "2"})


@pytest.mark.skipif(sys.platform != "linux", reason="signals and names of files as on Linux")
def test_a_killed_preparation_leaves_neither_a_dataset_nor_its_files(tmp_path: Path) -> None:
    source, tmp = write_parts(events(400_000), tmp_path / "parts", count=4), tmp_path / "tmp"
    tmp.mkdir()
    with prepare_apart(source, tmp_path / "o", tmp, "1GB") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("filtering"):
                # Everything is in the files by now.
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp.iterdir()) and not (tmp_path / "o").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory from /proc")
def test_many_interactions_stay_below_the_limit(tmp_path: Path) -> None:
    # Held at once, these five million take over 800 MB.
    rng, tmp = np.random.default_rng(0), tmp_path / "tmp"
    tmp.mkdir()
    (tmp_path / "parts").mkdir()
    for part in range(5):
        user, item, moments = (rng.integers(0, high, 1_000_000) for high in (200_000, 20_000, 10**8))
        frame = pl.DataFrame({"user": user, "item": item, "timestamp": 1_400_000_000 + moments})
        frame.write_parquet(tmp_path / "parts" / f"{part}.parquet")
    with prepare_apart(tmp_path / "parts", tmp_path / "o", tmp, "600MB") as process:
        printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    assert int(printed.split()[-1]) * 1024 < 600 * 10**6
    assert load_dataset(tmp_path / "o").num_interactions == 5_000_000
