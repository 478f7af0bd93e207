"""``rearec recommend``: one history, files of histories, lines that are wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rearec
from rearec.data import load_dataset, save_dataset


def test_recommend_says_when_it_answers_by_popularity(run_folder: Path, call_rearec: Any) -> None:
    result = call_rearec("recommend", run_folder, "new", "-k", "3")
    assert result.returncode == 0, result.stderr
    assert "skipped, not in the catalogue: new" in result.stderr
    assert "these are the most popular items" in result.stderr
    assert result.stdout.count("item-") == 3


def test_recommend_answers_a_file_line_by_line(run_folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('["item-001", "?"]\n\n{"user": "Zoë", "history": ["item-002"]}\n{"history": []}\n', "utf-8")
    result = call_rearec(
        "recommend", run_folder, "--input", source, "--output", out, "-k", "4", "--exclude-seen", "--json"
    )
    assert result.returncode == 0, result.stderr
    summary = {"output": str(out), "histories": 3, "by_model": 2, "by_popularity": 1, "unknown_items": 1}
    assert json.loads(result.stdout) == summary
    answers = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [answer["source"] for answer in answers] == ["model", "model", "popularity"]
    assert answers[0]["unknown"] == ["?"] and "item-001" not in answers[0]["items"]
    assert answers[1]["user"] == "Zoë" and len(answers[1]["items"]) == len(answers[1]["scores"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]

    before = out.read_bytes()
    refused = call_rearec("recommend", run_folder, "--input", source, "--output", out)
    assert refused.returncode == 2 and "exists already; --force replaces it" in refused.stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2.5]", "row 2: expected a list of ids (texts or integers)"),
        ("[true]", "row 2: expected a list of ids (texts or integers)"),
        ('{"items": []}', "row 2: expected a list of ids (texts or integers)"),
        ("item-001", "row 2: not json"),
        ('{"history": ["item-001"], "weight": NaN}', "row 2: holds NaN or infinity"),
        ('["\\ud800"]', "row 2: holds half of a surrogate pair"),
        ("[" * 100_000, "row 2: the json is nested too deeply"),
    ],
)
def test_a_wrong_line_of_histories_is_named(
    line: str, message: str, run_folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('["item-001"]\n' + line + "\n")
    result = call_rearec("recommend", run_folder, "--input", source, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


TITLES = [None if number % 5 == 0 else f"Title, {number}" for number in range(40)]


@pytest.fixture(scope="module")
def titled(run_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it would be of a dataset with titles."""
    run = shutil.copytree(run_folder, tmp_path_factory.mktemp("titled") / "run")
    catalog = json.loads((run / "catalog.json").read_text())
    (run / "catalog.json").write_text(json.dumps({**catalog, "titles": TITLES}))
    return run


def test_users_of_the_dataset_are_answered_with_titles(
    titled: Path, tmp_path: Path, call_rearec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call_rearec("recommend", titled, "--user", "user-3", "--user", "user-1", "-k", "3", "--json")
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)["answers"]
    expected = rearec.load(titled).recommend(users=["user-3", "user-1"], k=3)
    assert [answer["user"] for answer in answers] == ["user-3", "user-1"]
    assert [answer["items"] for answer in answers] == [each.items for each in expected]
    assert [answer["titles"] for answer in answers] == [each.titles for each in expected]
    monkeypatch.setenv("COLUMNS", "60")
    shown = call_rearec("recommend", titled, "--user", "user-3", "-k", "40")
    assert "user user-3" in shown.stdout and "Title, 7" in shown.stdout and "…" not in shown.stdout
    plain = call_rearec("recommend", titled, "--user", "user-3", "-k", "40", "--no-titles")
    assert "Title" not in plain.stdout and plain.stdout.count("item-") == 40
    (tmp_path / "one.txt").write_text("item-001\n")
    both = ("--allow", tmp_path / "one.txt", "--deny", tmp_path / "one.txt")
    nothing = call_rearec("recommend", titled, "item-002", *both)
    assert nothing.returncode == 0 and "no item is left to recommend: look at --allow" in nothing.stderr


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_all_users_go_to_a_file(titled: Path, tmp_path: Path, ending: str, call_rearec: Any) -> None:
    deny, out = tmp_path / "deny.txt", tmp_path / f"answers.{ending}"
    deny.write_text("item-003\r\n\nitem-004\nnew\n")
    options = ("--users", "all", "--output", out, "--deny", deny, "--exclude-seen", "-k", "3", "--json")
    result = call_rearec("recommend", titled, *options)
    assert result.returncode == 0, result.stderr
    assert "--deny: skipped, not in the catalogue: new" in result.stderr
    assert json.loads(result.stdout)["histories"] == 150
    model = rearec.load(titled)
    answers = model.recommend(users="all", k=3, deny=["item-003", "item-004"], exclude_seen=True, frame=True)
    if ending == "jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["user"] for line in lines] == model.dataset.user_ids
        assert [item for line in lines for item in line["items"]] == answers["item"].to_list()
        assert [title for line in lines for title in line["titles"]] == answers["title"].to_list()
        return
    written = pl.read_csv(out) if ending == "csv" else pl.read_parquet(out)
    assert written.columns == ["user", "rank", "item", "title", "score", "source"]
    for name in ("user", "rank", "item", "title", "source"):
        assert written[name].to_list() == answers[name].to_list()
    assert written["score"].to_list() == pytest.approx(answers["score"].to_list(), rel=1e-5)


