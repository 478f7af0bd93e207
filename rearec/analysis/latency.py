"""What reasoning costs in time (paper, Table 4)."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rearec.analysis.rows import history_batch, sample_rows
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.engine import Engine
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.report.plots import draw_lines, figure
from rearec_kernels import catalog_topk

__all__ = ["device_words", "latency", "page"]

TOP = 20
# Of the page's table, by what they show.
COLUMNS = {
    "model": "model",
    "steps": "steps",
    "ms": "median ms",
    "ms_25": "25 % below",
    "ms_75": "75 % below",
    "rollout_ms": "without search",
    "relative": "relative",
}
WARM_UPS = 3


def latency(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    steps: Sequence[int] | None = None,
    rows: int = 256,
    repeats: int = 30,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time from a batch of histories to the top 20 of the whole catalogue, by number of reasoning steps.

    One batch of ``rows`` histories, a window for each. The numbers of steps take turns in an order drawn anew for each
    repeat, so that what else the machine does meets all of them alike.

    Args:
        steps: numbers of steps to measure; None for 0..K.
        rows: histories of the batch, at least 1; fewer where the split has fewer.
        repeats: measurements for each number of steps, at least 1.
        seed: of the choice of histories and of the order.

    Returns:
        for each number of steps ``steps``, ``rows``, ``ms`` (median), ``ms_25`` and ``ms_75`` (quartiles) for the
        whole, ``rollout_ms`` (median) without the search of the catalogue, and ``relative``: ms over that of the first
        of ``steps``.

    Raises:
        UserError: no row of the split has a history.
        ValueError: steps outside 0..K, or rows or repeats below 1.
    """
    if rows < 1 or repeats < 1:
        raise ValueError(f"rows, repeats: got {rows} and {repeats}, expected at least 1")
    counts = list(range(model.config.steps + 1) if steps is None else steps)
    batch = history_batch(dataset, split, sample_rows(dataset, split, rows, seed), model.config.max_len)
    generator = np.random.default_rng(seed)
    whole: dict[int, list[float]] = {count: [] for count in counts}
    rollout: dict[int, list[float]] = {count: [] for count in counts}
    with torch.inference_mode():
        engine = Engine(model)

        def clock() -> float:
            if engine.device.type == "cuda":
                torch.cuda.synchronize(engine.device)
            return 1000 * time.perf_counter()

        for repeat in range(-WARM_UPS, repeats):
            for count in generator.permutation(counts).tolist():
                began = clock()
                states = engine(batch, count).states
                reasoned = clock()
                catalog_topk(model.final_state(states), engine.catalog, min(TOP, model.config.num_items))
                ended = clock()
                if repeat >= 0:
                    rollout[count].append(reasoned - began)
                    whole[count].append(ended - began)
    first = statistics.median(whole[counts[0]])
    return [
        {
            "steps": count,
            "rows": batch.num_rows,
            "ms": statistics.median(whole[count]),
            "ms_25": float(np.quantile(whole[count], 0.25)),
            "ms_75": float(np.quantile(whole[count], 0.75)),
            "rollout_ms": statistics.median(rollout[count]),
            "relative": statistics.median(whole[count]) / first,
        }
        for count in counts
    ]


def page(into: Page, results: Mapping[str, Sequence[Mapping[str, Any]]], *, device: str, name: str = "latency") -> None:
    """Add a table and a figure, a line per model.

    Args:
        results: by model what `latency` returns.
        device: in words, what it was measured on.
    """
    batch = " or ".join(sorted({f"{entry['rows']:,}" for entries in results.values() for entry in entries}))
    into.text(
        f"Median time of one batch of {batch} histories, from histories to the top {TOP} of the whole catalogue, on "
        f"{device}, with its quartiles; without search leaves out the search of the catalogue, and relative is the "
        "time over that of the first line of the model."
    )
    rows = [{"model": model, **entry} for model, entries in results.items() for entry in entries]
    into.table([{column: row[key] for key, column in COLUMNS.items()} for row in rows])
    into.data(rows, name)
    chart = figure(
        draw_lines,
        {
            model: [
                (entry["steps"], entry["ms"], (entry["ms"] - entry["ms_25"], entry["ms_75"] - entry["ms"]))
                for entry in entries
            ]
            for model, entries in results.items()
        },
        xlabel="reasoning steps",
        ylabel=f"time of a batch of {batch} histories (ms)",
        title="What reasoning costs: median time of a batch, and quartiles",
        from_zero=True,
    )
    into.figure(
        chart, name, f"Median time of a batch of {batch} histories by number of reasoning steps, with its quartiles."
    )


def device_words(device: torch.device) -> str:
    """What something was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"a CPU ({os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''})"
