"""How alike the states of different reasoning steps are (paper, Figures 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.analysis.rows import history_batch, sample_rows
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.distributed import collected, dealt, processes
from rearec.engine import Engine
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.report.plots import draw_heatmap, panels

__all__ = ["page", "similarity"]

BATCH_ROWS = 512
# The colours reach at least so far below 1, so that rounding is not made a picture of.
LEAST_RANGE = 0.01


def similarity(
    model: ReaRec, dataset: SequenceDataset, split: SplitName = "test", *, max_rows: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """float64 [T, T], the mean over rows of the cosine between the states of steps i and j of one row.

    Several processes (`rearec.distributed.joined`) share the rows; all have the result, to the bit that of one.

    Args:
        max_rows: at least 1; where the split has more rows with a history, so many are drawn.
        seed: of that choice.

    Raises:
        UserError: no row of the split has a history.
    """
    rows = sample_rows(dataset, split, max_rows, seed)
    engine, group = Engine(model), processes()
    found: list[NDArray[np.float64]] = []
    with torch.inference_mode():
        for begin in dealt(range(0, len(rows), BATCH_ROWS), group):
            if begin is None:
                continue
            batch = history_batch(dataset, split, rows[begin : begin + BATCH_ROWS], model.config.max_len)
            unit = torch.nn.functional.normalize(engine(batch).states.double(), dim=-1)
            found.append(torch.einsum("rid,rjd->ij", unit, unit).cpu().numpy())
    total: NDArray[np.float64] = np.sum(collected(found, group), axis=0)
    return total / len(rows)


def page(into: Page, results: Mapping[str, NDArray[np.float64]], *, name: str = "similarity") -> None:
    """Add a table, and a figure with a heat map per model.

    Args:
        results: by model what `similarity` returns.
    """
    into.text(
        "Mean cosine between the states of two reasoning steps of the same row. Near 1 everywhere: the steps say the "
        "same, and reasoning adds little."
    )
    table: list[dict[str, Any]] = []
    for model, values in results.items():
        for step, cosines in enumerate(values):
            table.append({"model": model, "step": step, **{f"to step {to}": float(c) for to, c in enumerate(cosines)}})
    into.table(table, name)
    # One scale for all models, from the least alike on.
    low = min(float(values.min()) for values in results.values())
    drawings = [
        partial(
            draw_heatmap,
            values=values,
            rows=[str(step) for step in range(len(values))],
            columns=[str(step) for step in range(len(values))],
            label="mean cosine",
            xlabel="reasoning step",
            ylabel="reasoning step",
            title=model,
            limits=(min(low, 1.0 - LEAST_RANGE), 1.0),
        )
        for model, values in results.items()
    ]
    chart = panels(drawings, columns=2, title="Do the steps say something new? (1 = the same)")
    into.figure(chart, name, "Mean cosine between the states of two reasoning steps; the scale begins at the least.")
