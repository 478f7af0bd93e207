"""Tables under the protocols of others: their settings, the data that they ask for, their figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rearec.data.dataset import SequenceDataset
from rearec.data.synthetic import paper_shaped
from rearec.errors import UserError
from rearec.experiments.plan import MODEL_SETTINGS, TRAINING_SETTINGS, Plan
from rearec.experiments.protocols import PROTOCOLS, Protocol, protocol_named
from rearec.experiments.published import add_published
from rearec.experiments.results import Summary
from rearec.experiments.runs import Run
from rearec.report.page import Page
from rearec.training.presets import best_settings

RECBOLE3 = PROTOCOLS["recbole3"]


def five_core() -> SequenceDataset:
    """Six users who saw the same six items in turns, split leave-one-out."""
    items = np.concatenate([np.roll(np.arange(6), user) for user in range(6)]).astype(np.int32)
    user = np.arange(6)

    def at(*positions: int) -> np.ndarray:
        return np.array([(one, position) for one in user for position in positions], dtype=np.int32)

    return SequenceDataset(
        items=items,
        offsets=np.arange(7) * 6,
        sequence_user=user.astype(np.int32),
        split_rows={"train": at(1, 2, 3), "valid": at(4), "test": at(5)},
        item_ids=[str(item) for item in range(6)],
        user_ids=[str(one) for one in user],
        statistics={},
        source={"files": ["raw/Musical_Instruments.csv.gz"]},
    )


def test_a_protocol_goes_before_the_preset_and_what_is_asked_for_before_the_protocol() -> None:
    run = Plan(five_core(), protocol=RECBOLE3, settings={"steps": 1, "lr": 0.01}).run("prl")
    assert (run.config.max_len, run.config.dim, run.config.alpha, run.config.warmup) == (20, 256, 5.0, 0)
    assert (run.config.steps, run.options.lr, run.options.patience) == (1, 0.01, 2)
    assert run.options.exclude_seen is False and Plan(five_core(), protocol=RECBOLE3).seen.name == "kept"
    assert Plan(five_core(), protocol=RECBOLE3, settings={"exclude_seen": True}).run("prl").options.exclude_seen
    assert Plan(five_core()).run("prl").config.dim == best_settings("sasrec", "prl")["dim"]


def _without_a_user(dataset: SequenceDataset) -> SequenceDataset:
    return replace(dataset, split_rows={**dataset.split_rows, "test": dataset.split_rows["test"][1:]})


def _earlier(dataset: SequenceDataset) -> SequenceDataset:
    return replace(dataset, split_rows={**dataset.split_rows, "valid": dataset.split_rows["valid"] - [[0, 1]]})


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (_without_a_user, "got test rows that are not their users' last items, one for each user"),
        (_earlier, "got valid rows that are not their users' last items, one for each user"),
        (lambda dataset: replace(dataset, items=dataset.items.clip(1)), "an item with 0 interactions, fewer than 5"),
    ],
)
def test_data_that_is_split_or_filtered_otherwise_is_refused(
    change: Callable[[SequenceDataset], SequenceDataset], got: str
) -> None:
    RECBOLE3.check(five_core())
    with pytest.raises(UserError) as error:
        Plan(change(five_core()), protocol=RECBOLE3)
    message = str(error.value)
    assert got in message and "expected data of 'rearec prepare amazon2023 FILE --split leave-one-out" in message
    assert "\n" not in message


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="--protocol: got 'recbole', expected one of recbole3"):
        protocol_named("recbole")


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocols_are_whole(protocol: Protocol) -> None:
    assert {*protocol.settings} <= {*MODEL_SETTINGS, *TRAINING_SETTINGS}
    for found in protocol.published.values():
        for figures in found.figures.values():
            assert len(figures) == len(protocol.metrics) and all(0 < value < 1 for value in figures)
            metrics = dict(zip(protocol.metrics, figures, strict=True))
            # a hit counts 1 in recall and at most that in NDCG; longer lists hold more
            assert metrics["ndcg@5"] <= metrics["ndcg@10"] <= metrics["recall@10"] >= metrics["recall@5"]


def test_published_figures_are_found_by_the_file_that_was_prepared() -> None:
    name, found = RECBOLE3.published_for(five_core()) or ("", None)
    assert name == "Musical_Instruments" and found is not None and found.figures["ReaRec"][-1] == 0.0284
    assert RECBOLE3.published_for(replace(five_core(), source={"files": ["Baby.csv"]})) is None
    assert RECBOLE3.published_for(paper_shaped(20, 30, 6.0)) is None


class Finished:
    """Results of which base alone has ended, in two seeds."""

    seen = "kept"

    def finished(self, runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if run.config.method == "base"]

    def summary(self, runs: Sequence[Run], metric: str) -> Summary:
        return Summary(0.1 * len(runs), 0.01, len(runs))


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    page = Page(tmp_path, "table2", "Table 2")
    plan = Plan(five_core(), protocol=RECBOLE3, seeds=2)
    runs = [run for method in ("base", "prl") for run in plan.over_seeds(method)]
    add_published(page, plan, Finished(), runs)  # type: ignore[arg-type]
    text = page.write().read_text()
    assert "| ReaRec | published | 0.0345 | 0.0546 | 0.0219 | 0.0284 |" in text
    assert text.count("| rearec |") == 1 and "| sasrec, base | rearec | 0.2000 ± 0.0100 |" in text
    assert "71b0d83" in text and "seen items kept" in text and "by the last state there" in text


def test_other_data_has_no_published_figures_and_no_protocol_no_table(tmp_path: Path) -> None:
    other = replace(five_core(), source={"files": ["Baby.csv"]})
    for number, protocol in enumerate((RECBOLE3, None)):
        page = Page(tmp_path, f"page{number}", "Table 2")
        plan = Plan(other, protocol=protocol)
        add_published(page, plan, Finished(), plan.over_seeds("base"))  # type: ignore[arg-type]
        text = page.write().read_text()
        assert ("Nothing is published for this data; recbole3 has figures of Musical_Instruments" in text) == bool(
            protocol
        )
        assert "| ReaRec |" not in text
