"""The four lines that a preparation ends with: the split, the order, what was not used, what looks wrong."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rearec.data import prepare

Write = Callable[[str, "str | bytes"], Path]


def found(path: Path, **options: object) -> dict[str, str]:
    result: dict[str, str] = prepare("table", [path], path.parent / "out", force=True, **options).source["findings"]
    return result


def table(users: list[str], items: list[str] | None = None, times: list[int] | None = None) -> str:
    items = items or [f"i{row}" for row in range(len(users))]
    times = times or list(range(len(users)))
    rows = zip(users, items, times, strict=True)
    return "user_id,item_id,timestamp\n" + "".join(f'"{user}","{item}",{time}\n' for user, item, time in rows)


@pytest.mark.parametrize("token", ["NA", "nan", "NaN", "null", "NULL", "None", "N/A", "\\N", "-1", "undefined", "<NA>"])
@pytest.mark.parametrize("what", ["user", "item"])
def test_tokens_that_may_stand_for_nothing(what: str, token: str, write: Write) -> None:
    tokens = [f"t{row % 20}" for row in range(57)] + [token] * 3
    users, items = (tokens, None) if what == "user" else ([f"u{row % 15}" for row in range(60)], tokens)
    said = found(write("t.csv", table(users, items)))["suspicious"]
    assert f"{what} {token!r} holds 5 % of all interactions (3 of 60): a missing value? --missing {token} drops" in said


def test_ordinary_tokens_are_not_suspected(write: Write) -> None:
    users = [f"user {row % 12}" for row in range(60)]
    items = [["nancy", "nullable", "10", "x-1", "1.5", "naive", "é", "a b"][row % 8] + str(row) for row in range(60)]
    assert found(write("t.csv", table(users, items)))["suspicious"] == "nothing"


def test_large_shares(write: Write) -> None:
    users = ["big"] * 40 + [f"u{row % 30}" for row in range(60)]
    items = [f"i{row % 25}" for row in range(89)] + ["hit"] * 11
    said = found(write("t.csv", table(users, items)))["suspicious"]
    assert said == "users with over 10 % of all events: 'big' 40 %; items with over 10 % of all events: 'hit' 11 %"


TWINS = {
    "fraction": (["7", "7.0"], "1 items occur with and without .0, such as '7.0' and '7'"),
    "blank": (["ab", "ab "], "1 pairs of items differ by blanks or Unicode form alone, such as 'ab' and 'ab '"),
    "two blanks": (["a b", "a  b"], "such as 'a b' and 'a  b'"),
    "hard blank": (["a b", "a\u00a0b"], r"such as 'a b' and 'a\xa0b'"),
    "form": (["caf\u00e9", "cafe\u0301"], r"such as 'caf\xe9' and 'cafe\u0301'"),
    "no width": (["ab", "a\u200bb"], r"such as 'ab' and 'a\u200bb'"),
    "wide": (["A1", "\uff21\uff11"], r"such as 'A1' and '\uff21\uff11'"),
}


@pytest.mark.parametrize(("pair", "expected"), TWINS.values(), ids=TWINS.keys())
def test_twins(pair: list[str], expected: str, write: Write) -> None:
    users = [f"u{row % 15}" for row in range(60)]
    items = [*pair, *(f"i{row}" for row in range(58))]
    assert expected in found(write("t.csv", table(users, items)))["suspicious"]


def test_ids_that_were_floats_once(write: Write) -> None:
    users = [f"{row % 15}.0" for row in range(60)]
    expected = "all users end in .0, such as '0.0': whole numbers that were once floats"
    assert expected in found(write("t.csv", table(users)))["suspicious"]


def test_times_of_nothing_among_others(write: Write) -> None:
    times = [0, -1, *range(1_500_000_000, 1_500_000_058)]
    said = found(write("t.csv", table([f"u{row % 15}" for row in range(60)], None, times)))["suspicious"]
    assert said == "2 timestamps are 0 or less, all others 1500000000 or more"


@pytest.mark.parametrize("step", [1, 2, 3, 60])
def test_the_share_of_tied_neighbours(step: int, write: Write) -> None:
    generator = np.random.default_rng(step)
    users = [f"u{user}" for user in generator.integers(0, 12, 60)]
    times = [row // step for row in range(60)]
    histories: dict[str, list[int]] = {}
    for user, time in zip(users, times, strict=True):
        histories.setdefault(user, []).append(time)
    pairs = [(a, b) for history in histories.values() for a, b in itertools.pairwise(history)]
    share = 100 * sum(a == b for a, b in pairs) / len(pairs)
    said = found(write("t.csv", table(users, None, times)))["order"]
    expected = f"column 'timestamp'; {share:.3g} % of neighbouring events in one history have equal timestamps"
    assert said == expected + (": their order is that of the file" if share else "")


def test_columns_not_used(tmp_path: Path) -> None:
    columns = {"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": range(4)}
    columns |= {f"c{number}": [number] * 4 for number in range(15)}
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    said = found(tmp_path / "t.parquet")["not used"]
    assert said == f"{', '.join(f'c{number}' for number in range(12))} and 3 more (used: user_id, item_id, timestamp)"


def test_the_command_ends_with_them(write: Write, tmp_path: Path) -> None:
    users = ["NA"] * 40 + [str(row % 7) for row in range(20)]
    path = write("[b] views.csv", table(users))
    command = [sys.executable, "-m", "rearec", "prepare", "table", str(path), "--out", str(tmp_path / "d[/1]")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    heads = ["unused users", "split", "order", "not used", "suspicious"]
    assert [line.split(":")[0] for line in lines[-6:-1]] == heads
    assert lines[-7] == f"written to {tmp_path / 'd[/1]'}"
    assert "user 'NA' holds 66.7 % of all interactions (40 of 60)" in lines[-2]
    assert lines[-1] == f"next: rearec train '{tmp_path / 'd[/1]'}' --out run --method prl"
    result = subprocess.run([*command, "--force", "--json"], capture_output=True, text=True, check=False)
    said = json.loads(result.stdout)
    assert [f"{name}: {text}" for name, text in said["findings"].items()] == lines[-6:-1]
    assert said["removed"] == [] and f"next: {said['next']}" == lines[-1]
