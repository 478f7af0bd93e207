"""``rearec prepare``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.common import Debug, Device, Force, Json, Seed, Threads, command, emit, metric_table, note, set_threads

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]


# As enumerations the command line knows the choices without importing the readers, which check them again.
class Format(str, Enum):
    amazon2023 = "amazon2023"
    json = "json"
    lines = "lines"
    recbole = "recbole"
    sasrec = "sasrec"
    table = "table"


class Split(str, Enum):
    leave_one_out = "leave-one-out"
    timestamp = "timestamp"
    given = "given"


class Duplicates(str, Enum):
    keep = "keep"
    first = "first"
    error = "error"


class MissingTitles(str, Enum):
    error = "error"
    keep = "keep"
    drop = "drop"


SPLIT, INTERACTIONS, ROWS, COLUMNS = "Split", "Filters on interactions", "Filters on rows", "Columns and titles"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(prepare)


@command
def prepare(
    source_format: Annotated[
        Format,
        typer.Argument(
            metavar="FORMAT",
            help="amazon2023: 5-core csv. json: items by user. lines: a user per line. recbole: typed headers. "
            "sasrec: 'user item' lines. table: csv, parquet or jsonl.",
        ),
    ],
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files (.gz too); train, valid, test where split already.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the prepared dataset.")],
    split: Annotated[
        Split | None,
        typer.Option(show_default="given for three files, else leave-one-out", rich_help_panel=SPLIT),
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option(metavar="TIME", help="timestamp: first time of validation.", rich_help_panel=SPLIT)
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(metavar="TIME", help="timestamp: first time of test.", rich_help_panel=SPLIT)
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="Drop interactions rated lower.", rich_help_panel=INTERACTIONS)
    ] = None,
    duplicates: Annotated[
        Duplicates, typer.Option(help="Repeated (user, item) pairs.", rich_help_panel=INTERACTIONS)
    ] = Duplicates.keep,
    core: Annotated[
        int | None,
        typer.Option(min=1, help="Drop users and items with fewer, until none is left.", rich_help_panel=INTERACTIONS),
    ] = None,
    user_core: Annotated[
        int | None, typer.Option(min=1, help="The core of users alone.", rich_help_panel=INTERACTIONS)
    ] = None,
    item_core: Annotated[
        int | None, typer.Option(min=1, help="The core of items alone.", rich_help_panel=INTERACTIONS)
    ] = None,
    min_target_rating: Annotated[
        float | None, typer.Option(help="Drop rows whose target is rated lower.", rich_help_panel=ROWS)
    ] = None,
    min_train_history: Annotated[
        int, typer.Option(min=0, help="Drop train rows with a shorter history.", rich_help_panel=ROWS)
    ] = 0,
    min_eval_history: Annotated[
        int, typer.Option(min=0, help="Drop valid and test rows with a shorter history.", rich_help_panel=ROWS)
    ] = 0,
    known_items: Annotated[
        bool,
        typer.Option("--known-items", help="Drop valid and test rows with items not in train.", rich_help_panel=ROWS),
    ] = False,
    user_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    item_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    rating_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    timestamp_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="table: between fields.", rich_help_panel=COLUMNS)
    ] = None,
    titles: Annotated[Path | None, typer.Option(metavar="FILE", help="Item titles.", rich_help_panel=COLUMNS)] = None,
    title_column: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = "title",
    missing_titles: Annotated[
        MissingTitles, typer.Option(help="Items without a title.", rich_help_panel=COLUMNS)
    ] = MissingTitles.error,
    force: Force = False,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Turn interactions into a prepared dataset: ids are opaque tokens, nothing is filtered unless asked.

    Ends with the statistics of Table 1 of the paper and the floors to beat: popularity and a first-order Markov chain,
    on the rows and with the metrics of 'rearec evaluate'.
    """
    set_threads(threads)
    from rearec.baselines import baseline_ranks
    from rearec.data import prepare as prepare_dataset
    from rearec.metrics import rank_metrics

    dataset = prepare_dataset(
        source_format.value,
        sources,
        out,
        split=split and split.value,
        valid_from=valid_from,
        test_from=test_from,
        min_rating=min_rating,
        duplicates=duplicates.value,
        core=core,
        user_core=user_core,
        item_core=item_core,
        min_target_rating=min_target_rating,
        min_train_history=min_train_history,
        min_eval_history=min_eval_history,
        known_items=known_items,
        titles=titles,
        title_column=title_column,
        missing_titles=missing_titles.value,
        user_column=user_column,
        item_column=item_column,
        rating_column=rating_column,
        timestamp_column=timestamp_column,
        separator=separator,
        force=force,
        progress=note,
    )
    floors = {name: rank_metrics(ranks) for name, ranks in baseline_ranks(dataset, "test").items()}
    result = {"dataset": str(out), "statistics": dataset.statistics, **floors}
    emit(result, as_json, lambda console: _render(console, out, dataset.statistics, floors))


def _render(console: Console, out: Path, statistics: dict[str, Any], floors: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="Statistics", title_justify="left", show_header=False, box=None)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in statistics.items():
        form = ".4%" if name == "density" else ",.2f" if isinstance(value, float) else ","
        table.add_row(name.replace("_", " "), format(value, form))
    console.print(table)
    console.print(metric_table("Floors on the test rows, full catalogue, seen items not removed", floors))
    console.print(f"written to {out}", highlight=False)
