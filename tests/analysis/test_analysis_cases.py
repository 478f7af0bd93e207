"""Cases: which rows are chosen, their rankings step by step, how titles are shown."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_models import random_model, states_of
from repeating_data import repeating_dataset

from rearec.analysis import case
from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.evaluation import rank_rows
from rearec.report.page import Page


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


@pytest.mark.parametrize("method", ["prl", "erl"])
def test_cases_are_the_rows_that_improve_most_with_the_rankings_of_each_step(
    dataset: SequenceDataset, method: str
) -> None:
    model = random_model(dataset, method)
    titled = replace(dataset, item_titles=[f"Title {i}" if i % 2 else None for i in range(dataset.num_items)])
    found = case.cases(model, titled, count=4, k=3)
    ranked = rank_rows(model, dataset, per_step=True)
    assert ranked.by_step is not None
    gain = np.log2((ranked.by_step[:, 0] + 2) / (ranked.final + 2))
    assert [gain[each.row] for each in found] == pytest.approx(sorted(gain, reverse=True)[:4])
    for each in found:
        sequence, position = dataset.rows("test")[each.row]
        assert each.user == dataset.user_ids[dataset.sequence_user[sequence]]
        assert each.history == [dataset.item_ids[item] for item in dataset.history(sequence, position)[-6:]]
        states = states_of(model, dataset, each.row)
        if method == "erl":
            states = torch.cat([states, states.mean(0, keepdim=True)])
        assert each.steps == ["step 0", "step 1", "step 2", *(["mean of the steps"] if method == "erl" else [])]
        scores = states @ model.weight.T
        target = int(dataset.targets("test")[each.row])
        assert each.target == dataset.item_ids[target]
        assert each.ranks == ((scores > scores[:, [target]]).sum(1) + 1).tolist()
        assert each.top == [[dataset.item_ids[item] for item in row] for row in scores.topk(3).indices.tolist()]
        for item in (*each.history, each.target):
            number = dataset.item_ids.index(item)
            assert each.title(item) == (f"Title {number}" if number % 2 else item)


def test_cases_show_what_the_ranks_are_counted_in() -> None:
    """The target stands where its rank says, and no other item of the whole history stands anywhere."""
    dataset = repeating_dataset()
    repeated = []
    for seed in range(5):
        model = random_model(dataset, "erl", seed)
        for each in case.cases(model, dataset, exclude_seen=True, count=100, k=dataset.num_items):
            sequence, position = dataset.rows("test")[each.row]
            history = {dataset.item_ids[item] for item in dataset.history(sequence, position)}
            repeated.append(each.target in history)
            for rank, top in zip(each.ranks, each.top, strict=True):
                assert top[int(rank) - 1] == each.target
                assert set(top) == set(dataset.item_ids) - (history - {each.target})
    assert any(repeated) and not all(repeated)


def test_a_model_that_improves_nothing_has_no_cases(dataset: SequenceDataset, tmp_path: Path) -> None:
    model = random_model(dataset)
    still = replace(rank_rows(model, dataset, per_step=True), final=np.full(150, 39.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case, "rank_rows", lambda *_, **__: still)
        assert case.cases(model, dataset) == []
    page = Page(tmp_path, "case", "Cases")
    case.page(page, [], seen="kept")
    assert "there are no cases to show" in page.markdown


def test_a_model_that_does_not_reason_has_no_cases(dataset: SequenceDataset) -> None:
    with pytest.raises(UserError, match="method base with 0 steps does not reason"):
        case.cases(random_model(dataset, "base"), dataset)


def test_titles_are_cut_and_escaped_on_the_page_and_whole_in_the_csv(tmp_path: Path) -> None:
    long = "*" + "x" * 200
    of_one = case.Case(
        row=0,
        user="_a_b",
        history=[f"i{number}" for number in range(20)],
        target="t",
        steps=["step 0", "step 1"],
        ranks=[7.5, 1],
        top=[["other", "i1"], ["t", "other"]],
        titles={"t": long, "other": "A | B <b>"},
    )
    page = Page(tmp_path, "case", "Cases")
    case.page(page, [of_one], seen="kept")
    page.write()
    shown = "**\\*" + "x" * 58 + "…**"
    assert f"Next came {shown}." in page.markdown
    assert "user \\_a_b" in page.markdown and "after 5 earlier items:" in page.markdown
    assert "6. i5\n" in page.markdown and "\n5. i4" not in page.markdown
    assert f"| rank of the target | 7.5 | 1 |\n| place 1 | A \\| B \\<b\\> | {shown} |" in page.markdown
    with (tmp_path / "case.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(row["step"], row["place"], row["item"], row["title"]) for row in read] == [
        ("step 0", "1", "other", "A | B <b>"),
        ("step 0", "2", "i1", ""),
        ("step 1", "1", "t", long),
        ("step 1", "2", "other", "A | B <b>"),
    ]
