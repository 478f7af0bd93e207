"""Tables by the kind of their file; parquet is decoded for the columns that are wanted alone."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rearec.data.tables.delimited import read_delimited
from rearec.data.tables.layout import Layout
from rearec.data.tables.table_files import read_table
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

FRAME = pl.DataFrame(
    {
        "user": ["u", "v"],
        "item": [[5, 6], [7]],
        "time": pl.Series([[1, 2], None], dtype=pl.List(pl.Int32)),
        "day": pl.Series(["2020-01-01", None]).str.to_date(),
        "vector": pl.Series([[0.5, 1.5], [2.5, 3.5]], dtype=pl.Array(pl.Float32, 2)),
        "other": [[0.5], [1.5]],
        "pair": [{"a": 1}, {"a": 2}],
    }
)


@pytest.mark.parametrize("name", ["t.parquet", "t[1]*.pq", "t.parquet.gz", "t.parquet.zip"])
def test_parquet_keeps_types_and_names_all_columns(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FRAME.write_parquet(tmp_path / "plain")
    data = (tmp_path / "plain").read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.parquet", data)
    else:
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    table = read_table(path, ["item", "none", "user"])
    assert table.frame.equals(FRAME.select("item", "user"))
    assert table.names == tuple(FRAME.columns) and table.rows.tolist() == [1, 2]
    # Features take much memory, and nothing is asked of them unless they are wanted.
    assert table.sample.equals(FRAME.select("user", "item", "time", "day"))
    assert read_table(path, ["vector"]).sample.columns == ["user", "item", "time", "day", "vector"]
    with pytest.raises(UserError, match="no column 'none'; the columns are 'user', 'item', 'time', 'day', 'vector'"):
        table.column("none")
    assert read_table(path, []).rows.tolist() == [1, 2]


def test_faulty_parquet_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    FRAME.write_parquet(path)
    data = path.read_bytes()
    for fault in (data[:-30], data[: len(data) // 2], b"user,item\nu,a\n"):
        path.write_bytes(fault)
        with pytest.raises(UserError) as caught:
            read_table(path, FRAME.columns)
        assert str(caught.value).startswith(f"{path}: not a parquet file: ") and "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        read_table(path, ["user"])


MEASURE = """
import resource, sys
from pathlib import Path
from rearec.data.tables.table_files import read_table
read_table(Path(sys.argv[1]), ["user_id", "item_id"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = read_table(Path(sys.argv[2]), ["user_id", "item_id"])
assert table.frame.shape == (60_000, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["vector", "columns"])
def test_columns_that_are_not_wanted_take_no_memory(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, width = 60_000, 256
    narrow = pl.DataFrame({"user_id": rng.integers(0, 999, rows), "item_id": rng.integers(0, 999, rows)})
    features = rng.random((rows, width), dtype=np.float32)
    wide = {"vector": features} if kind == "vector" else {f"f{n}": features[:, n] for n in range(width)}
    narrow.write_parquet(tmp_path / "narrow.parquet")
    narrow.with_columns(**{name: pl.Series(values) for name, values in wide.items()}).write_parquet(
        tmp_path / "wide.parquet", compression="uncompressed", use_pyarrow=False
    )
    files = [str(tmp_path / name) for name in ("narrow.parquet", "wide.parquet")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    # All of it would be 60 MB more, in the units of Linux (KiB).
    assert int(done.stdout) < 25_000


def test_atomic_files_of_other_separators(write: Write) -> None:
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    rows = [("1", '"5', "1"), ("1", '6"', "2"), ("1", '"7"', "3")]
    for separator in ("\t", ",", " "):
        text = "\n".join(separator.join(row) for row in [header, *rows])
        table = read_delimited(write("x.inter", text), Layout(separator, "none"))
        assert table.names == tuple(header) and table.frame.rows() == rows


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.csv.zip"])
def test_the_same_table_whatever_it_is_packed_in(name: str, tmp_path: Path) -> None:
    path, text = tmp_path / name, b'user,item\nu,"a, b"\n'
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("deep/in/t.csv", text)
    else:
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert read_table(path, ["item"]).frame.rows() == [("a, b",)]
