"""Whole inference, ids of items in and ids out: encode the history, reason, score the whole catalogue, top-20.

Paper size: d 256, two layers, K 2, prl. Histories have the lengths of the data named, at most 50 items count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import bench_data
import careful
import naive
import pytest
import torch
from careful_model import CarefulModel
from compare import compare
from official import OfficialModel
from plain_model import padded
from torch import Tensor
from training_steps import FIXED, PUBLISHED

from rearec import Recommender
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

TOP = 20
Answer = Callable[[list[list[int]]], tuple[Tensor, Tensor]]
"""Histories of item numbers -> scores and item numbers [R, 20]."""


class PlainRecommender:
    """Does around an algorithm what `Recommender` does: ids to numbers and back."""

    def __init__(self, item_ids: list[str], answer: Answer) -> None:
        self.item_ids, self.answer = item_ids, answer
        self.number = {item: number for number, item in enumerate(item_ids)}

    def __call__(self, histories: Sequence[Sequence[str]]) -> list[tuple[list[str], list[float]]]:
        scores, items = self.answer([[self.number[item] for item in history] for history in histories])
        rows = zip(items.tolist(), scores.tolist(), strict=True)
        return [([self.item_ids[item] for item in best], values) for best, values in rows]


class Problem:
    def __init__(self, data: str, rows: int, steps: int = 2, **sizes: Any) -> None:
        dataset = bench_data.synthetic(data)
        torch.manual_seed(0)
        self.items, self.rows = dataset.num_items, rows
        method = "prl" if steps else "base"
        self.model = ReaRec(ReaRecConfig(self.items, method=method, steps=steps, alpha=1.5, **sizes)).eval()
        self.item_ids = dataset.item_ids
        self.recommender = Recommender(self.model, Catalog(self.item_ids, dataset.train_item_counts().tolist()))
        self.histories = [[self.item_ids[item] for item in one] for one in bench_data.histories(dataset, rows)]

    def ours(self, steps: int | None = None) -> list[tuple[list[str], list[float]]]:
        return [
            (answer.items, answer.scores) for answer in self.recommender.recommend(self.histories, TOP, steps=steps)
        ]

    def plain(self, answer: Answer) -> Callable[[], Any]:
        recommender = PlainRecommender(self.item_ids, answer)
        return lambda: recommender(self.histories)

    def official(self, mask_fixed: bool) -> Callable[[], Any]:
        model = OfficialModel(self.model.config, mask_fixed).eval()
        model.load(self.model.state_dict())

        @torch.no_grad()
        def answer(known: list[list[int]]) -> tuple[Tensor, Tensor]:
            states, _ = model(*padded(known, model.config.max_len, left=True))
            return naive.topk(model.final_state(states), model.weight, TOP)

        return self.plain(answer)

    def careful(self, compiled: bool = False) -> Callable[[], Any]:
        model = CarefulModel(self.model.config).eval()
        model.load(self.model.state_dict())
        final_states = torch.compile(model.final_states, dynamic=False) if compiled else model.final_states
        scores = careful.PreallocatedScores(self.rows, self.items)

        @torch.no_grad()
        def answer(known: list[list[int]]) -> tuple[Tensor, Tensor]:
            hidden = final_states(*padded(known, model.config.max_len, left=False))
            return scores.topk(hidden, model.weight, TOP)

        return self.plain(answer)


@pytest.mark.parametrize("data", ["Video-Games-like", "CDs-like"])
@pytest.mark.parametrize("rows", [1, 32, 256])
def test_recommend(rows: int, data: str, paper_scale: bool, report: Any) -> None:
    p = Problem(data, rows)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": p.ours,
        PUBLISHED: p.official(mask_fixed=False),
        FIXED: p.official(mask_fixed=True),
        "careful (SDPA)": p.careful(),
    }
    absent = {}
    if paper_scale or (rows, data) == (32, "Video-Games-like"):
        torch.compiler.reset()
        try:
            contenders["torch.compile(careful)"] = compiled = p.careful(compiled=True)
            compiled()
        except Exception as error:  # the compiler's: it is theirs to work or not
            del contenders["torch.compile(careful)"]
            absent["torch.compile(careful)"] = f"{type(error).__name__}: {error}".splitlines()[0]
    expected = [items for items, _ in p.ours()]
    for who, call in contenders.items():
        same = [a == b for (got, _), row in zip(call(), expected, strict=True) for a, b in zip(got, row, strict=True)]
        assert sum(same) > 0.99 * len(same), who  # items whose scores tie to rounding aside
    name = f"recommend top-{TOP}, R {rows}, {data}, N {p.items}, K 2"
    report(
        compare(name, contenders, absent=absent, facts={"rows": rows}, seconds=5 if rows < 256 else 8, least_runs=3),
        p.ours,
    )


def test_cost_of_reasoning(report: Any) -> None:
    """K = 2 against no reasoning step at all, everything else the same."""
    p = Problem("CDs-like", 256)
    contenders = {"ours": p.ours, "ours, K 0": lambda: p.ours(steps=0)}
    name = f"extra latency of K 2 over K 0, recommend top-{TOP}, R 256, CDs-like, N {p.items}"
    targets = {("extra", "ours, K 0"): (8.0, 4.0)}
    report(
        compare(name, contenders, targets=targets, facts={"rows": 256}, seconds=12, least_runs=15, memory_of=None),
        p.ours,
    )


REQUESTS = 20  # at a time: the clock of the process is no finer


def processor_time(call: Callable[[], Any]) -> float:
    """Seconds of processor of one call."""
    begin = time.process_time()
    for _ in range(REQUESTS):
        call()
    return (time.process_time() - begin) / REQUESTS


@pytest.mark.parametrize("steps", [0, 2])
def test_one_request(steps: int, report: Any) -> None:
    """Processor time of a request for one history by one thread, beside the best plain PyTorch without reasoning."""
    p, without = Problem("Beauty-like", 1, steps, dim=64, ffn=128), Problem("Beauty-like", 1, 0, dim=64, ffn=128)
    contenders = {"ours": p.ours, "careful (SDPA), K 0": without.careful()}
    # 0.47 ms of plain PyTorch against at most 0.6, with reasoning 0.9
    targets = {("time", "careful (SDPA), K 0"): (0.47 / (0.9 if steps else 0.6), 1.0)}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        comparison = compare(
            f"processor time of one request, top-{TOP}, Beauty-like, N {p.items}, d 64, K {steps}",
            contenders,
            targets=targets,
            facts={"rows": 1},
            seconds=15,
            least_runs=30,
            time_call=processor_time,
            memory_of=None,
        )
    finally:
        torch.set_num_threads(before)
    report(comparison)
