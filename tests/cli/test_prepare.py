"""``rearec prepare``: what it prints, what it hands on, the published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_prepare_prints_statistics_and_floors_and_refuses_to_overwrite(
    source_file: Path, tmp_path: Path, call_rearec: Any
) -> None:
    out = tmp_path / "data"
    first = call_rearec("prepare", "json", source_file, "--out", out, "--split", "leave-one-out", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["statistics"]["users"] == 150 and result["statistics"]["items"] == 40
    assert result["popularity"]["rows"] == result["markov"]["rows"] == result["statistics"]["test_rows"]
    again = call_rearec("prepare", "json", source_file, "--out", out)
    assert again.returncode == 2 and "--force" in again.stderr
    forced = call_rearec("prepare", "json", source_file, "--out", out, "--force")
    assert forced.returncode == 0
    assert "markov" in forced.stdout and "train rows" in forced.stdout


def test_prepare_hands_every_option_on(tmp_path: Path, call_rearec: Any) -> None:
    lines = ["who;what;stars;when"]
    for user in range(6):
        lines += [f"u{user};i{place % 3};{3 + place % 3};{place}" for place in range(12)]
    lines.append("u0;i9;1;3")
    source = tmp_path / "reviews.csv"
    source.write_text("\n".join(lines) + "\n")
    titles = tmp_path / "titles.csv"
    titles.write_text("what,name\ni0,A\ni1,B\n")
    names = {"user": "who", "item": "what", "rating": "stars", "timestamp": "when"}
    columns = [word for name, column in names.items() for word in (f"--{name}-column", column)]
    filters = ["--min-rating", "2", "--user-core", "3", "--item-core", "3", "--duplicates", "keep"]
    rows = ["--min-target-rating", "4", "--min-train-history", "2", "--min-eval-history", "3", "--known-items"]
    split = ["--split", "timestamp", "--valid-from", "8", "--test-from", "10"]
    more = ["--separator", ";", "--titles", str(titles), "--title-column", "name", "--missing-titles", "keep"]
    result = call_rearec("prepare", "table", source, "--out", tmp_path / "d", *columns, *filters, *rows, *split, *more)
    assert result.returncode == 0, result.stderr
    options = json.loads((tmp_path / "d" / "dataset.json").read_text())["options"]
    expected = {
        **{"split": "timestamp", "valid_from": "8", "test_from": "10", "min_rating": 2.0, "duplicates": "keep"},
        **{"user_core": 3, "item_core": 3, "min_target_rating": 4.0, "min_train_history": 2, "min_eval_history": 3},
        **{"known_items": True, "titles": "titles.csv", "missing_titles": "keep"},
        **{"user_column": "who", "item_column": "what", "rating_column": "stars", "timestamp_column": "when"},
        **{"separator": ";"},
    }
    assert expected.items() <= options.items()


def test_prepare_compares_with_the_published_counts(tmp_path: Path, call_rearec: Any) -> None:
    source, items = tmp_path / "review.json", tmp_path / "business.json"
    days = [f"2020-01-{day:02} 00:00:00" for day in (1, 2, 3, 4, 5, 6, 9, 10)]
    reviews = [{"user_id": "u", "business_id": f"b{n % 6}", "stars": 5, "date": day} for n, day in enumerate(days)]
    source.write_text("".join(json.dumps(review) + "\n" for review in reviews))
    items.write_text("".join(json.dumps({"business_id": f"b{n}", "name": f"B {n}"}) + "\n" for n in range(6)))
    small = ("--core", "1", "--json")
    result = call_rearec("prepare", "yelp", source, items, "--out", tmp_path / "d", "--expect", *small)
    assert result.returncode == 2 and not (tmp_path / "d").exists()
    *_, users, items_line, rows, train, valid, test, error = result.stderr.splitlines()
    assert users == "users: expected 13,083, got 1 (-13,082)" and items_line.startswith("items: expected 10,697, got 6")
    assert [line.split(":")[0] for line in (rows, train, valid, test)] == [
        *("rows", "train rows", "valid rows", "test rows")
    ]
    assert error.startswith("error: 6 of 6 counts differ from the published ones of 'yelp'")
    result = call_rearec("prepare", "yelp", source, items, "--out", tmp_path / "d", *small)
    assert result.returncode == 0, result.stderr
    statistics = json.loads(result.stdout)["statistics"]
    assert [statistics[f"{split}_rows"] for split in ("train", "valid", "test")] == [1, 1, 1]
    options = json.loads((tmp_path / "d" / "dataset.json").read_text())["options"]
    assert (options["preset"], options["core"], options["split"]) == ("yelp", 1, "time-span")
    result = call_rearec("prepare", "amazon2023", items, "--out", tmp_path / "e", "--preset", "cds")
    assert result.returncode == 2 and "error: " in result.stderr


def test_a_wrong_format_is_told_the_right_one(tmp_path: Path, call_rearec: Any) -> None:
    source = tmp_path / "events.csv"
    source.write_text("user_id,item_id\n" + "".join(f"u{row % 3},i{row}\n" for row in range(12)))
    known = "known are amazon2023, json, lines, recbole, sasrec, table, yelp"
    for arguments, message in (
        (("csv", source), f"error: unknown format 'csv'; {known}; csv files are the format 'table'\n"),
        (("frobnicate", source), f"error: unknown format 'frobnicate'; {known}\n"),
        (
            ("events.csv",),
            f"error: unknown format 'events.csv'; {known}; the format comes before the file, as in "
            "'rearec prepare table events.csv --out data'\n",
        ),
        (("table",), "error: no source file given\n"),
    ):
        result = call_rearec("prepare", *arguments, "--out", tmp_path / "d")
        assert (result.returncode, result.stderr) == (2, message)


def test_prepare_says_what_it_removed_and_what_comes_next(tmp_path: Path, call_rearec: Any) -> None:
    source = tmp_path / "events.csv"
    rows = [f"u{user},i{place},{place}" for user in range(5) for place in range(6)] + ["guest,i0,9", ",i1,9", ",i2,9"]
    source.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    refused = call_rearec("prepare", "table", source, "--out", tmp_path / "d")
    expected = (
        "row 33: column 'user_id' has no value, nor has it in 1 further row; --drop-incomplete leaves such rows out"
    )
    assert refused.returncode == 2 and refused.stderr.endswith(f"error: {source}: {expected}\n")
    out = tmp_path / "d"
    result = call_rearec("prepare", "table", source, "--out", out, "--drop-incomplete", "--core", "3")
    assert "removed: --core 3: 1 of 6 users, 1 of 31 interactions\n" in result.stdout
    assert "dropped 2 rows without a user, an item or a time" in result.stdout
    assert result.stdout.endswith(f"next: rearec train {out} --out run --method prl\n")
    kept = call_rearec("prepare", "table", source, "--out", tmp_path / "e", "--drop-incomplete", "--json")
    said = json.loads(kept.stdout)
    assert said["removed"] == [] and said["findings"]["unused users"] == "1 of 6 have one interaction and are in no row"
