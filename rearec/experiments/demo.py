"""The demonstration: planted data on which depth pays, three methods trained alike, a table and three plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from rearec.data.synthetic import Planted, generate, planted_theme
from rearec.evaluation import evaluate, seen_items
from rearec.evaluation.seen import SeenName, seen_words
from rearec.experiments import DEMO_EPOCHS, DEMO_USERS
from rearec.files import OutputFolder, write_json
from rearec.reasoning import ReaRec
from rearec.report.floors import floors_of
from rearec.report.page import write_figure
from rearec.report.plots import draw_bars, draw_lines, figure
from rearec.run_folder import RunFolder
from rearec.training import settings_for, train

__all__ = ["EXAMPLE", "IN_SHORT", "METHODS", "STRUCTURE", "MethodState", "run_demo"]

METHODS = ("base", "erl", "prl")
EXAMPLE = ("anchor-0-3", "anchor-1-5", "anchor-2-0", "anchor-3-7", "anchor-4-2", "item-1-0")

# Shares of everyday items whose next item is one, two and three look-ups away.
DEPTHS = (0.3, 0.4, 0.3)

IN_SHORT = (
    "In this generated data the next item is found by one, two or three look-ups in the user's own history, each of "
    "which begins where the one before has ended. base can do one; erl and prl reason two steps further. All else is "
    "the same for the three. A tenth of the items follow no rule."
)
# From the best known settings: the planted data asks for one layer and as many steps as it has further look-ups, is
# small enough for less dropout and a larger learning rate, and the three models shall differ in their method alone.
DIFFERENCES: Mapping[str, Any] = {
    "layers": 1,
    "steps": 2,
    "dropout": 0.1,
    "input_dropout": 0.0,
    "temperature": 0.07,
    "cl_weight": 0.0,
    "batch_rows": 256,
    "lr": 3e-3,
    "prior": "none",
}

STRUCTURE = (
    "The data is planted so that depth pays. Every user begins with a set of anchors, one of each kind, and goes on "
    "with everyday items. An everyday item points to a kind of anchor, and so does every anchor. What comes next is "
    "found by look-ups in the user's own history: take the kind the last item points to and find the user's anchor of "
    "that kind; for 30 % of the items its theme is the theme of the next item, for 40 % that anchor only names the "
    "kind of a second one to look up, for 30 % there is a third. A look-up can only begin when the one before has "
    "ended, and the models have one attention layer, which is one look-up. base has to guess at the rest; erl and prl "
    "can spend their two reasoning steps on it. All three have the same size, data, optimiser and number of epochs "
    "(prl without its contrastive term, for time). A tenth of the items follow no rule: nobody can foresee those."
)

# What stands behind the name of a method below its bar.
GROUP_WORDS = {
    "base": "(no\u00a0steps)",
    "erl": "(2\u00a0steps)",
    "prl": "(2\u00a0steps)",
}

OUTPUT = OutputFolder(
    lambda folder: (folder / "data" / "dataset.json").is_file(),
    other="holds no demonstration; choose another folder",
    taken="a demonstration; --force replaces it",
)


@dataclass(frozen=True)
class MethodState:
    """How far one method is: the last row of its metrics.csv, or None before the first epoch has ended."""

    row: Mapping[str, Any] | None = None
    best: float = 0.0
    seconds: float = 0.0


def run_demo(
    out: str | Path = "rearec-demo",
    *,
    seed: int = 0,
    users: int = DEMO_USERS,
    epochs: int = DEMO_EPOCHS,
    exclude_seen: bool | None = None,
    device: torch.device | str = "cpu",
    force: bool = False,
    on_progress: Callable[[str, Mapping[str, MethodState]], None] | None = None,
) -> dict[str, Any]:
    """Generate the planted data, train base, erl and prl on it, evaluate them and draw the plots.

    Args:
        out: folder for everything: ``data``, one RUN folder per method, ``*.png`` and ``demo.json``.
        seed: of the data and of the trainings.
        users, epochs: size of the data and length of each training.
        exclude_seen: whether targets are ranked among the items that are not in their row's history; None: as the data
            says (`rearec.evaluation.seen_items`).
        device: where to train.
        force: replace an earlier demonstration.
        on_progress: called with (method, state of every method) after every epoch.

    Returns:
        ``out``, ``seconds``, ``structure`` (in words), ``statistics`` of the data, ``seen`` ("kept" or "excluded"),
        for each method the result of `evaluate` on the test rows by step, the floors (metrics), and
        ``plots`` (paths by name), and ``example``: a ``history`` and the ``theme`` of the items that follow it by rule.

    Raises:
        UserError: ``out`` holds an earlier demonstration and ``force`` is not given, or holds something else.
    """
    began = time.perf_counter()
    folder = Path(out)
    data = folder / "data"
    OUTPUT.check(folder, replace=force)
    for method in METHODS:
        RunFolder(folder / method).check_writable(force=True)
    planted = Planted(users=users, kinds=5, anchors_per_kind=8, depths=DEPTHS)
    dataset = generate(seed, planted=planted, out=data, force=force)

    seen = seen_items(dataset, exclude_seen)
    states = {method: MethodState() for method in METHODS}
    results: dict[str, dict[str, Any]] = {}
    floors: dict[str, Any] = {}

    def record(method: str, row: Mapping[str, Any]) -> None:
        before = states[method]
        seconds = before.seconds + row["train_seconds"] + row["valid_seconds"]
        states[method] = MethodState(row, max(before.best, row["valid_ndcg@20"]), seconds)
        if on_progress is not None:
            on_progress(method, states)

    for method in METHODS:
        given = {**DIFFERENCES, "epochs": epochs, "patience": epochs, "seed": seed, "exclude_seen": seen.exclude}
        trained = train(
            data,
            folder / method,
            *settings_for(dataset, method=method, **given),
            preset="best",
            device=device,
            force=force,
            on_epoch=partial(record, method),
        )
        floors = floors_of(trained["test"])
        model = ReaRec.from_pretrained(folder / method, map_location=device)
        results[method] = evaluate(model, dataset, "test", exclude_seen=seen.exclude, per_step=True, floors=False)

    charts = {
        "validation": _validation(folder),
        "steps": _steps(results),
        "test": _test({**floors, **results}, seen.name),
    }
    plots = {name: folder / f"{name}.png" for name in charts}
    for name, chart in charts.items():
        write_figure(plots[name], chart)
    report = {
        "out": str(folder),
        "structure": STRUCTURE,
        "statistics": dataset.statistics,
        "seen": seen.name,
        **results,
        **floors,
        "plots": {name: str(path) for name, path in plots.items()},
        "example": {"history": list(EXAMPLE), "theme": planted_theme(EXAMPLE, seed, planted=planted)},
        "seconds": time.perf_counter() - began,
    }
    write_json(folder / "demo.json", report)
    return report


def _validation(folder: Path) -> Figure:
    """Validation NDCG@20 by epoch."""
    series = {
        method: [
            (float(row["epoch"]), float(row["valid_ndcg@20"]), None) for row in RunFolder(folder / method).metrics()
        ]
        for method in METHODS
    }
    return figure(
        draw_lines,
        series,
        xlabel="epoch",
        ylabel="NDCG@20 on the validation rows",
        title="How training went: validation NDCG@20 after each epoch",
        from_zero=True,
    )


def _steps(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Test NDCG@20 of each state taken alone, with standard errors; base has one state only."""
    return figure(
        draw_lines,
        {
            f"{method}: its state after the step": [
                (entry["step"], entry["ndcg@20"], entry["ndcg@20_se"]) for entry in result["by_step"]
            ]
            for method, result in results.items()
            if method != "base"
        },
        levels={
            "base: does not reason": results["base"]["ndcg@20"],
            "erl: its answer, the mean of its states": results["erl"]["ndcg@20"],
        },
        xlabel="reasoning step",
        ylabel="NDCG@20 on the test rows",
        title="Does thinking longer help? NDCG@20 after each reasoning step",
    )


def _test(results: Mapping[str, Mapping[str, Any]], seen: SeenName) -> Figure:
    """Test NDCG@20 with standard errors, the floors beside the methods."""
    groups = {name: result["ndcg@20"] for name, result in results.items()}
    rows = next(iter(results.values()))["rows"]
    return figure(
        draw_bars,
        [f"{name} {GROUP_WORDS.get(name, '(floor)')}" for name in groups],
        {"NDCG@20": list(groups.values())},
        errors={"NDCG@20": [result["ndcg@20_se"] or 0.0 for result in results.values()]},
        xlabel=f"{rows:,} test rows, full catalogue, {seen_words(seen)}; error bars: ± 1 standard error",
        ylabel="NDCG@20 (more is better)",
        title="Finding the next item where depth pays",
    )
