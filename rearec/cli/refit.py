"""``rearec refit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rearec.cli.command import Common, Force, command
from rearec.cli.config_file import ConfigFile, PrintConfig, print_options
from rearec.cli.finished_run import TrustCode, check_code_to_resume
from rearec.cli.output import emit, note
from rearec.cli.processes import Devices, Nodes, Timeout, joined_processes, start_processes
from rearec.cli.training_progress import TrainingProgress

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(refit)


@command(shared=True)
def refit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The finished run whose settings were chosen.")],
    out: Annotated[Path, typer.Option(metavar="RUN2", help="Folder for the final model.")],
    rows: Annotated[
        Literal["all"], typer.Option("--on", help="Rows to train on: those of training, validation and test.")
    ] = "all",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many.", show_default="as the run's best epoch")] = None,
    trust_code: TrustCode = False,
    force: Force = False,
    devices: Devices = 1,
    nodes: Nodes = 1,
    timeout: Timeout = 600.0,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    common: Common = Common(),
) -> None:
    """Train the model to put to use: a run's settings and seed, on every interaction.

    It is trained for as many epochs as the run's best epoch had behind it, without validation: nothing is held back, so
    there are no metrics of it, and 'rearec evaluate' refuses it.
    """
    if print_config:
        paths = {"run": str(run), "out": str(out), "data": None if data is None else str(data)}
        print_options({**paths, "on": rows, "epochs": epochs}, common.as_json)
        return
    start_processes(devices, nodes, "auto", timeout)
    from rearec.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_finished()
    folder.check_held_out()
    check_code_to_resume(folder, set(), trust_code)
    data = data or folder.dataset_path("--data")

    from rearec.training import refit as train_on_all
    from rearec.training.resuming import settings_of_run

    settings = settings_of_run(folder)
    with (
        joined_processes(common.device, timeout) as device,
        TrainingProgress(settings[0], lambda: [f"{_rows(out):,} rows: every interaction with a history"]) as progress,
    ):
        result = train_on_all(
            run,
            out,
            data=data,
            epochs=epochs,
            trust_code=trust_code,
            device=device,
            force=force,
            on_epoch=progress.on_epoch,
            on_batch=progress.on_batch,
        )
    note("no metrics: every interaction was trained on; those of the chosen run are in result.json")
    answer = {"run": str(out), "method": settings[0].method, "steps": settings[0].steps, **result}
    emit(
        answer,
        common.as_json,
        lambda console: console.print(
            f"{result['epochs']} epoch{'' if result['epochs'] == 1 else 's'} on every interaction; written to {out}"
        ),
    )


def _rows(out: Path) -> int:
    from rearec.run_folder import RunFolder

    return int(RunFolder(out).options()["refit_of"]["rows"])
