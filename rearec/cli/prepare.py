"""``rearec prepare``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.options import completing, options_of, with_options
from rearec.cli.output import emit, metric_table, note
from rearec.data.readers.formats import FORMATS, SOURCE_FORMATS, check_format
from rearec.data.readers.options import PrepareOptions

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(prepare)


@with_options(options=options_of(PrepareOptions))
@command(uses=("threads",))
def prepare(
    source_format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help=" ".join(f"{name}: {SOURCE_FORMATS[name].help}" for name in FORMATS),
            autocompletion=completing(FORMATS),
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the prepared dataset.")],
    options: dict[str, Any],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Files (also .gz, .bz2, .zst, .zip), folders, patterns; train, valid and test where split already.",
        ),
    ] = None,
    exclude_seen: ExcludeSeen = None,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Turn interactions into a prepared dataset: ids are opaque tokens, nothing is filtered unless asked.

    The paper's datasets: 'prepare amazon2023 Software.jsonl meta_Software.jsonl --preset software', the same with
    the three 5-core csv files instead of the reviews, and 'prepare yelp' with the review and the business file.

    Ends with the statistics of Table 1 of the paper, the floors to beat (popularity, a first-order Markov chain, items
    of the same users and pairwise rules, on the rows and with the metrics of 'rearec evaluate'), and what was found on
    the way: the split and why, what orders the events, the columns that were not used, and what looks wrong; before it
    what each filter removed.

    More than the memory holds: --memory-limit 4GB, with folders of parquet or csv; results are the same, the floors
    may be those of some users, and say so.
    """
    check_format(source_format)
    from rearec.data import prepare as prepare_dataset
    from rearec.data.preparation.presets import UnexpectedCounts
    from rearec.evaluation.measured import floor_metrics, floor_sample
    from rearec.evaluation.seen import seen_items

    chosen = PrepareOptions(**options)
    try:
        dataset = prepare_dataset(source_format, sources or [], out, chosen, force=force, progress=note)
    except UnexpectedCounts as error:
        for line in error.differences:
            note(line)
        raise
    seen = seen_items(dataset, exclude_seen)
    note(str(seen))
    measured, of_users = floor_sample(dataset, chosen.memory)
    result = {
        "dataset": str(out),
        "statistics": dataset.statistics,
        "seen": seen.name,
        **floor_metrics(measured, "test", exclude_seen=seen.exclude),
        **({"floors": of_users} if of_users else {}),
        "findings": dataset.source["findings"],
        "removed": dataset.source["removed"],
        "notes": dataset.source["notes"],
        "next": f"rearec train {shlex.quote(str(out))} --out run --method prl",
    }
    emit(result, common.as_json, lambda console: _render(console, result))


def _render(console: Terminal, result: dict[str, Any]) -> None:
    from rich.table import Table

    from rearec.report.floors import floors_of

    table = Table(title="Statistics", title_justify="left", show_header=False, box=None)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in result["statistics"].items():
        form = ".4%" if name == "density" else ",.2f" if isinstance(value, float) else ","
        table.add_row(name.replace("_", " "), format(value, form))
    console.print(table)
    floors = floors_of(result)
    of_users = f" {result['floors']}" if "floors" in result else ""
    console.print(metric_table(f"Floors on the test rows{of_users}, full catalogue", floors, seen=result["seen"]))
    findings = (f"{name}: {text}" for name, text in result["findings"].items())
    for line in (f"written to {result['dataset']}", *result["notes"], *findings, f"next: {result['next']}"):
        console.print(line)