def test_users_of_a_file_and_histories_of_integers(run_folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    users, out, source = tmp_path / "users.txt", tmp_path / "out.csv", tmp_path / "in.jsonl"
    users.write_text("user-5\nuser-2\n")
    result = call_rearec("recommend", run_folder, "--users", users, "--output", out, "-k", "2")
    assert result.returncode == 0, result.stderr
    assert pl.read_csv(out)["user"].to_list() == ["user-5"] * 2 + ["user-2"] * 2 and "title" not in pl.read_csv(out)
    source.write_text('[1, 2]\n["item-001", 7]\n')
    result = call_rearec("recommend", run_folder, "--input", source, "--output", out, "-k", "2", "--force", "--json")
    assert json.loads(result.stdout) | {"output": ""} == {
        "output": "",
        "histories": 2,
        "by_model": 1,
        "by_popularity": 1,
        "unknown_items": 3,
    }
    assert pl.read_csv(out).columns == ["row", "rank", "item", "score", "source"]
    assert pl.read_csv(out)["row"].to_list() == [0, 0, 1, 1]


def test_only_what_a_file_allows_is_recommended(run_folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text("item-003\nitem-004\n")
    result = call_rearec("recommend", run_folder, "item-001", "--allow", allow, "--json")
    assert sorted(json.loads(result.stdout)["items"]) == ["item-003", "item-004"]
    allow.write_text("a\nb\n")
    result = call_rearec("recommend", run_folder, "item-001", "--allow", allow)
    assert result.returncode == 2
    assert result.stderr == f"error: {allow}: no item of --allow is in the catalogue (a, b)\n"


def test_seen_items_are_left_out_as_the_run_was_trained(
    run_folder: Path, prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    options = json.loads((run / "options.json").read_text())
    (run / "options.json").write_text(
        json.dumps({**options, "training": {**options["training"], "exclude_seen": True}})
    )
    result = call_rearec("recommend", run, "item-001", "-k", "40", "--json")
    assert "items of the history are left out, as the run was trained" in result.stderr
    assert "item-001" not in json.loads(result.stdout)["items"]
    kept = call_rearec("recommend", run, "item-001", "-k", "40", "--keep-seen", "--json")
    assert kept.stderr == "" and "item-001" in json.loads(kept.stdout)["items"]


def test_the_dataset_of_the_users_may_have_moved(
    run_folder: Path, prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    moved = shutil.copytree(prepared, tmp_path / "moved")
    save_dataset(replace(load_dataset(prepared), user_ids=[f"u{n}" for n in range(150)]), tmp_path / "renamed")
    for data, user in ((moved, "user-3"), (tmp_path / "renamed", "u3")):
        result = call_rearec("recommend", run_folder, "--user", user, "--data", data, "-k", "1")
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("item-001", "--user", "user-1"),
            "give one of a history, --user, --users and --input, not a history and --user",
        ),
        (("--users", "all"), "--users writes its answers to a file: say which with --output"),
        (("--input", "in"), "--input writes its answers to a file: say which with --output"),
        (("item-001", "--output", "out"), "--output is for the answers to --input, --users or --user"),
        (("--user", "nobody", "--user", "user-1"), "not users of the dataset: nobody"),
        (("--users", "none.txt", "--output", "out"), "none.txt"),
        (("item-001", "--steps", "9"), "--steps: got 9, expected 0..2"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: tuple[str, ...], message: str, run_folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    result = call_rearec("recommend", run_folder, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr and len(result.stderr.splitlines()) == 1
