"""``rearec recommend``: one history, files of histories, lines that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_recommend_says_when_it_answers_by_popularity(run_folder: Path, run_rearec: Any) -> None:
    result = run_rearec("recommend", run_folder, "new", "-k", "3")
    assert result.returncode == 0, result.stderr
    assert "skipped, not in the catalogue: new" in result.stderr
    assert "these are the most popular items" in result.stderr
    assert result.stdout.count("item-") == 3


def test_recommend_answers_a_file_line_by_line(run_folder: Path, tmp_path: Path, run_rearec: Any) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('["item-001", "?"]\n\n{"user": "Zoë", "history": ["item-002"]}\n{"history": []}\n', "utf-8")
    result = run_rearec(
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
    refused = run_rearec("recommend", run_folder, "--input", source, "--output", out)
    assert refused.returncode == 2 and "exists already; --force replaces it" in refused.stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "row 2: expected a list of ids (strings)"),
        ('{"items": []}', "row 2: expected a list of ids (strings)"),
        ("item-001", "row 2: not json"),
        ('{"history": ["item-001"], "weight": NaN}', "row 2: holds NaN or infinity"),
        ('["\\ud800"]', "row 2: holds half of a surrogate pair"),
        ("[" * 100_000, "row 2: the json is nested too deeply"),
    ],
)
def test_a_wrong_line_of_histories_is_named(
    line: str, message: str, run_folder: Path, tmp_path: Path, run_rearec: Any
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('["item-001"]\n' + line + "\n")
    result = run_rearec("recommend", run_folder, "--input", source, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
