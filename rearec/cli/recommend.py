"""``rearec recommend``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rearec.cli.answer_files import (
    answer_writer,
    as_record,
    check_output,
    is_in_parts,
    read_id_file,
    read_requests,
)
from rearec.cli.command import Common, Force, command
from rearec.cli.finished_run import OfStates, TrustCode, check_code, check_steps
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import compute_device
from rearec.cli.processes import PANEL, Devices, Nodes, Timeout, joined_processes, start_processes
from rearec.errors import UserError
from rearec.inference.ray_parts import check_ray

if TYPE_CHECKING:
    import torch

    from rearec.cli.terminal import Terminal
    from rearec.facade import FittedModel
    from rearec.inference import Recommendation

__all__ = ["register"]

CHUNK = 4096


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(recommend)


@command(uses=("device", "threads"), shared=True)
def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    items: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="A history: ids as in the source, oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per answer.")] = 10,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", metavar="ID", help="A user of the dataset, in place of a history; may be repeated."),
    ] = None,
    users: Annotated[
        str | None,
        typer.Option(
            "--users", metavar="all|FILE", help="All users of the dataset, or those of a file, one id per line."
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE|DIR",
            help='Histories, one per line: a list of ids, or {"history": [...]}. Or parquet with a column "history": a '
            "file, a folder, a pattern.",
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE|DIR",
            help="Where the answers go: .csv, .parquet, or else one json per line; for parquet a folder.",
        ),
    ] = None,
    allow: Annotated[
        Path | None, typer.Option("--allow", metavar="FILE", help="The only items to recommend, one id per line.")
    ] = None,
    deny: Annotated[
        Path | None, typer.Option("--deny", metavar="FILE", help="Items not to recommend, one id per line.")
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--keep-seen",
            help="Leave out the items of the history, or recommend them too.",
            show_default="as the run was trained",
        ),
    ] = None,
    titles: Annotated[
        bool, typer.Option("--titles/--no-titles", help="With the items' titles, where the dataset had some.")
    ] = True,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Reasoning steps, at most the trained number.", show_default="as trained")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The prepared dataset, for --user and --users.", show_default="where it was trained on"
        ),
    ] = None,
    precision: OfStates = "fp32",
    trust_code: TrustCode = False,
    force: Force = False,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(
            help="Who answers parquet: processes, or as many actors of Ray Data, on the cluster of RAY_ADDRESS.",
            rich_help_panel=PANEL,
        ),
    ] = "processes",
    devices: Devices = 1,
    nodes: Nodes = 1,
    timeout: Timeout = 600.0,
    common: Common = Common(),
) -> None:
    """Recommend items for a history, for a file of histories, or for users of the dataset.

    Unknown ids are skipped and reported; a history without a known id is answered by the most popular items. Of a user,
    all that the dataset knows is the history, validation and test items included. Each line of --input is a json list
    of ids, or an object with "history" (such a list) and whatever else is to be kept beside the answer. Each line of
    --output is that object, or one with "user", with "items", "scores", "unknown", "source" (model or popularity),
    "prior" (whether the item graph took part) and "titles".

    Parquet is answered part by part into a folder, a file for each with its other columns; the same command goes on
    where it was ended.
    """
    given = {"a history": bool(items), "--user": bool(user), "--users": users is not None, "--input": bool(input_file)}
    several = [name for name, is_there in given.items() if is_there]
    if len(several) > 1:
        raise UserError(f"give one of a history, --user, --users and --input, not {' and '.join(several)}")
    if (input_file is not None or users is not None) and output_file is None:
        raise UserError(f"{several[0]} writes its answers to a file: say which with --output")
    if output_file is not None and (items or not several):
        raise UserError("--output is for the answers to --input, --users or --user")
    in_parts = input_file is not None and is_in_parts(input_file)
    if not in_parts and (devices > 1 or nodes > 1 or engine == "ray"):
        raise UserError("--devices, --nodes and --engine are for parquet files of --input, which processes share")
    if engine == "ray":
        check_ray()
    elif in_parts:
        start_processes(devices, nodes, "auto", timeout)
    from rearec.run_folder import RunFolder

    folder = RunFolder(run)
    folder.check_finished()
    check_code(folder, trust_code)
    if output_file is not None and not in_parts:
        check_output(output_file, input_file, force)
    requests = read_requests(input_file) if input_file is not None and not in_parts else None
    asked = user or (read_id_file(Path(users)) if users not in (None, "all") else None)

    from rearec.inference.ids import few

    def opened(device: torch.device) -> tuple[FittedModel, dict[str, Any], bool]:
        """The model, how it is to be asked, and whether titles are wanted and there."""
        from rearec.facade import load

        model = load(run, data, trust_code=trust_code, device=device, precision=precision)
        check_steps(steps, model.config.steps)
        if exclude_seen is None and model.excludes_seen:
            note("items of the history are left out, as the run was trained; --keep-seen recommends them too")
        options = {
            "k": k,
            "steps": steps,
            "exclude_seen": model.excludes_seen if exclude_seen is None else exclude_seen,
            "allow": _known_ids(model, allow, "--allow"),
            "deny": _known_ids(model, deny, "--deny"),
        }
        return model, options, titles and model.catalog.titles is not None

    if in_parts:
        from rearec.cli.recommend_parts import answer_parts
        from rearec.distributed import agreed

        assert input_file is not None and output_file is not None
        with joined_processes(common.device, timeout) as device:
            with agreed():
                model, options, titles = opened(device)
            summary = answer_parts(
                model, folder, input_file, output_file, options, titles=titles, force=force,
                precision=precision, actors=devices if engine == "ray" else 0, trust_code=trust_code,
            )  # fmt: skip
        emit(summary, common.as_json, lambda console: console.print(_in_words(summary)))
        return
    model, options, titles = opened(compute_device(common.device))
    if asked is not None or users is not None:
        known = dict.fromkeys(model.dataset.user_ids)
        requests = [{"user": each} for each in (known if asked is None else asked)]
        if missing := [request["user"] for request in requests if request["user"] not in known]:
            raise UserError(f"not users of the dataset: {few(missing)}")
    if output_file is not None:
        assert requests is not None
        summary = _answer_file(model, requests, output_file, titles, options)
        emit(summary, common.as_json, lambda console: console.print(_in_words(summary)))
        return
    shown = requests or [{"history": items or []}]
    answers = _answers(model, shown, options)
    records = [{**request, **as_record(answer, titles)} for request, answer in zip(shown, answers, strict=True)]
    emit(
        {"answers": records} if requests else records[0],
        common.as_json,
        lambda console: _render(console, shown, answers, titles),
    )


def _known_ids(model: FittedModel, path: Path | None, option: str) -> list[str] | None:
    """The known ids of a file of items; tells the user of the others. UserError where there are only such."""
    if path is None:
        return None
    from rearec.inference.ids import few

    ids = read_id_file(path)
    known = set(model.catalog.item_ids)
    unknown = [item for item in ids if item not in known]
    if len(unknown) == len(ids):
        raise UserError(f"{path}: no item of {option} is in the catalogue ({few(unknown)})")
    if unknown:
        note(f"{option}: skipped, not in the catalogue: {few(unknown)}")
    return [item for item in ids if item in known]


def _answers(
    model: FittedModel, requests: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> list[Recommendation]:
    """To requests that all have a history, or else all a user."""
    histories = [
        request["history"] if "history" in request else model.known_history(request["user"]) for request in requests
    ]
    return model.recommend(histories, **options)


def _answer_file(
    model: FittedModel, requests: Sequence[dict[str, Any]], output: Path, titles: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the answers aside, then rename the file; returns how many there were of which kind."""
    counts = {"model": 0, "popularity": 0}
    unknown = 0
    have_users = all("user" in request for request in requests)
    with progress_bar("recommending") as progress, answer_writer(output, titles=titles, users=have_users) as write:
        for begin in range(0, len(requests), CHUNK):
            chunk = requests[begin : begin + CHUNK]
            answers = _answers(model, chunk, options)
            write(chunk, answers)
            for answer in answers:
                counts[answer.source] += 1
                unknown += len(answer.unknown)
            progress(begin + len(chunk), len(requests))
    return {
        "output": str(output),
        "histories": len(requests),
        "by_model": counts["model"],
        "by_popularity": counts["popularity"],
        "unknown_items": unknown,
    }


