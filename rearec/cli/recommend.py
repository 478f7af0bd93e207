"""``rearec recommend``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, Force, command
from rearec.cli.finished_run import check_steps
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import compute_device
from rearec.data.tables.files import read_lines
from rearec.data.tables.json_text import parse_json
from rearec.errors import UserError
from rearec.files import open_aside

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.inference import Recommendation, Recommender

__all__ = ["register"]

CHUNK = 4096


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(recommend)


@command(uses=("device", "threads"))
def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    items: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="A history: ids as in the source, oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per answer.")] = 10,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="Leave out the items of the history.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Reasoning steps, at most the trained number.", show_default="as trained")
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help='Histories, one per line: a list of ids, or {"history": [...]}.'),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where the answers to --input go, one json per line."),
    ] = None,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Recommend items for one history, or for a file of histories.

    Unknown ids are skipped and reported; a history without a known id is answered by the most popular items. Each line
    of --input is a json list of ids, or an object with "history" (such a list) and whatever else is to be kept beside
    the answer. Each line of --output is that object with "items", "scores", "unknown" and "source" (model or
    popularity).
    """
    if (input_file is None) != (output_file is None):
        raise UserError("--input and --output belong together: give both or none")
    if items and input_file is not None:
        raise UserError("give a history as arguments or a file with --input, not both")
    from rearec.run_folder import RunFolder

    RunFolder(run).check_finished()
    requests = None
    if input_file is not None and output_file is not None:
        _check_output(output_file, input_file, force)
        requests = read_requests(input_file)

    from rearec.inference import Recommender

    recommender = Recommender(run, device=compute_device(common.device))
    check_steps(steps, recommender.model.config.steps)
    if requests is None:
        answer = recommender.recommend([items or []], k, exclude_seen=exclude_seen, steps=steps)[0]
        emit({"history": items or [], **asdict(answer)}, common.as_json, lambda console: _render(console, answer))
        return
    assert output_file is not None
    summary = _answer_file(recommender, requests, output_file, k, exclude_seen, steps)
    emit(summary, common.as_json, lambda console: console.print(_in_words(summary)))


def _check_output(output: Path, source: Path, force: bool) -> None:
    """UserError where the answers may not or cannot be written, before anything is computed."""
    if not output.parent.is_dir():
        raise UserError(f"{output}: cannot be written: there is no folder {output.parent}")
    if output.is_dir():
        raise UserError(f"{output}: is a folder; --output is a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: --output is the file of --input; choose another one")
    if output.exists() and not force:
        raise UserError(f"{output}: exists already; --force replaces it")


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of histories, as objects with "history"; UserError names the line that is wrong."""
    requests = []
    for row, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        value = parse_json(path, line, row)
        request = {"history": value} if isinstance(value, list) else value
        history = request.get("history") if isinstance(request, dict) else None
        if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
            raise UserError(f'{path}: row {row}: expected a list of ids (strings), or {{"history": [...]}}')
        try:
            _line(request).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{path}: row {row}: holds half of a surrogate pair, which is no text") from None
        except ValueError:
            raise UserError(f"{path}: row {row}: holds NaN or infinity, which json does not have") from None
        requests.append(request)
    if not requests:
        raise UserError(f"{path}: holds no history")
    return requests


def _answer_file(
    recommender: Recommender,
    requests: list[dict[str, Any]],
    output: Path,
    k: int,
    exclude_seen: bool,
    steps: int | None,
) -> dict[str, Any]:
    """Write the answers aside, then rename the file; returns how many there were of which kind."""
    counts = {"model": 0, "popularity": 0}
    unknown = 0
    with progress_bar("recommending") as progress, open_aside(output) as file:
        for begin in range(0, len(requests), CHUNK):
            chunk = requests[begin : begin + CHUNK]
            histories = [request["history"] for request in chunk]
            answers = recommender.recommend(histories, k, exclude_seen=exclude_seen, steps=steps)
            for request, answer in zip(chunk, answers, strict=True):
                file.write(_line({**request, **asdict(answer)}))
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


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _in_words(summary: dict[str, Any]) -> str:
    return (
        f"{summary['histories']:,} histories answered, {summary['by_popularity']:,} of them by popularity for want "
        f"of a known item; {summary['unknown_items']:,} unknown items skipped; written to {summary['output']}"
    )


def _render(console: Terminal, answer: Recommendation) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if answer.unknown:
        note(f"skipped, not in the catalogue: {' '.join(answer.unknown)}")
    if answer.source == "popularity":
        note("no known item in the history: these are the most popular items")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("item", overflow="fold")
    table.add_column("score" if answer.source == "model" else "training count", justify="right")
    for place, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1):
        table.add_row(str(place), item, f"{score:.4f}" if answer.source == "model" else f"{score:.0f}")
    console.print(table)
