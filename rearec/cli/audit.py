"""``rearec audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.finished_run import TrustCode, check_code
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import compute_device
from rearec.files import check_folder, check_free

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.experiments.audit_result import Audit

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(audit)


@command(uses=["device", "threads"])
def audit(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The prepared dataset.")],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Folder for the page, its csv files and its figures.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Finished trainings on it, any number.")
    ] = None,
    split: Annotated[Literal["test", "valid"], typer.Option(help="The part of the data to predict.")] = "test",
    exclude_seen: ExcludeSeen = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Predictions at a time.")] = 512,
    trust_code: TrustCode = False,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Look into a benchmark: floors and runs on the same rows, and what these rows ask for.

    Every contender is compared with the floor that is best on the validation rows. The page says how much of the test
    a rule explains that looks at the last item alone, how many rows repeat their history or ask for unseen items, and
    how much of the training part is later in time than the test.
    """
    check_folder(out)
    check_free(out / "audit.md", replace=force)
    from rearec.run_folder import RunFolder

    for run in runs or ():
        folder = RunFolder(run)
        folder.check_finished()
        check_code(folder, trust_code)

    from rearec.experiments.audit import audit as audit_benchmark

    with progress_bar(f"ranking {split} rows") as progress:
        result = audit_benchmark(
            data,
            runs or (),
            split=split,
            exclude_seen=exclude_seen,
            batch_rows=batch_size,
            trust_code=trust_code,
            device=compute_device(common.device),
            progress=progress,
        )
    note(str(result.seen))
    files = result.save(out, force=force)
    answer = {**result.to_dict(), "files": [str(path) for path in files]}
    emit(answer, common.as_json, lambda console: _render(console, result, files))


def _render(console: Terminal, result: Audit, files: list[Path]) -> None:
    from rearec.experiments.comparison_result import CHANCE, short_lines

    console.paragraphs(result.title)
    console.print("")
    for line in short_lines(result.table, result.main):
        console.print(line)
    console.print(f"no *: {CHANCE} (the interval holds 0)")
    console.print("")
    for share in result.shares.values():
        console.paragraphs(f"{share.percent:>7}  {share.words}")
    console.print("")
    console.paragraphs(f"training later than the test: {'; '.join(result.later)}")
    for file in files:
        console.print(f"written: {file}")