def _in_words(summary: dict[str, Any]) -> str:
    return (
        f"{summary['histories']:,} histories answered, {summary['by_popularity']:,} of them by popularity for want "
        f"of a known item; {summary['unknown_items']:,} unknown items skipped; written to {summary['output']}"
    )


def _render(
    console: Terminal, requests: Sequence[Mapping[str, Any]], answers: Sequence[Recommendation], titles: bool
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for request, answer in zip(requests, answers, strict=True):
        if answer.unknown:
            note(f"skipped, not in the catalogue: {' '.join(answer.unknown)}")
        if answer.source == "popularity":
            note("no known item in the history: these are the most popular items")
        if not answer.items:
            note("no item is left to recommend: look at --allow, --deny and --exclude-seen")
        table = Table(
            title=f"user {request['user']}" if "user" in request else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("", justify="right")
        table.add_column("item", overflow="fold")
        if titles:
            table.add_column("title", overflow="fold")
        table.add_column("score" if answer.source == "model" else "training count", justify="right")
        named = answer.titles or [None] * len(answer.items)
        for place, (item, title, score) in enumerate(zip(answer.items, named, answer.scores, strict=True), 1):
            number = f"{score:.4f}" if answer.source == "model" else f"{score:.0f}"
            table.add_row(str(place), item, *([title or ""] if titles else []), number)
        console.print(table)
