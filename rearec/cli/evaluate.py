"""``rearec evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rearec.cli.command import Common, Cutoffs, ExcludeSeen, Metrics, command
from rearec.cli.finished_run import OfStates, TrustCode, check_code, check_steps, open_model, seen_of_run
from rearec.cli.output import emit, metric_table, note, progress_bar
from rearec.cli.processes import Devices, Nodes, Timeout, joined_processes, start_processes
from rearec.data.words import SplitName
from rearec.training.options import Prior

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(evaluate)


@command(uses=("device", "threads"), shared=True)
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    split: Annotated[SplitName, typer.Option(help="The part of the data to predict.")] = "test",
    metrics: Metrics = None,
    cutoffs: Cutoffs = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Reasoning steps, at most the trained number.", show_default="as trained")
    ] = None,
    prior: Annotated[
        Prior | None,
        typer.Option(
            help="With the bonus of the item graph that 'rearec train' or 'rearec prior' has fitted, or without.",
            show_default="as the run has",
        ),
    ] = None,
    exclude_seen: ExcludeSeen = None,
    users_by: Annotated[Literal["length"] | None, typer.Option(help="Also for short and long histories apart.")] = None,
    items_by: Annotated[
        Literal["popularity"] | None, typer.Option(help="Also for rare and popular items to be predicted apart.")
    ] = None,
    by_step: Annotated[bool, typer.Option("--by-step", help="Also for each reasoning step taken alone.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Predictions at a time.")] = 512,
    precision: OfStates = "fp32",
    trust_code: TrustCode = False,
    devices: Devices = 1,
    nodes: Nodes = 1,
    timeout: Timeout = 600.0,
    common: Common = Common(),
) -> None:
    """Measure a model: NDCG, Recall and MRR beside those of simple rules, such as what is popular and what came next.

    For every prediction (a row) all items of the catalogue are ranked. Shops that do not offer again what a user has
    bought leave seen items out (--exclude-seen); the paper keeps them (--keep-seen). An item to be predicted that is
    in its own history stays a candidate. A model with a graph prior is measured with it and without it.
    """
    start_processes(devices, nodes, "auto", timeout)
    from rearec.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_finished()
    check_code(folder, trust_code)
    folder.check_held_out()
    data = data or folder.dataset_path("--data")

    from rearec.data import load_dataset
    from rearec.distributed import agreed, lost_processes
    from rearec.evaluation import evaluate as rank_and_measure
    from rearec.evaluation.metrics import chosen_metrics

    with joined_processes(common.device, timeout) as device:
        with agreed(lambda: {"dataset": dataset.fingerprint}):
            dataset = load_dataset(data)
            folder.check_fingerprint(dataset.fingerprint, data)
            model = open_model(folder, device, trust_code)
            check_steps(steps, model.config.steps)
            chosen = chosen_metrics(metrics, cutoffs, dataset.num_items)
            seen = seen_of_run(folder, dataset, exclude_seen)
        with progress_bar(f"ranking {split} rows") as progress, lost_processes("begin again"):
            result = rank_and_measure(
                model,
                dataset,
                split,
                exclude_seen=seen.exclude,
                metrics=chosen,
                steps=steps,
                prior=None if prior is None else prior == "graph",
                batch_rows=batch_size,
                per_step=by_step,
                users_by=users_by,
                items_by=items_by,
                precision=precision,
                progress=progress,
            )
    if prior is None and model.prior is not None and not model.prior.serves(result["steps"]):
        note(model.prior.left_out(result["steps"]))
    emit(
        {"run": str(run), "method": model.config.method, **result},
        common.as_json,
        lambda c: _render(c, model.config.method, result, chosen),
    )


def _render(console: Terminal, method: str, result: dict[str, Any], metrics: list[str] | None) -> None:
    from rearec.report.floors import beside_floors

    title = f"{result['split']} rows, {result['steps']} reasoning steps, full catalogue"
    console.print(metric_table(title, beside_floors(method, result), metrics, seen=result["seen"]))
    if result["empty_history_rows"]:
        console.paragraphs(f"{result['empty_history_rows']:,} rows have no history: ranked by popularity")
    for key, title in (
        ("by_step", "By reasoning state, each taken alone"),
        ("users_by_length", "By length of the history, in items"),
        ("items_by_popularity", "By interactions of the target in the training data"),
    ):
        if key in result:
            groups = {str(group.get("group", group.get("step"))): group for group in result[key]}
            console.print(metric_table(title, groups, metrics, seen=result["seen"]))
