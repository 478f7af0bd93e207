"""Single histories on which reasoning helps most, with titles (paper, Figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.analysis.rows import history_batch
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.engine import Engine
from rearec.errors import UserError, visible
from rearec.evaluation import RankedRows, rank_rows, seen_items
from rearec.evaluation.seen import RowHistories, SeenName, seen_words
from rearec.inference.explaining import named_states
from rearec.reasoning import ReaRec
from rearec.report.page import Markdown, Page, escape
from rearec.report.plots import draw_lines, figure
from rearec_kernels import catalog_topk

__all__ = ["Case", "cases", "page"]

SHOWN_TITLE = 60
# In the legend of the figure.
DRAWN_TITLE, DRAWN_USER = 40, 12
SHOWN_HISTORY = 15


@dataclass(frozen=True)
class Case:
    """One row of a split and what the model makes of it step by step; users and items are the source's ids.

    row: index in ``dataset.rows(split)``.
    history: the items that the model sees, oldest first. target: the item that came next.
    steps: "step 0", ..., "step K", and "mean of the steps" where the model answers with that (such as erl).
    ranks: of the target, counted from 1, by each of ``steps``. top: the first k items by each of ``steps``.
    titles: of all these items, those that have one.
    """

    row: int
    user: str
    history: list[str]
    target: str
    steps: list[str]
    ranks: list[float]
    top: list[list[str]]
    titles: dict[str, str]

    def title(self, item: str) -> str:
        """The title of an item, or its id where it has none."""
        return self.titles.get(item, item)


def cases(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    count: int = 3,
    k: int = 5,
    ranked: RankedRows | None = None,
) -> list[Case]:
    """The rows where the target's rank improves most from step 0 to the model's answer.

    Improvement is that of log2(rank + 1), the scale of NDCG: from 1000 to 10 is as much as from 100 to 1. The rows are
    chosen for it, so they show how reasoning helps where it does, not how often.

    Args:
        exclude_seen: whether the rankings leave out the items of the history, the target excepted; None: as
            `rearec.evaluation.seen_items` says.
        count: most rows, at least 1; rows without an improvement are not shown.
        k: items of each ranking, at least 1.
        ranked: the ranks of these rows, with seen items left out or not as here, by each step too; None to rank them.

    Returns:
        the greatest improvement first; empty where no row improves.

    Raises:
        UserError: a model without reasoning steps; otherwise as `rearec.evaluation.evaluate`.
    """
    if model.config.steps == 0:
        raise UserError(f"a model of method {model.config.method} with 0 steps does not reason: there are no cases")
    exclude = seen_items(dataset, exclude_seen).exclude
    if ranked is None:
        ranked = rank_rows(model, dataset, split, exclude_seen=exclude, prior=False, per_step=True)
    assert ranked.by_step is not None
    gain = np.log2(ranked.by_step[:, 0] + 2) - np.log2(ranked.final + 2)
    chosen = [int(row) for row in np.argsort(-gain, kind="stable")[:count] if gain[row] > 0]
    if not chosen:
        return []

    ranks = ranked.by_step[chosen]
    batch = history_batch(dataset, split, chosen, model.config.max_len)
    with torch.inference_mode():
        engine = Engine(model)
        steps, states = named_states(model, engine(batch).states)
        if len(steps) > ranks.shape[1]:  # the answer is none of the steps
            ranks = np.concatenate([ranks, ranked.final[chosen, None]], axis=1)
        k = min(k, model.config.num_items)
        barred = _rivals_left_out(dataset, split, np.repeat(chosen, len(steps)), states.device) if exclude else None
        top = catalog_topk(states.flatten(0, 1), engine.catalog, k, exclude=barred)[1]
    tops = top.view(len(chosen), len(steps), k).tolist()
    return [
        _case(dataset, split, row, model.config.max_len, steps, (ranks[index] + 1).tolist(), tops[index])
        for index, row in enumerate(chosen)
    ]


def _rivals_left_out(
    dataset: SequenceDataset, split: SplitName, rows: NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The items of the rows' histories but their targets, as `catalog_topk` takes them."""
    offsets, items = RowHistories(dataset, split)(rows)
    row = np.repeat(np.arange(len(rows)), np.diff(offsets))
    rival = items != dataset.targets(split)[rows][row]
    counts = np.bincount(row[rival], minlength=len(rows))
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return torch.from_numpy(offsets).to(device), torch.from_numpy(items[rival]).to(device)


