"""``rearec recommend``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.common import Debug, Device, Force, Json, Seed, Threads, command, device_of, emit, note, set_threads
from rearec.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from rearec.inference import Recommendation, Recommender

__all__ = ["register"]

CHUNK = 4096


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(recommend)


@command
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
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    debug: Debug = False,
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
    set_threads(threads)
    from rearec.run_folder import RunFolder

    RunFolder(run).check_finished()
    requests = None
    if input_file is not None and output_file is not None:
        if output_file.exists() and not force:
            raise UserError(f"{output_file}: exists already; --force replaces it")
        requests = read_requests(input_file)

    from rearec.inference import Recommender

    recommender = Recommender(run, device=device_of(device))
    trained = recommender.model.config.steps
    if steps is not None and steps > trained:
        raise UserError(f"--steps: got {steps}, expected 0..{trained}: the model was trained for {trained} steps")
    if requests is None:
        answer = recommender.recommend([items or []], k, exclude_seen=exclude_seen, steps=steps)[0]
        emit({"history": items or [], **asdict(answer)}, as_json, lambda console: _render(console, answer))
        return
    assert output_file is not None
    summary = _answer_file(recommender, requests, output_file, k, exclude_seen, steps)
    emit(summary, as_json, lambda console: console.print(_in_words(summary), highlight=False))


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of histories, as objects with "history"; UserError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    requests = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not json ({error})") from error
        request = {"history": value} if isinstance(value, list) else value
        history = request.get("history") if isinstance(request, dict) else None
        if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
            raise UserError(f'{path}, line {number}: expected a list of ids (strings), or {{"history": [...]}}')
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
    from rearec.cli.common import progress_bar

    partial = output.with_name(f".{output.name}.partial")
    counts = {"model": 0, "popularity": 0}
    unknown = 0
    try:
        with progress_bar("recommending") as progress, partial.open("w", encoding="utf-8") as file:
            for begin in range(0, len(requests), CHUNK):
                chunk = requests[begin : begin + CHUNK]
                histories = [request["history"] for request in chunk]
                answers = recommender.recommend(histories, k, exclude_seen=exclude_seen, steps=steps)
                for request, answer in zip(chunk, answers, strict=True):
                    file.write(json.dumps({**request, **asdict(answer)}, ensure_ascii=False) + "\n")
                    counts[answer.source] += 1
                    unknown += len(answer.unknown)
                progress(begin + len(chunk), len(requests))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
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


def _render(console: Console, answer: Recommendation) -> None:
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
