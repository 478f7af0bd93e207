"""A notebook as a script: from a data frame to recommendations with titles in ten lines, better than both floors."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import rearec

THEMES, PER_THEME = 4, 6


def purchases(users: int = 400, seed: int = 0) -> dict[str, list[Any]]:
    """Users who keep to a theme and go round its items, half of them backwards: the last item does not tell."""
    draw = random.Random(seed)
    columns: dict[str, list[Any]] = {"customer": [], "sku": [], "day": [], "title": []}
    for user in range(users):
        theme, place, direction = draw.randrange(THEMES), draw.randrange(PER_THEME), draw.choice((-1, 1))
        for day in range(5 + user % 9):
            place = (place + direction) % PER_THEME
            sku = 1000 + theme * PER_THEME + place
            for name, value in zip(columns, (user, sku, 10 * user + day, f"Theme {theme}, item {place}"), strict=True):
                columns[name].append(value)
    return columns


def pandas_frame(columns: dict[str, list[Any]]) -> Any:
    return pd.DataFrame(columns)


@pytest.mark.parametrize("make", [pl.DataFrame, pandas_frame], ids=["polars", "pandas"])
def test_ten_lines(make: Callable[[dict[str, list[Any]]], Any], tmp_path: Path) -> None:
    frame = make(purchases())

    dataset = rearec.Dataset.from_frame(frame, user="customer", item="sku", time="day", titles="title")
    model = rearec.fit(dataset, epochs=20, dim=16, ffn=16, layers=1, max_len=10, lr=1e-2, dropout=0.1, progress=False)
    metrics = model.evaluate(metrics=["hit@1", "ndcg@10"], exclude_seen=False)
    answers = model.recommend([[1000, 1001, 1002]], k=3, frame=True)
    everybody = model.recommend(users="all", k=3, frame=True)
    similar = model.similar([1000], k=PER_THEME - 1)
    why = model.explain([1000, 1001, 1002])
    model.save(tmp_path / "run")
    again = rearec.load(tmp_path / "run", data=dataset)

    for floor in ("popularity", "markov"):
        assert metrics["hit@1"] > metrics[floor]["hit@1"] + 0.1
        assert metrics["ndcg@10"] > metrics[floor]["ndcg@10"]
    assert answers["item"][0] == "1003" and answers["title"][0] == "Theme 0, item 3"
    assert everybody["user"].n_unique() == dataset.num_users == 400
    assert sum(item.startswith("100") for item in similar[0].items) >= 3  # its own theme
    assert why.item == "1003" and why.steps[-1].items[0] == "1003"
    assert again.recommend(users="all", k=3, frame=True).equals(everybody)
