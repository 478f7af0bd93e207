"""``rearec prior``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.finished_run import TrustCode, open_model, seen_of_run
from rearec.cli.output import emit, note
from rearec.cli.process import compute_device
from rearec.errors import UserError
from rearec.report.digits import number

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.data.dataset import SequenceDataset
    from rearec.models.prior import GraphPrior
    from rearec.reasoning import ReaRec
    from rearec.run_folder import RunFolder

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(prior)


@command(uses=("device", "threads"))
def prior(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training, or of a saved model.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    exclude_seen: ExcludeSeen = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Predictions at a time.")] = 512,
    trust_code: TrustCode = False,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Add the item graph to the scores of a trained model: items that often followed those of a history get a bonus.

    How much is chosen by NDCG@20 on the validation rows; nothing else of the model changes. It is stored beside the
    model and takes part in all answers from then on; the run's metrics and its README.md are written anew, with it and
    without it. 'rearec train --prior graph' does the same when it ends.
    """
    from rearec.models.saved import PRIOR_FILE
    from rearec.run_folder import RunFolder

    folder, file = RunFolder(run), run / PRIOR_FILE
    if file.exists() and not force:
        raise UserError(f"{file}: there is a graph prior already; --force replaces it")
    model, dataset, exclude = _opened(folder, data, exclude_seen, compute_device(common.device), trust_code)

    note("fitting a graph prior on validation rows")
    if folder.finished:
        from rearec.training.prior_of_run import add_prior

        fitted = add_prior(folder, model, dataset, exclude_seen=exclude, batch_rows=batch_size)
    else:
        from rearec.training import fit_prior

        fitted = fit_prior(model, dataset, exclude_seen=exclude, batch_rows=batch_size)
        if fitted is not None:
            fitted.save(file)
        else:
            file.unlink(missing_ok=True)
    answer = {"run": str(run), "seen": "excluded" if exclude else "kept", **_numbers(fitted)}
    emit(answer, common.as_json, lambda console: _render(console, answer, file))


def _opened(
    folder: RunFolder, data: Path | None, exclude_seen: bool | None, device: Any, trust_code: bool
) -> tuple[ReaRec, SequenceDataset, bool]:
    """The model without a prior, its dataset, and whether seen items are left out."""
    is_run = folder.options_file.is_file()
    if is_run:
        folder.check_finished()
        if folder.options().get("refit_of") is not None:
            raise UserError(
                f"{folder.path}: a refit, no row is left to fit a prior on; fit one for the run that it was made from, "
                "then refit that again"
            )
        data = data or folder.dataset_path("--data")
    elif data is None:
        raise UserError(f"{folder.path}: no RUN folder, it does not say what it was trained on; give it with --data")

    from rearec.data import load_dataset
    from rearec.evaluation import seen_items
    from rearec.reasoning import ReaRec

    dataset = load_dataset(data)
    if not len(dataset.rows("valid")):
        raise UserError(f"{data}: the dataset has no valid rows to fit a prior on")
    if is_run:
        folder.check_fingerprint(dataset.fingerprint, data)
        model = open_model(folder, device, trust_code, prior=False)
        return model, dataset, seen_of_run(folder, dataset, exclude_seen).exclude
    seen = seen_items(dataset, exclude_seen)
    note(str(seen))
    model = ReaRec.from_pretrained(folder.path, map_location=device, trust_code=trust_code, prior=False)
    return model, dataset, seen.exclude


def _numbers(fitted: GraphPrior | None) -> dict[str, Any]:
    """What the fit found, as json takes it."""
    if fitted is None:
        return {"prior": "none"}
    return {"prior": "graph", **fitted.fit, "settings": asdict(fitted.settings), "graph": asdict(fitted.graph.options)}


def _render(console: Terminal, answer: dict[str, Any], file: Path) -> None:
    if answer["prior"] == "none":
        console.print("no graph prior: none that was tried made NDCG@20 on validation better")
        return
    found, without = number(answer["valid"]), number(answer["valid_without"])
    console.print(f"NDCG@20 on {answer['rows']:,} validation rows: {found}, without it {without}")
    chosen = {**answer["settings"], **{name: answer["graph"][name] for name in ("window", "shrinkage")}}
    console.print(", ".join(f"{name} {value:g}" for name, value in chosen.items()))
    console.print(f"written to {file}")