def _case(
    dataset: SequenceDataset,
    split: SplitName,
    row: int,
    max_len: int,
    steps: list[str],
    ranks: list[float],
    top: list[list[int]],
) -> Case:
    """The case of one row: dense ids replaced by those of the source."""
    sequence, position = dataset.rows(split)[row]
    history = dataset.history(sequence, position)[-max_len:].tolist()
    target = int(dataset.sequence(sequence)[position])
    shown = {*history, target}
    ids, titles = dataset.item_ids, dataset.item_titles or [None] * dataset.num_items
    return Case(
        row=row,
        user=dataset.user_ids[dataset.sequence_user[sequence]],
        history=[ids[item] for item in history],
        target=ids[target],
        steps=steps,
        ranks=ranks,
        # -1 where fewer than k items are left
        top=[[ids[item] for item in items if item >= 0] for items in top],
        titles={ids[item]: title for item in {*shown, *chain.from_iterable(top)} - {-1} if (title := titles[item])},
    )


def page(into: Page, results: Sequence[Case], *, seen: SeenName, name: str = "case") -> None:
    """Add each case in words with the rankings step by step, a csv of all, and a figure of the target's rank.

    Args:
        results: what `cases` returns.
        seen: whether seen items are among those ranked.
    """
    if not results:
        into.text("No row's target stands higher by the model's answer than by step 0: there are no cases to show.")
        return
    into.text(
        "The rows in which reasoning moves the target up most, chosen for that: they show how it helps where it does, "
        f"not how often. Full catalogue, {seen_words(seen)}. The target is set in bold."
    )
    data: list[dict[str, Any]] = []
    for number, case in enumerate(results, 1):
        recent = case.history[-SHOWN_HISTORY:]
        skipped = len(case.history) - len(recent)
        into.text(f"#### Case {number}: user {escape(case.user)}")
        into.text(f"History, oldest first{f', after {skipped} earlier items' if skipped else ''}:")
        into.text("\n".join(f"{place}. {_shown(case, item)}" for place, item in enumerate(recent, skipped + 1)))
        into.text(f"Next came {_shown(case, case.target)}. Its rank, and the first items of the ranking, by step:")
        into.table(_ranking(case))
        data += _data(number, case)
    into.data(data, name, shared={"seen": seen})
    series = {}
    for number, case in enumerate(results, 1):
        by_step = [rank for step, rank in zip(case.steps, case.ranks, strict=True) if step.startswith("step ")]
        words = f"{number}. {_in_short(case.title(case.target), DRAWN_TITLE)}, user {_in_short(case.user, DRAWN_USER)}"
        series[words] = [(float(step), rank, None) for step, rank in enumerate(by_step)]
    chart = figure(
        draw_lines,
        series,
        xlabel="reasoning step",
        ylabel="rank of the item that came next (1 = top)",
        title="How the item that came next moves up, step by step",
        log_y=True,
        top_is_best=True,
    )
    into.figure(chart, name, "The rank of the target by each reasoning state taken alone; a line for each case above.")


def _ranking(case: Case) -> list[dict[str, str]]:
    """The rank of the target in the first row, then the ranking; a column for each step."""
    rows = [
        {"": "rank of the target", **{step: f"{rank:g}" for step, rank in zip(case.steps, case.ranks, strict=True)}}
    ]
    for place, items in enumerate(zip(*case.top, strict=True), 1):
        rows.append(
            {"": f"place {place}", **dict(zip(case.steps, (_shown(case, item) for item in items), strict=True))}
        )
    return rows


def _data(number: int, case: Case) -> list[dict[str, Any]]:
    """The same as rows of a csv: ids and whole titles."""
    return [
        {
            "case": number,
            "user": case.user,
            "target": case.target,
            "step": step,
            "rank of the target": rank,
            "place": place,
            "item": item,
            "title": case.titles.get(item),
        }
        for step, rank, items in zip(case.steps, case.ranks, case.top, strict=True)
        for place, item in enumerate(items, 1)
    ]


def _shown(case: Case, item: str) -> Markdown:
    """The title of an item, cut for reading, in bold where it is the target."""
    words = escape(_in_short(case.title(item), SHOWN_TITLE))
    return Markdown(f"**{words}**") if item == case.target else words


def _in_short(text: str, characters: int) -> str:
    """In one line, cut for reading."""
    line = " ".join(visible(text).split())
    return line if len(line) <= characters else f"{line[: characters - 1].rstrip()}…"
