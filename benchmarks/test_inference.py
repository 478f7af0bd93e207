"""Whole inference, ids of items in and ids out: encode the history, reason, score the whole catalogue, top-20.

Paper size: d 256, two layers, K 2, prl. Histories have the lengths of the data named, at most 50 items count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import bench_data
import pytest
import torch
from contenders import careful, naive
from contenders.careful_model import CarefulModel
from contenders.official import OfficialModel
from contenders.plain_model import padded
from contenders.training_steps import FIXED, PUBLISHED
from measure.compare import Target, compare
from measure.contest import Contest
from torch import Tensor

from rearec import Recommender
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

TOP = 20
TINY = {"dim": 16, "ffn": 20, "max_len": 8}
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
    def __init__(
        self,
        data: str,
        rows: int,
        steps: int = 2,
        *,
        device: torch.device | str = "cpu",
        tiny: bool = False,
        **sizes: Any,
    ) -> None:
        dataset = bench_data.synthetic(data, tiny)
        torch.manual_seed(0)
        self.items, self.rows, self.device = dataset.num_items, rows, device
        config = ReaRecConfig(
            self.items, method="prl" if steps else "base", steps=steps, alpha=1.5, **(TINY if tiny else sizes)
        )
        self.model = ReaRec(config).eval().to(device)
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
        model = OfficialModel(self.model.config, mask_fixed).eval().to(self.device)
        model.load(self.model.state_dict())

        @torch.no_grad()
        def answer(known: list[list[int]]) -> tuple[Tensor, Tensor]:
            states, _ = model(*self._padded(known, left=True))
            return naive.topk(model.final_state(states), model.weight, TOP)

        return self.plain(answer)

    def careful(self, compiled: bool = False) -> Callable[[], Any]:
        model = CarefulModel(self.model.config).eval().to(self.device)
        model.load(self.model.state_dict())
        final_states = torch.compile(model.final_states, dynamic=False) if compiled else model.final_states
        scores = careful.PreallocatedScores(self.rows, self.items, self.device)

        @torch.no_grad()
        def answer(known: list[list[int]]) -> tuple[Tensor, Tensor]:
            hidden = final_states(*self._padded(known, left=False))
            return scores.topk(hidden, model.weight, TOP)

        return self.plain(answer)

    def _padded(self, known: list[list[int]], left: bool) -> tuple[Tensor, ...]:
        return tuple(x.to(self.device) for x in padded(known, self.model.config.max_len, left=left))


@dataclass(frozen=True)
class Case:
    """compiled: "always", or with --paper-scale alone, or never."""

    device: str
    rows: int
    data: str
    compiled: str = "--paper-scale"
    targets: Sequence[Target] = ()

    @property
    def name(self) -> str:
        return f"R {self.rows}, {self.data}"


CASES = [
    *(Case("cpu", rows, "CDs-like") for rows in (1, 32, 256)),
    *(Case("cpu", rows, "Video-Games-like", "always" if rows == 32 else "--paper-scale") for rows in (1, 32, 256)),
    *(
        Case("cuda", rows, "CDs-like", "never", [Target(PUBLISHED, *bounds)])
        for rows, bounds in ((1, (3, 5)), (256, (3, 4)), (2048, (1.5, 3)))
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.device}, {case.name}")
def test_recommend(case: Case, contest: Contest, paper_scale: bool) -> None:
    rows = 8 if contest.tiny else case.rows
    p = Problem(case.data, rows, device=contest.device, tiny=contest.tiny)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": p.ours,
        PUBLISHED: p.official(mask_fixed=False),
        FIXED: p.official(mask_fixed=True),
        "careful (SDPA)": p.careful(),
    }
    absent = {}
    if not contest.tiny and (case.compiled == "always" or (paper_scale and case.compiled != "never")):
        torch.compiler.reset()
        try:
            contenders["torch.compile(careful)"] = compiled = p.careful(compiled=True)
            compiled()
        except Exception as error:  # the compiler's: it is theirs to work or not
            del contenders["torch.compile(careful)"]
            absent["torch.compile(careful)"] = f"{type(error).__name__}: {error}".splitlines()[0]
    contest(
        f"recommend top-{TOP}, R {rows}, {case.data}, N {p.items}, K 2",
        {who: [call] for who, call in contenders.items()},
        bound=1e-3,
        compared=lambda answers: [torch.tensor([scores for _, scores in answers])],
        targets=case.targets,
        absent=absent,
        facts={"rows": rows},
        seconds=5 if rows < 256 else 8,
        least_runs=3,
    )


def test_cost_of_reasoning(report: Any) -> None:
    """K = 2 against no reasoning step at all, everything else the same."""
    p = Problem("CDs-like", 256)
    contenders = {"ours": p.ours, "ours, K 0": lambda: p.ours(steps=0)}
    name = f"extra latency of K 2 over K 0, recommend top-{TOP}, R 256, CDs-like, N {p.items}"
    targets = [Target("ours, K 0", 8.0, 4.0, kind="extra")]
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
    targets = [Target("careful (SDPA), K 0", 0.47 / (0.9 if steps else 0.6), 1.0)]
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
