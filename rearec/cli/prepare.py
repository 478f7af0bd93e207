"""``rearec prepare``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.common import (
    Debug,
    Device,
    ExcludeSeen,
    Force,
    Json,
    Seed,
    Threads,
    command,
    emit,
    metric_table,
    note,
    set_threads,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rearec.evaluation.seen import SeenName

__all__ = ["register"]


# As enumerations the command line knows the choices without importing the readers, which check them again.
class Format(str, Enum):
    amazon2023 = "amazon2023"
    json = "json"
    lines = "lines"
    recbole = "recbole"
    sasrec = "sasrec"
    table = "table"
    yelp = "yelp"


class Preset(str, Enum):
    baby = "baby"
    cds = "cds"
    software = "software"
    video_games = "video-games"
    yelp = "yelp"


class Split(str, Enum):
    leave_one_out = "leave-one-out"
    timestamp = "timestamp"
    time_span = "time-span"
    given = "given"


class Duplicates(str, Enum):
    keep = "keep"
    first = "first"
    error = "error"


class MissingTitles(str, Enum):
    error = "error"
    keep = "keep"
    drop = "drop"
    drop_null = "drop-null"


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
            help="amazon2023: raw and meta jsonl, or 5-core csv. json: items by user. lines: a user per line. "
            "recbole: typed headers. sasrec: 'user item' lines. table: csv, parquet or jsonl. "
            "yelp: review and business json, with the filters of the paper unless said otherwise.",
        ),
    ],
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files (.gz too); train, valid, test where split already.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the prepared dataset.")],
    preset: Annotated[
        Preset | None,
        typer.Option(help="amazon2023: filters and split of the paper; single options override.", show_default=False),
    ] = None,
    expect: Annotated[
        bool, typer.Option("--expect", help="Fail unless the counts are the published ones of the preset.")
    ] = False,
    split: Annotated[
        Split | None,
        typer.Option(show_default="given for three files, else leave-one-out", rich_help_panel=SPLIT),
    ] = None,
    valid_from: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="timestamp: first time of validation; time-span: share before it.",
            rich_help_panel=SPLIT,
        ),
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(metavar="TIME", help="The same of the test.", rich_help_panel=SPLIT)
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="Drop interactions rated lower.", rich_help_panel=INTERACTIONS)
    ] = None,
    duplicates: Annotated[
        Duplicates | None,
        typer.Option(help="Repeated (user, item) pairs.", show_default="keep", rich_help_panel=INTERACTIONS),
    ] = None,
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
        int | None,
        typer.Option(min=0, help="Drop train rows with a shorter history.", show_default="0", rich_help_panel=ROWS),
    ] = None,
    min_eval_history: Annotated[
        int | None,
        typer.Option(
            min=0, help="Drop valid and test rows with a shorter history.", show_default="0", rich_help_panel=ROWS
        ),
    ] = None,
    known_items: Annotated[
        bool | None,
        typer.Option(
            "--known-items/--all-items",
            help="Drop valid and test rows with items not in train.",
            show_default="all-items",
            rich_help_panel=ROWS,
        ),
    ] = None,
    user_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    item_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    rating_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    timestamp_column: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS)] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="table: between fields.", rich_help_panel=COLUMNS)
    ] = None,
    titles: Annotated[Path | None, typer.Option(metavar="FILE", help="Item titles.", rich_help_panel=COLUMNS)] = None,
    title_column: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="title; yelp: name", rich_help_panel=COLUMNS)
    ] = None,
    missing_titles: Annotated[
        MissingTitles | None,
        typer.Option(help="Items without a title.", show_default="error", rich_help_panel=COLUMNS),
    ] = None,
    exclude_seen: ExcludeSeen = None,
    force: Force = False,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Turn interactions into a prepared dataset: ids are opaque tokens, nothing is filtered unless asked.

    The paper's datasets: 'prepare amazon2023 Software.jsonl.gz meta_Software.jsonl.gz --preset software', the same with
    the three 5-core csv files instead of the reviews, and 'prepare yelp' with the review and the business file.

    Ends with the statistics of Table 1 of the paper and the floors to beat: popularity and a first-order Markov chain,
    on the rows and with the metrics of 'rearec evaluate'.
    """
    set_threads(threads)
    from rearec.data import prepare as prepare_dataset
    from rearec.data.presets import UnexpectedCounts
    from rearec.evaluation.floors import baseline_ranks
    from rearec.evaluation.metrics import rank_metrics
    from rearec.evaluation.seen import seen_items

    options: dict[str, Any] = dict(
        preset=preset and preset.value,
        expect=expect,
        split=split and split.value,
        valid_from=valid_from,
        test_from=test_from,
        min_rating=min_rating,
        duplicates=duplicates and duplicates.value,
        core=core,
        user_core=user_core,
        item_core=item_core,
        min_target_rating=min_target_rating,
        min_train_history=min_train_history,
        min_eval_history=min_eval_history,
        known_items=known_items,
        titles=titles,
        title_column=title_column,
        missing_titles=missing_titles and missing_titles.value,
        user_column=user_column,
        item_column=item_column,
        rating_column=rating_column,
        timestamp_column=timestamp_column,
        separator=separator,
        force=force,
        progress=note,
    )
    try:
        dataset = prepare_dataset(source_format.value, sources, out, **options)
    except UnexpectedCounts as error:
        for line in error.differences:
            note(line)
        raise
    seen = seen_items(dataset, exclude_seen)
    note(str(seen))
    ranks = baseline_ranks(dataset, "test", exclude_seen=seen.exclude)
    floors = {name: rank_metrics(of_floor) for name, of_floor in ranks.items()}
    result = {"dataset": str(out), "statistics": dataset.statistics, "seen": seen.name, **floors}
    emit(result, as_json, lambda console: _render(console, out, dataset.statistics, floors, seen.name))


def _render(console: Console, out: Path, statistics: dict[str, Any], floors: dict[str, Any], seen: SeenName) -> None:
    from rich.table import Table

    table = Table(title="Statistics", title_justify="left", show_header=False, box=None)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in statistics.items():
        form = ".4%" if name == "density" else ",.2f" if isinstance(value, float) else ","
        table.add_row(name.replace("_", " "), format(value, form))
    console.print(table)
    console.print(metric_table("Floors on the test rows, full catalogue", floors, seen=seen))
    console.print(f"written to {out}", highlight=False)
